// SPDX-License-Identifier: Apache-2.0
// Text in the making.
#include <algorithm>
#include <bit>
#include <cmath>

#include "base/fail.h"
#include "core.h"
#include "handles.h"

namespace nfloat::python {

// Members in the order in which they need one another.
struct GenerationState {
  GenerationState(std::shared_ptr<SessionState> held, std::shared_ptr<const Tokenizer> words,
                  const SamplerOptions& options, std::shared_ptr<Control> given)
      : session(std::move(held)), tokenizer(std::move(words)), sampler(options), control(std::move(given)) {}
  std::shared_ptr<SessionState> session;
  std::shared_ptr<const Tokenizer> tokenizer;
  Sampler sampler;
  std::shared_ptr<Control> control;
  std::optional<Generation> generation;
  std::atomic<bool> busy{false}, cancelled{false};
  bool begun = false, own_probability = false;
};
template <>
inline constexpr const char* kTypeName<GenerationState> = "nfloat.Generation";

namespace {

constexpr int64_t kPiece = 64;

// Sums and maxima of several at a time, which the compiler turns into vectors.
constexpr size_t kLanes = 8;

// e^x for x <= 0, within 3e-7 of it: 2^n of the whole part of x log2(e), a polynomial of the rest. Below -87
// (and for NaN) about 1e-38.
inline float quick_exp(float x) noexcept {
  const float y = (x > -87.0f ? x : -87.0f) * 1.44269504f;
  const float shifted = y + 12582912.0f;  // 1.5 * 2^23: the fraction is rounded away
  const float r = (y - (shifted - 12582912.0f)) * 0.693147181f;
  const float p =
      1.0f + r * (1.0f + r * (0.5f + r * (0.166666667f +
                                          r * (0.0416666667f + r * (8.33333333e-3f + r * 1.38888889e-3f)))));
  return std::bit_cast<float>(std::bit_cast<uint32_t>(p) + (std::bit_cast<uint32_t>(shifted) << 23));
}

// Natural logarithm of softmax(logits)[token], within 1e-5: the library's own takes a tenth of a small
// model's token.
double quick_log_probability(std::span<const float> logits, int32_t token) noexcept {
  float most[kLanes];
  std::fill(most, most + kLanes, logits[0]);
  const size_t whole = logits.size() / kLanes * kLanes;
  for (size_t i = 0; i < whole; i += kLanes)
    for (size_t j = 0; j < kLanes; ++j) most[j] = logits[i + j] > most[j] ? logits[i + j] : most[j];
  float largest = *std::max_element(most, most + kLanes);
  for (size_t i = whole; i < logits.size(); ++i) largest = std::max(largest, logits[i]);
  float sums[kLanes] = {};
  for (size_t i = 0; i < whole; i += kLanes)
    for (size_t j = 0; j < kLanes; ++j) sums[j] += quick_exp(logits[i + j] - largest);
  double sum = 0;
  for (const float lane : sums) sum += static_cast<double>(lane);
  for (size_t i = whole; i < logits.size(); ++i) sum += static_cast<double>(quick_exp(logits[i] - largest));
  return static_cast<double>(logits[static_cast<size_t>(token)] - largest) - std::log(sum);
}

const char* name_of(FinishReason reason) {
  switch (reason) {
    case FinishReason::kEndOfText:
      return "end";
    case FinishReason::kStopText:
      return "stop";
    case FinishReason::kTokenLimit:
      return "length";
    case FinishReason::kContextFull:
      return "context";
    case FinishReason::kCancelled:
      break;
  }
  return "cancelled";
}

// temperature, top_k, top_p, min_p, repetition_penalty, seed: each or None.
SamplingSettings settings_argument(Args& args) {
  const auto maybe = [&]<typename T>(std::optional<T>& to, auto read) {
    PyObject* given = args.object();
    if (given == Py_None) return;
    Args one("sampling", &given, 1);
    to = static_cast<T>(read(one));
  };
  const auto real = [](Args& one) { return one.real(); };
  const auto whole = [](Args& one) { return one.integer(); };
  SamplingSettings settings;
  maybe(settings.temperature, real);
  maybe(settings.top_k, whole);
  maybe(settings.top_p, real);
  maybe(settings.min_p, real);
  maybe(settings.repetition_penalty, real);
  maybe(settings.seed, whole);
  return settings;
}

// path or None, model: temperature, top_k, top_p, min_p, repetition_penalty of its generation_config.json.
Ref sampler_defaults(Args& args) {
  const std::string path = args.text();
  const std::shared_ptr<const Model> model = args.handle<const Model>();
  std::vector<int32_t> ends;
  SamplingSettings settings;
  settings.seed = 0;
  const SamplerOptions options = sampler_options(settings, path, model->config(), &ends);
  return tuple(real(static_cast<double>(options.temperature)), integer(options.top_k),
               real(static_cast<double>(options.top_p)), real(static_cast<double>(options.min_p)),
               real(static_cast<double>(options.repetition_penalty)));
}

// path of the model or "", session, tokenizer, prompt, max_tokens, six settings, stop texts, ignore_end,
// top_logprobs, control
Ref make_generation(Args& args) {
  const std::string path = args.text();
  const std::shared_ptr<SessionState> session = args.handle<SessionState>();
  const std::shared_ptr<const Tokenizer> tokenizer = args.handle<const Tokenizer>();
  const Array prompt = args.array();
  const auto added = prompt.items<int32_t>("prompt");
  GenerationOptions options;
  options.max_tokens = args.integer();
  const SamplingSettings settings = settings_argument(args);
  options.stops = args.texts();
  const bool ignore_end = args.flag();
  options.log_probabilities = args.integer();
  if (options.log_probabilities == 0) options.log_probabilities = -1;
  std::shared_ptr<Control> control = control_of(args.object());
  if (options.max_tokens < 1)
    fail(ErrorCode::kInvalidArgument, "max_tokens is {}: at least 1", options.max_tokens);
  if (options.log_probabilities > 1000)
    fail(ErrorCode::kInvalidArgument, "top_logprobs is {}: at most 1000", options.log_probabilities);
  const ModelConfig& config = session->sequence.session().model().config();
  std::vector<int32_t> ends = config.eos_tokens;
  SamplerOptions sampling;
  if (path.empty()) {
    sampling.temperature = settings.temperature.value_or(0);
    sampling.top_k = settings.top_k.value_or(0);
    sampling.top_p = settings.top_p.value_or(1);
    sampling.min_p = settings.min_p.value_or(0);
    sampling.repetition_penalty = settings.repetition_penalty.value_or(1);
    sampling.seed = settings.seed.value_or(0);
  } else {
    sampling = sampler_options(settings, path, config, &ends);
  }
  if (!ignore_end) options.end_tokens = ends;
  std::vector<int32_t> whole = session->sequence.tokens();
  whole.insert(whole.end(), added.begin(), added.end());
  auto state = std::make_shared<GenerationState>(session, tokenizer, sampling, std::move(control));
  state->generation.emplace(session->sequence, *tokenizer, state->sampler, std::move(whole), options);
  state->generation->read_in_pieces_of(kPiece);
  state->own_probability = options.log_probabilities < 0;
  return make_handle(std::move(state));
}

// token, text, log-probability, [(token, bytes, log-probability)]; None at the end.
Ref generation_next(Args& args) {
  const std::shared_ptr<GenerationState> state = args.handle<GenerationState>();
  const Alone alone(state->busy, "the generation");
  const Alone session(state->session->busy, "the session");
  std::optional<GeneratedToken> piece;
  if (!state->begun) {
    // The prompt may take long.
    Watch watch(state->control);
    state->generation->cancel_when([&] { return watch.stopped() || state->cancelled; });
    watch.run(Py_None, [&] { piece = state->generation->next(); });
    state->begun = true;
    GenerationState* held = state.get();
    state->generation->cancel_when([held] { return held->control->cancelled || held->cancelled; });
  } else {
    piece = unlocked([&] { return state->generation->next(); });
  }
  if (!piece) return none();
  // A token was chosen by what the session has: it reads the token with the next step.
  const std::span<const float> logits = state->session->sequence.session().logits();
  if (state->own_probability && piece->token >= 0 && !logits.empty())
    piece->log_probability = quick_log_probability(logits, piece->token);
  return tuple(integer(piece->token), text(piece->text), real(piece->log_probability),
               list(piece->most_likely, [&](const TokenProbability& one) {
                 return tuple(integer(one.token), bytes(state->tokenizer->token_bytes(one.token)),
                              real(static_cast<double>(one.log_probability)));
               }));
}
Ref generation_cancel(Args& args) {
  args.handle<GenerationState>()->cancelled = true;
  return none();
}
// Reason or None, prompt and text read, read seconds, generate seconds, generated tokens.
Ref generation_info(Args& args) {
  const std::shared_ptr<GenerationState> state = args.handle<GenerationState>();
  const Alone alone(state->busy, "the generation");
  const Generation& generation = *state->generation;
  const std::optional<FinishReason> reason = generation.reason();
  return tuple(reason ? text(name_of(*reason)) : none(), real(generation.counts().read_seconds),
               real(generation.counts().generate_seconds), copied_memory<int32_t>(generation.generated()));
}

}  // namespace

std::vector<PyMethodDef> generate_methods() {
  return {method<sampler_defaults>("sampler_defaults"), method<make_generation>("make_generation"),
          method<generation_next>("generation_next"), method<generation_cancel>("generation_cancel"),
          method<generation_info>("generation_info")};
}

}  // namespace nfloat::python
