// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <utility>

#include "generate/harmony.h"
#include "nfloat/generate.h"

namespace nfloat {

struct Continuation::State {
  const Tokenizer* tokenizer;
  Sampler* sampler;
  GenerationOptions options;
  std::vector<int32_t> tokens;
  int64_t prompt_tokens;
  std::optional<TokenStream> stream;
  StopFilter filter;
  std::optional<Harmony> harmony;
  std::optional<FinishReason> reason;

  // A model's vocabulary may be padded beyond its tokenizer's: such a token has no text.
  std::string text_of(int32_t token) {
    if (stream && std::find(options.shown.begin(), options.shown.end(), token) != options.shown.end())
      return stream->flush() + std::string(tokenizer->token_text(token));
    return stream && token < tokenizer->vocab_size() ? stream->push(token) : std::string();
  }
  bool ends(int32_t token) const {
    return std::find(options.end_tokens.begin(), options.end_tokens.end(), token) !=
               options.end_tokens.end() &&
           !(harmony && harmony->goes_on(token));
  }
  void add_text(int32_t token, GeneratedToken& piece) {
    switch (harmony ? harmony->take(token) : Harmony::Part::kFinal) {
      case Harmony::Part::kFinal:
        piece.text = filter.push(text_of(token));
        break;
      case Harmony::Part::kHeader:
        harmony->name(text_of(token));
        break;
      case Harmony::Part::kOther:
        piece.aside = text_of(token);
        break;
      case Harmony::Part::kMark:
        piece.aside = stream->flush();
        piece.mark = tokenizer->token_text(token);
        break;
    }
  }
  std::string finish(FinishReason why) {
    reason = why;
    if (filter.stopped()) return {};
    return filter.push(stream ? stream->flush() : std::string()) + filter.finish();
  }
};

namespace {
std::vector<std::string> all_stops(const GenerationOptions& options, const Sampler& sampler) {
  std::vector<std::string> stops = options.stops;
  const std::vector<std::string>& more = sampler.options().stops;
  stops.insert(stops.end(), more.begin(), more.end());
  return stops;
}
}  // namespace

Continuation::Continuation(const Tokenizer& tokenizer, Sampler& sampler, std::span<const int32_t> prompt,
                           const GenerationOptions& options)
    : Continuation(&tokenizer, sampler, prompt, options) {}
Continuation::Continuation(const Tokenizer* tokenizer, Sampler& sampler, std::span<const int32_t> prompt,
                           const GenerationOptions& options)
    : state_(std::make_unique<State>(State{.tokenizer = tokenizer,
                                           .sampler = &sampler,
                                           .options = options,
                                           .tokens = {prompt.begin(), prompt.end()},
                                           .prompt_tokens = static_cast<int64_t>(prompt.size()),
                                           .stream = std::nullopt,
                                           .filter = StopFilter(all_stops(options, sampler)),
                                           .harmony = std::nullopt,
                                           .reason = std::nullopt})) {
  if (tokenizer != nullptr) {
    state_->stream.emplace(*tokenizer);
    for (const int32_t& token : prompt)
      if (token < tokenizer->vocab_size()) state_->stream->skip({&token, 1});
    if (options.channels) state_->harmony = Harmony::of(*tokenizer);
  }
  if (options.max_tokens <= 0) state_->reason = FinishReason::kTokenLimit;
}
Continuation::Continuation(Continuation&&) noexcept = default;
Continuation& Continuation::operator=(Continuation&&) noexcept = default;
Continuation::~Continuation() = default;

GeneratedToken Continuation::step(std::span<const float> logits, std::span<const uint64_t> allowed) {
  State& state = *state_;
  GeneratedToken piece;
  const int32_t token =
      state.sampler->sample(logits, state.tokens, {.prompt_tokens = state.prompt_tokens, .allowed = allowed});
  if (state.ends(token)) {
    piece.text = state.finish(FinishReason::kEndOfText);
    return piece;
  }
  piece.token = token;
  state.tokens.push_back(token);
  if (state.options.log_probabilities >= 0) {
    piece.log_probability = log_probability(logits, token);
    piece.most_likely = most_likely(logits, static_cast<size_t>(state.options.log_probabilities));
  }
  state.add_text(token, piece);
  if (state.filter.stopped())
    state.reason = FinishReason::kStopText;
  else if (generated() >= state.options.max_tokens)
    piece.text += state.finish(FinishReason::kTokenLimit);
  return piece;
}

int64_t Continuation::decisive() const noexcept {
  return state_->options.log_probabilities >= 0 ? 0 : state_->sampler->decisive();
}

std::string Continuation::finish(FinishReason reason) {
  return state_->reason ? std::string() : state_->finish(reason);
}

std::optional<FinishReason> Continuation::reason() const noexcept {
  return state_->reason;
}
const std::vector<int32_t>& Continuation::tokens() const noexcept {
  return state_->tokens;
}
int64_t Continuation::prompt_tokens() const noexcept {
  return state_->prompt_tokens;
}
int64_t Continuation::generated() const noexcept {
  return static_cast<int64_t>(state_->tokens.size()) - state_->prompt_tokens;
}
const std::string& Continuation::channel() const noexcept {
  static const std::string kNone;
  return state_->harmony ? state_->harmony->channel() : kNone;
}

}  // namespace nfloat
