// SPDX-License-Identifier: Apache-2.0
// Texts, token by token.
#include <limits>
#include <optional>

#include "base/stopwatch.h"
#include "c_api/handles.h"
#include "nfloat/results.h"

using nfloat::ErrorCode;
using nfloat::fail;
using nfloat::FinishReason;
using namespace nfloat::c_api;

namespace {

// Tokens of the prompt that are read at a time: between two looks at the control, and without one. Of the
// same bits, for both are multiples of 64.
constexpr size_t kPiece = 64, kWholePiece = 512;

// Adds the time of its scope.
class Timed {
 public:
  explicit Timed(double& seconds) noexcept : seconds_(seconds) {}
  ~Timed() { seconds_ += watch_.seconds(); }
  Timed(const Timed&) = delete;
  Timed& operator=(const Timed&) = delete;

 private:
  double& seconds_;
  nfloat::Stopwatch watch_;
};

nfloat_finish finish_of(FinishReason reason) {
  switch (reason) {
    case FinishReason::kEndOfText:
      return NFLOAT_FINISH_END;
    case FinishReason::kStopText:
      return NFLOAT_FINISH_STOP;
    case FinishReason::kContextFull:
      return NFLOAT_FINISH_CONTEXT;
    case FinishReason::kTokenLimit:
    case FinishReason::kCancelled:
      break;
  }
  return NFLOAT_FINISH_LENGTH;
}

// The caller's options over what they have no field for.
nfloat::SamplerOptions sampler_options_of(const nfloat_sampler_options* given,
                                          nfloat::SamplerOptions options) {
  const auto from = read_options(given, "nfloat_sampler_options");
  options.seed = from.seed;
  options.top_k = from.top_k;
  options.temperature = from.temperature;
  options.top_p = from.top_p == 0 ? 1 : from.top_p;
  options.min_p = from.min_p;
  options.repetition_penalty = from.repetition_penalty == 0 ? 1 : from.repetition_penalty;
  return options;
}

}  // namespace

struct nfloat_generator {
  nfloat::Session* session;
  std::optional<nfloat::Tokenizer> tokenizer;
  nfloat::Sampler sampler;
  std::optional<nfloat::Continuation> continuation;
  size_t unread = 0;  // tokens at the end of the continuation's that the session has not read
  bool begun = false;
  bool keeps_probabilities = false;
  std::string text;  // of the last step
  nfloat::GenerationRecord record;

  explicit nfloat_generator(nfloat::Sampler made) : session(nullptr), sampler(std::move(made)) {}

  // Throws kInterrupted, the session then as it was.
  void read_prompt(nfloat_control* control) {
    const Timed watch(record.prefill_seconds);
    const std::span<const int32_t> all(record.prompt);
    const int64_t start = session->position();
    begin_progress(control, all.size());
    const size_t most = control == nullptr ? kWholePiece : kPiece;
    try {
      for (size_t at = 0; at < all.size(); at += most) {
        show_progress(control, at, all.size());
        const nfloat::BatchEntry piece{
            session, all.subspan(at, std::min(most, all.size() - at)),
            all.size() - at > most ? nfloat::WantedLogits::kNone : nfloat::WantedLogits::kLast};
        nfloat::forward_batch({&piece, 1});
      }
      report_progress(control, all.size(), all.size());
    } catch (...) {
      if (session->position() != start) session->rewind(start);
      throw;
    }
    begun = true;
  }

  void end(FinishReason reason, nfloat_token& token) {
    text = continuation->finish(reason);
    record.reason = reason;
    token.finish = finish_of(reason);
  }

  void step(nfloat_control* control, nfloat_token& token) {
    text.clear();
    if (record.reason) {
      token.finish = finish_of(*record.reason);
      return;
    }
    if (!begun) read_prompt(control);
    if (control != nullptr && control->cancelled) fail(ErrorCode::kInterrupted, "the call was cancelled");
    const Timed watch(record.decode_seconds);
    if (const auto reason = continuation->reason()) {
      end(*reason, token);
      return;
    }
    if (unread != 0) {
      if (session->position() == session->context()) {
        end(FinishReason::kContextFull, token);
        return;
      }
      session->decode(continuation->tokens().back());
      unread = 0;
    }
    nfloat::GeneratedToken piece = continuation->step(session->logits());
    text = std::move(piece.text);
    token.token = piece.token;
    token.log_probability = piece.log_probability;
    if (piece.token < 0) {
      record.reason = continuation->reason();
      token.finish = finish_of(*record.reason);
      return;
    }
    unread = 1;
    record.tokens.push_back(piece.token);
    if (keeps_probabilities) record.log_probabilities.push_back(std::move(piece));
  }
};

nfloat_status nfloat_generation_defaults(const nfloat_model* model, nfloat_sampler_options* options,
                                         nfloat_error** error) {
  return guard(error, [&] {
    needed(options, "options");
    const nfloat::SamplerOptions& from = needed(model, "model")->defaults->options();
    nfloat_sampler_options result =
        read_options(static_cast<const nfloat_sampler_options*>(options), "nfloat_sampler_options");
    result.top_k = from.top_k;
    result.temperature = from.temperature;
    result.top_p = from.top_p;
    result.min_p = from.min_p;
    result.repetition_penalty = from.repetition_penalty;
    write_result(result, options, "nfloat_sampler_options");
  });
}

nfloat_status nfloat_generator_create(nfloat_session* session, const nfloat_tokenizer* tokenizer,
                                      const int32_t* prompt, size_t prompt_count,
                                      const nfloat_generator_options* given, nfloat_generator** generator,
                                      nfloat_error** error) {
  return guard(error, [&] {
    needed_result(generator, "generator");
    nfloat::Session& on = needed(session, "session")->value;
    const auto from = read_options(given, "nfloat_generator_options");
    const std::span<const int32_t> tokens = tokens_of(prompt, prompt_count);
    if (tokens.empty() && on.logits().empty())
      fail(ErrorCode::kInvalidArgument, "no prompt, and the session has no logits to go on from");
    if (static_cast<uint64_t>(on.context() - on.position()) < prompt_count)
      fail(ErrorCode::kInvalidArgument, "{} tokens at position {} of a context of {}", prompt_count,
           on.position(), on.context());
    const int64_t vocabulary = on.model().config().vocabulary;
    for (const int32_t token : tokens)
      if (token < 0 || token >= vocabulary)
        fail(ErrorCode::kInvalidArgument, "token {} of a vocabulary of {}", token, vocabulary);
    if (from.max_tokens < 0)
      fail(ErrorCode::kInvalidArgument, "max_tokens is {}: 0 or more", from.max_tokens);
    if (from.top_logprobs < 0 || from.top_logprobs > vocabulary)
      fail(ErrorCode::kInvalidArgument, "top_logprobs is {}, not 0 to {}", from.top_logprobs, vocabulary);
    nfloat::GenerationOptions options;
    options.max_tokens = from.max_tokens == 0 ? std::numeric_limits<int64_t>::max() : from.max_tokens;
    options.stops = texts_of(from.stop, from.stop_count, "stop");
    if (!options.stops.empty() && tokenizer == nullptr)
      fail(ErrorCode::kInvalidArgument, "stop texts without a tokenizer");
    if (from.end_tokens != nullptr)
      options.end_tokens.assign(from.end_tokens, from.end_tokens + from.end_token_count);
    else if (from.end_token_count != 0)
      needed(from.end_tokens, "end_tokens");
    else
      options.end_tokens = session->defaults->end_tokens();
    if (flag(from.ignore_end, "ignore_end")) options.end_tokens.clear();
    options.log_probabilities = from.top_logprobs;
    auto made = std::make_unique<nfloat_generator>(
        nfloat::Sampler(sampler_options_of(from.sampler, session->defaults->options())));
    made->session = &on;
    if (tokenizer != nullptr) made->tokenizer = tokenizer->value;
    made->keeps_probabilities = from.top_logprobs > 0;
    made->record.prompt.assign(tokens.begin(), tokens.end());
    made->record.device = on.model().options().device;
    made->continuation.emplace(made->tokenizer ? &*made->tokenizer : nullptr, made->sampler, tokens, options);
    *generator = made.release();
  });
}

nfloat_status nfloat_generator_next(nfloat_generator* generator, nfloat_control* control, nfloat_token* token,
                                    nfloat_error** error) {
  return guard(error, [&] {
    needed(generator, "generator");
    needed(token, "token");
    nfloat_token result = {nullptr, 0, 0, -1, NFLOAT_FINISH_NONE};
    generator->step(control, result);
    generator->record.text += generator->text;
    result.text = generator->text.c_str();
    result.text_bytes = generator->text.size();
    *token = result;
  });
}

nfloat_status nfloat_generator_result(const nfloat_generator* generator, nfloat_buffer** json,
                                      nfloat_error** error) {
  return guard(error, [&] {
    needed_result(json, "json");
    needed(generator, "generator");
    *json = make_buffer(
        nfloat::generation_json(generator->record, generator->tokenizer ? &*generator->tokenizer : nullptr));
  });
}

void nfloat_generator_free(nfloat_generator* generator) {
  delete generator;
}
