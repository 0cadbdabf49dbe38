// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>
#include <chrono>
#include <utility>

#include "base/fail.h"
#include "base/state_of.h"
#include "generate/draft.h"
#include "generate/guess_length.h"
#include "generate/lookup.h"
#include "model/model_state.h"
#include "nfloat/generate.h"

namespace nfloat {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int64_t kMostGuesses = 64;  // tokens
constexpr int64_t kLongestDraft = 16;

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

void TokenSequence::reserve(size_t more) {
  const size_t wanted = tokens_.size() + more;
  if (wanted > tokens_.capacity()) tokens_.reserve(std::max(wanted, 2 * tokens_.capacity()));
}

std::span<const float> TokenSequence::append(std::span<const int32_t> tokens, int64_t best) {
  reserve(tokens.size());
  const BatchEntry entry{.session = &session_, .tokens = tokens, .best = best};
  forward_batch({&entry, 1});
  took(tokens);
  return session_.logits();
}

void TokenSequence::append(std::span<const int32_t> tokens, std::vector<float>& rows) {
  const auto vocabulary = static_cast<size_t>(session_.model().config().vocabulary);
  rows.resize(tokens.size() * vocabulary);
  reserve(tokens.size());
  const BatchEntry entry{&session_, tokens};
  forward_batch({&entry, 1}, [&](size_t, int64_t index, std::span<const float> logits) {
    std::copy(logits.begin(), logits.end(),
              rows.begin() + static_cast<std::ptrdiff_t>(static_cast<size_t>(index) * vocabulary));
  });
  took(tokens);
}

void TokenSequence::read(std::span<const int32_t> tokens) {
  reserve(tokens.size());
  const BatchEntry entry{&session_, tokens, WantedLogits::kNone};
  forward_batch({&entry, 1});
  took(tokens);
}

void TokenSequence::truncate(int64_t length) {
  session_.rewind(length);
  tokens_.resize(static_cast<size_t>(length));
}

// Of the pass at work.
struct Generation::Guesses {
  int64_t look_up = 0, max_tokens = 0;
  const Tokenizer* tokenizer = nullptr;
  const Sampler* sampler = nullptr;
  std::optional<DraftSequence> draft;
  GuessLength looked_length, draft_length;
  PassCost costs;
  double draft_seconds = 0;  // of a token
  bool drafted = false;
  size_t count = 0, right = 0;

  std::vector<int32_t> next(const Continuation& text, int64_t most, int64_t vocabulary) {
    const std::vector<int32_t>& tokens = text.tokens();
    std::vector<int32_t> guess;
    drafted = false;
    right = 0;
    if (costs.known(1) && most > 0) {
      const int64_t length = look_up > 0 ? looked_length(std::min(most, look_up), costs.guess(1, 0)) : 0;
      if (length > 0) {
        const auto found = nfloat::look_up(tokens, static_cast<size_t>(length));
        guess.assign(found.begin(), found.end());
      }
      if (guess.empty() && draft) guess = drafted_tokens(text, most, vocabulary);
    }
    count = guess.size();
    return guess;
  }
  std::vector<int32_t> drafted_tokens(const Continuation& text, int64_t most, int64_t vocabulary) {
    const int64_t length = draft_length(std::min(most, kLongestDraft), costs.guess(1, 0, draft_seconds));
    if (length == 0) return {};
    double seconds = 0;
    DraftTask task{.sequence = &*draft,
                   .tokens = text.tokens(),
                   .prompt_tokens = text.prompt_tokens(),
                   .sampler = sampler,
                   .most = length};
    {
      const Stopwatch watch(seconds);
      nfloat::draft({&task, 1}, std::ssize(text.tokens()));
    }
    const auto foreign =
        std::find_if(task.guess.begin(), task.guess.end(), [&](int32_t id) { return id >= vocabulary; });
    task.guess.erase(foreign, task.guess.end());
    drafted = !task.guess.empty();
    if (drafted && is_up_to_date(task))
      draft_seconds = 0.75 * draft_seconds + 0.25 * seconds / static_cast<double>(task.guess.size());
    return std::move(task.guess);
  }
  // What the pass over a token and `guessed` more took.
  void took(double seconds, int64_t guessed, const Model::State& model) {
    if (look_up <= 0 && !draft) return;
    // Ranks that all generate guess the same: by the times of the first. Where that one leads, it generates
    // alone.
    if (Ranks* const ranks = model.options.ranks.get(); ranks != nullptr && !model.leader) {
      std::array<double, 2> times{seconds, draft_seconds};
      ranks->broadcast(times.data(), sizeof times);
      seconds = times[0];
      draft_seconds = times[1];
    }
    costs.took(seconds, 1, guessed);
  }
  void checked() noexcept {
    (drafted ? draft_length : looked_length)
        .checked(static_cast<int64_t>(count), static_cast<int64_t>(right));
    count = 0;
  }
};

Generation::Generation(TokenSequence& sequence, const Tokenizer& tokenizer, Sampler& sampler,
                       std::vector<int32_t> prompt, const GenerationOptions& options)
    : sequence_(&sequence),
      prompt_(checked(std::move(prompt), sequence)),
      continuation_(tokenizer, sampler, prompt_, options),
      guesses_(std::make_shared<Guesses>()) {
  guesses_->look_up = options.look_up;
  guesses_->max_tokens = options.max_tokens;
  guesses_->tokenizer = &tokenizer;
  guesses_->sampler = &sampler;
}

void Generation::guess_with(Session draft) {
  check_draft(draft.model(), *guesses_->tokenizer);
  guesses_->draft.emplace(std::move(draft));
}

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
    at += piece.size();
    if (at < all.size())
      sequence_->read(piece);
    else
      sequence_->append(piece);
    counts_.read += static_cast<int64_t>(piece.size());
    if (cancelled_ && cancelled_()) return false;
  }
  confirmed_ = prompt_.size();
  return true;
}

std::optional<GeneratedToken> Generation::end(FinishReason reason) {
  GeneratedToken rest;
  rest.text = continuation_.finish(reason);
  const std::vector<int32_t>& tokens = continuation_.tokens();
  const bool behind = begun_ && confirmed_ >= prompt_.size() && confirmed_ < tokens.size();
  if (confirmed_ > 0 && sequence_->tokens().size() > confirmed_)
    sequence_->truncate(static_cast<int64_t>(confirmed_));
  if (behind && reason == FinishReason::kTokenLimit && sequence_->room() == 0)
    reason = FinishReason::kContextFull;
  reason_ = reason;
  if (behind && take_in_last_ && sequence_->room() > 0 &&
      (reason == FinishReason::kTokenLimit || reason == FinishReason::kCancelled))
    sequence_->append({&tokens.back(), 1});
  if (rest.text.empty()) return std::nullopt;
  return rest;
}

// The logits behind the token chosen last: those of a guess that was right, or of a pass of their own.
std::span<const float> Generation::next_logits() {
  const std::vector<int32_t>& tokens = continuation_.tokens();
  const int32_t last = tokens.back();
  const auto vocabulary = static_cast<size_t>(sequence_->session().model().config().vocabulary);
  const std::vector<int32_t>& held = sequence_->tokens();
  if (confirmed_ < held.size() && held[confirmed_] == last) {
    const size_t row = guesses_->count + 1 - (held.size() - confirmed_);
    ++confirmed_;
    ++right_;
    ++guesses_->right;
    return std::span<const float>(rows_).subspan(row * vocabulary, vocabulary);
  }
  if (confirmed_ < held.size()) sequence_->truncate(static_cast<int64_t>(confirmed_));
  guesses_->checked();
  // A token is chosen behind the last guess.
  const int64_t left = std::min(sequence_->room(), guesses_->max_tokens - continuation_.generated()) - 1;
  const std::vector<int32_t> guess = guesses_->next(continuation_, std::clamp<int64_t>(left, 0, kMostGuesses),
                                                    static_cast<int64_t>(vocabulary));
  guessed_ += std::ssize(guess);
  ++confirmed_;
  double seconds = 0;
  std::span<const float> logits;
  {
    const Stopwatch watch(seconds);
    if (guess.empty()) {
      logits = sequence_->append({&last, 1}, continuation_.decisive());
    } else {
      std::vector<int32_t> pass{last};
      pass.insert(pass.end(), guess.begin(), guess.end());
      sequence_->append(pass, rows_);
      logits = std::span<const float>(rows_).first(vocabulary);
    }
  }
  guesses_->took(seconds, std::ssize(guess), state_of(sequence_->session().model()));
  return logits;
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
  const bool behind = confirmed_ < tokens.size();
  if (behind && static_cast<int64_t>(confirmed_) == sequence_->session().context())
    return end(FinishReason::kContextFull);
  if (cancelled_ && cancelled_()) return end(FinishReason::kCancelled);
  GeneratedToken piece = continuation_.step(behind ? next_logits() : sequence_->session().logits());
  counts_.generated = continuation_.generated();
  if (piece.token < 0 && piece.text.empty()) return end(*continuation_.reason());
  return piece;
}

}  // namespace nfloat
