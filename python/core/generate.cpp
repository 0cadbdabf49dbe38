// SPDX-License-Identifier: Apache-2.0
// Text in the making.
#include "base/fail.h"
#include "core.h"
#include "generate/generation_defaults.h"
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
  bool begun = false;
  bool ended() const noexcept { return cancelled || session->closed(); }
};
template <>
inline constexpr const char* kTypeName<const GenerationDefaults> = "nfloat.GenerationDefaults";
template <>
inline constexpr const char* kTypeName<GenerationState> = "nfloat.Generation";

namespace {

constexpr int64_t kPiece = 64;

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
  maybe(settings.seed, [](Args& one) { return one.natural(); });
  return settings;
}

// path, model: what the generation_config.json there says, which is read when it is first needed.
Ref make_defaults(Args& args) {
  const std::string path = args.text();
  const std::shared_ptr<const Model> model = args.handle<const Model>();
  return make_handle(std::make_shared<const GenerationDefaults>(path, model->config()));
}
// defaults: temperature, top_k, top_p, min_p, repetition_penalty
Ref sampler_defaults(Args& args) {
  const std::shared_ptr<const GenerationDefaults> defaults = args.handle<const GenerationDefaults>();
  const SamplerOptions options = unlocked([&] { return defaults->options(); });
  return tuple(real(static_cast<double>(options.temperature)), integer(options.top_k),
               real(static_cast<double>(options.top_p)), real(static_cast<double>(options.min_p)),
               real(static_cast<double>(options.repetition_penalty)));
}

// defaults or None, session, tokenizer, prompt, max_tokens, six settings, stop texts, ignore_end,
// top_logprobs, control
Ref make_generation(Args& args) {
  std::shared_ptr<const GenerationDefaults> defaults;
  if (PyObject* given = args.object(); given != Py_None) defaults = handle<const GenerationDefaults>(given);
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
  std::shared_ptr<Control> control = control_of(args.object());
  if (options.max_tokens < 1)
    fail(ErrorCode::kInvalidArgument, "max_tokens is {}: at least 1", options.max_tokens);
  if (options.log_probabilities < 0 || options.log_probabilities > 1000)
    fail(ErrorCode::kInvalidArgument, "top_logprobs is {}: 0 to 1000", options.log_probabilities);
  const InSession in(*session);
  std::vector<int32_t> ends = in.session().model().config().eos_tokens;
  SamplerOptions sampling;
  sampling.temperature = 0;
  if (defaults)
    unlocked([&] {
      sampling = defaults->options();
      ends = defaults->end_tokens();
    });
  sampling = settings_over(settings, std::move(sampling));
  if (!ignore_end) options.end_tokens = ends;
  std::vector<int32_t> whole = in.sequence().tokens();
  whole.insert(whole.end(), added.begin(), added.end());
  auto state = std::make_shared<GenerationState>(session, tokenizer, sampling, std::move(control));
  state->generation.emplace(in.sequence(), *tokenizer, state->sampler, std::move(whole), options);
  state->generation->read_in_pieces_of(kPiece);
  return make_handle(std::move(state));
}

// token, text, log-probability, [(token, bytes, log-probability)]; None at the end.
Ref generation_next(Args& args) {
  const std::shared_ptr<GenerationState> state = args.handle<GenerationState>();
  const Alone alone(state->busy, "the generation");
  const InSession in(*state->session);
  std::optional<GeneratedToken> piece;
  if (!state->begun) {
    // The prompt may take long.
    Watch watch(state->control);
    state->generation->cancel_when([&] { return watch.stopped() || state->ended(); });
    watch.run(Py_None, [&] { piece = state->generation->next(); });
    state->begun = true;
    GenerationState* held = state.get();
    state->generation->cancel_when([held] { return held->control->cancelled || held->ended(); });
  } else {
    piece = unlocked([&] { return state->generation->next(); });
  }
  if (!piece && state->session->closed()) SessionState::refuse();
  if (!piece) return none();
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
  return {method<make_defaults>("make_defaults"),         method<sampler_defaults>("sampler_defaults"),
          method<make_generation>("make_generation"),     method<generation_next>("generation_next"),
          method<generation_cancel>("generation_cancel"), method<generation_info>("generation_info")};
}

}  // namespace nfloat::python
