// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <chrono>
#include <utility>

#include "base/fail.h"
#include "nfloat/generate.h"

namespace nfloat {
namespace {

using Clock = std::chrono::steady_clock;

// Adds the time it lives to `seconds`.
class Stopwatch {
 public:
  explicit Stopwatch(double& seconds) noexcept : seconds_(seconds), start_(Clock::now()) {}
  ~Stopwatch() { seconds_ += std::chrono::duration<double>(Clock::now() - start_).count(); }
  Stopwatch(const Stopwatch&) = delete;
  Stopwatch& operator=(const Stopwatch&) = delete;

 private:
  double& seconds_;
  Clock::time_point start_;
};

std::vector<int32_t> checked(std::vector<int32_t> prompt, const TokenSequence& sequence) {
  if (prompt.empty()) fail(ErrorCode::kInvalidArgument, "the prompt is empty");
  if (static_cast<int64_t>(prompt.size()) > sequence.session().context())
    fail(ErrorCode::kInvalidArgument, "the prompt has {} tokens, more than the context of {}", prompt.size(),
         sequence.session().context());
  return prompt;
}

}  // namespace

int64_t TokenSequence::keep(std::span<const int32_t> tokens) {
  const auto same = std::mismatch(tokens_.begin(), tokens_.end(), tokens.begin(), tokens.end()).first;
  const auto most = std::max<int64_t>(static_cast<int64_t>(tokens.size()) - 1, 0);
  const int64_t kept = std::min<int64_t>(same - tokens_.begin(), most);
  session_.rewind(kept);
  tokens_.resize(static_cast<size_t>(kept));
  return kept;
}

std::span<const float> TokenSequence::append(std::span<const int32_t> tokens) {
  tokens_.reserve(tokens_.size() + tokens.size());
  const std::span<const float> logits = session_.prefill(tokens);
  tokens_.insert(tokens_.end(), tokens.begin(), tokens.end());
  return logits;
}

Generation::Generation(TokenSequence& sequence, const Tokenizer& tokenizer, Sampler& sampler,
                       std::vector<int32_t> prompt, const GenerationOptions& options)
    : sequence_(&sequence),
      prompt_(checked(std::move(prompt), sequence)),
      continuation_(tokenizer, sampler, prompt_, options) {}

std::span<const int32_t> Generation::generated() const noexcept {
  return std::span(continuation_.tokens()).subspan(prompt_.size());
}

// False: cancelled on the way.
bool Generation::read_prompt() {
  const Stopwatch watch(counts_.read_seconds);
  counts_.reused = sequence_->keep(prompt_);
  const std::span<const int32_t> all(prompt_);
  for (auto at = static_cast<size_t>(counts_.reused); at < all.size();) {
    const auto piece = all.subspan(at, std::min(static_cast<size_t>(piece_), all.size() - at));
    sequence_->append(piece);
    at += piece.size();
    counts_.read += static_cast<int64_t>(piece.size());
    if (cancelled_ && cancelled_()) return false;
  }
  return true;
}

std::optional<GeneratedToken> Generation::end(FinishReason reason) {
  GeneratedToken rest;
  rest.text = continuation_.finish(reason);
  const std::vector<int32_t>& tokens = continuation_.tokens();
  const bool behind = sequence_->tokens().size() < tokens.size();
  if (behind && reason == FinishReason::kTokenLimit && sequence_->room() == 0)
    reason = FinishReason::kContextFull;
  reason_ = reason;
  if (behind && take_in_last_ && sequence_->room() > 0 &&
      (reason == FinishReason::kTokenLimit || reason == FinishReason::kCancelled))
    sequence_->append({&tokens.back(), 1});
  if (rest.text.empty()) return std::nullopt;
  return rest;
}

std::optional<GeneratedToken> Generation::next() {
  if (reason_) return std::nullopt;
  if (!begun_) {
    begun_ = true;
    if (!read_prompt()) return end(FinishReason::kCancelled);
  }
  const Stopwatch watch(counts_.generate_seconds);
  if (const auto reason = continuation_.reason()) return end(*reason);
  const std::vector<int32_t>& tokens = continuation_.tokens();
  const bool behind = sequence_->tokens().size() < tokens.size();
  if (behind && sequence_->room() == 0) return end(FinishReason::kContextFull);
  if (cancelled_ && cancelled_()) return end(FinishReason::kCancelled);
  if (behind) sequence_->append({&tokens.back(), 1});
  GeneratedToken piece = continuation_.step(sequence_->session().logits());
  counts_.generated = continuation_.generated();
  if (piece.token < 0 && piece.text.empty()) return end(*continuation_.reason());
  return piece;
}

}  // namespace nfloat
