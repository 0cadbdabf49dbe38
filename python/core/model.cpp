// SPDX-License-Identifier: Apache-2.0
// Models, sessions, samplers.
#include <algorithm>

#include "base/fail.h"
#include "base/json.h"
#include "core.h"
#include "handles.h"
#include "nfloat/results.h"
#include "nfloat/synthetic.h"

namespace nfloat::python {

template <>
inline constexpr const char* kTypeName<Sampler> = "nfloat.Sampler";

KvCacheType kv_cache_argument(const std::string& name) {
  if (name == "auto") return KvCacheType::kAuto;
  if (name == "f32") return KvCacheType::kF32;
  if (name == "f16") return KvCacheType::kF16;
  if (name == "int8") return KvCacheType::kInt8;
  fail(ErrorCode::kInvalidArgument, "kv_cache '{}': auto, f32, f16 or int8", name);
}

void SessionState::refuse() {
  fail(ErrorCode::kInvalidArgument, "{} is closed", kTypeName<SessionState>);
}
InSession::InSession(SessionState& state) : state_(state) {
  if (state.closed_) SessionState::refuse();
  if (state.busy_.exchange(true)) raise(PyExc_RuntimeError, "the session is in use by another thread");
}

namespace {

HeadFormat head_argument(const std::string& name) {
  if (name == "keep") return HeadFormat::kKeep;
  if (name == "int8") return HeadFormat::kInt8;
  if (name == "nf4") return HeadFormat::kNf4;
  fail(ErrorCode::kInvalidArgument, "head '{}': keep, int8 or nf4", name);
}

// path, codebook or None, block_size, double_quantization, head, precision, threads, device or None,
// progress, control
Ref load_model(Args& args) {
  const std::string path = args.text();
  ModelOptions options;
  if (PyObject* book = args.object(); book != Py_None) options.quantize = *handle<const Codebook>(book);
  options.quantize_block_size = args.integer();
  options.quantize_double = args.flag();
  options.head = head_argument(args.text());
  options.precision = precision_argument(args.text());
  options.threads = thread_argument(args.integer());
  if (const std::optional<std::string> device = args.maybe_text(); device) {
    if (device->empty())
      fail(ErrorCode::kInvalidArgument, "device is '': auto, cpu, cuda, cuda:N, vulkan or vulkan:N");
    options.device = *device;
  }
  PyObject* progress = args.object();
  Watch watch(control_of(args.object()));
  options.progress = [&](uint64_t done, uint64_t total) { watch.show(done, total); };
  std::shared_ptr<const Model> model;
  watch.run(progress,
            [&] { model = std::make_shared<const Model>(Model::load(resolve_model_path(path), options)); });
  return make_handle(std::move(model));
}
// shape, seed, precision, threads
Ref synthetic_model(Args& args) {
  const ModelConfig config = synthetic_config(args.text());
  SyntheticOptions options;
  options.seed = args.natural();
  options.model.precision = precision_argument(args.text());
  options.model.threads = thread_argument(args.integer());
  Watch watch(std::make_shared<Control>());
  options.model.progress = [&](uint64_t done, uint64_t total) { watch.show(done, total); };
  std::shared_ptr<const Model> model;
  watch.run(Py_None,
            [&] { model = std::make_shared<const Model>(nfloat::synthetic_model(config, options)); });
  return make_handle(std::move(model));
}

// JSON of the shape and of the memory; precision, device.
Ref model_info(Args& args) {
  const Model& model = *args.handle<const Model>();
  const ModelConfig& c = model.config();
  const ModelMemory& m = model.memory();
  const Json config{{"family", c.family},
                    {"layers", c.layers},
                    {"hidden", c.hidden},
                    {"intermediate", c.intermediate},
                    {"heads", c.heads},
                    {"kv_heads", c.kv_heads},
                    {"head_dim", c.head_dim},
                    {"vocabulary", c.vocabulary},
                    {"context", c.context},
                    {"sliding_window", c.sliding_window},
                    {"tied_head", c.tied_head},
                    {"experts", c.experts.count},
                    {"experts_chosen", c.experts.chosen},
                    {"bos_token", c.bos_token},
                    {"eos_tokens", c.eos_tokens},
                    {"parameters", c.parameters()}};
  const Json memory{{"projection_bytes", m.projection_bytes},
                    {"head_bytes", m.head_bytes},
                    {"embedding_bytes", m.embedding_bytes},
                    {"other_bytes", m.other_bytes},
                    {"read_per_token_bytes", m.read_per_token_bytes}};
  return tuple(text(config.dump()), text(memory.dump()), text(precision_name(model.options().precision)),
               text(model.options().device));
}

// model, context, kv_cache, precision or None, threads
Ref make_session(Args& args) {
  const std::shared_ptr<const Model> model = args.handle<const Model>();
  SessionOptions options;
  options.context = args.integer();
  options.kv_cache = kv_cache_argument(args.text());
  options.precision = maybe_precision(args);
  options.threads = thread_argument(args.integer());
  return make_handle(std::make_shared<SessionState>(TokenSequence(Session(*model, options))));
}
Ref close_session(Args& args) {
  const std::shared_ptr<SessionState> state = args.handle<SessionState>();
  state->close();
  return none();
}
// context, position
Ref session_info(Args& args) {
  const InSession in(*args.handle<SessionState>());
  return tuple(integer(in.session().context()), integer(in.session().position()));
}
Ref session_tokens(Args& args) {
  const InSession in(*args.handle<SessionState>());
  return copied_memory<int32_t>(in.sequence().tokens());
}
Ref logits_of(Session& session) {
  return session.logits().empty() ? none() : copied_memory<float>(session.logits());
}
Ref session_logits(Args& args) {
  const InSession in(*args.handle<SessionState>());
  return logits_of(in.session());
}

constexpr size_t kPiece = 64;  // tokens between two looks at signals

// Runs what reads `tokens` tokens: a thread for it pays where they take long.
void read(Watch& watch, size_t tokens, const std::function<void()>& work) {
  if (tokens > kPiece)
    watch.run(Py_None, work);
  else
    unlocked(work);
}

// What was read from `start` on, after an exception: one of a signal may come when all is read.
void forget(TokenSequence& sequence, int64_t start) {
  if (sequence.session().position() != start) sequence.truncate(start);
}

// session, tokens, every token's logits wanted or None, control: logits of the last token.
Ref prefill(Args& args) {
  const std::shared_ptr<SessionState> state = args.handle<SessionState>();
  const Array tokens = args.array(), wanted = args.maybe_array(true);
  Watch watch(control_of(args.object()));
  const std::span<const int32_t> all = tokens.items<int32_t>("tokens");
  const std::span<float> rows = wanted.items<float>("out");
  const InSession in(*state);
  TokenSequence& sequence = in.sequence();
  if (all.empty()) fail(ErrorCode::kInvalidArgument, "no tokens: at least one is needed");
  if (static_cast<uint64_t>(sequence.room()) < all.size())
    fail(ErrorCode::kInvalidArgument, "{} tokens at position {} of a context of {}", all.size(),
         sequence.session().position(), sequence.session().context());
  const auto vocabulary = static_cast<size_t>(sequence.session().model().config().vocabulary);
  if (wanted.given() && rows.size() != all.size() * vocabulary)
    fail(ErrorCode::kInvalidArgument, "out has {} elements, {} * {} are needed", rows.size(), all.size(),
         vocabulary);
  const int64_t start = sequence.session().position();
  const auto work = [&] {
    std::vector<float> some;
    for (size_t begin = 0; begin < all.size(); begin += kPiece) {
      watch.show(begin, all.size());
      if (state->closed()) SessionState::refuse();
      const auto piece = all.subspan(begin, std::min(kPiece, all.size() - begin));
      if (wanted.given()) {
        sequence.append(piece, some);
        std::copy(some.begin(), some.end(), rows.begin() + static_cast<std::ptrdiff_t>(begin * vocabulary));
      } else if (begin + piece.size() < all.size()) {
        sequence.read(piece);
      } else {
        sequence.append(piece);
      }
    }
    watch.count(all.size(), all.size());
  };
  try {
    read(watch, all.size(), work);
  } catch (...) {
    forget(sequence, start);
    throw;
  }
  return logits_of(sequence.session());
}
Ref rewind(Args& args) {
  const std::shared_ptr<SessionState> state = args.handle<SessionState>();
  const int64_t position = args.integer();
  const InSession in(*state);
  if (position < 0) fail(ErrorCode::kInvalidArgument, "position {} of a session", position);
  in.sequence().truncate(position);
  return none();
}
Ref fork(Args& args) {
  const std::shared_ptr<SessionState> state = args.handle<SessionState>();
  const InSession in(*state);
  return make_handle(unlocked([&] {
    return std::make_shared<SessionState>(TokenSequence(in.session().fork(), in.sequence().tokens()));
  }));
}

// List of sessions, list of arrays of tokens: a list of logits, one array [tokens, vocabulary] an entry.
Ref forward_batch(Args& args) {
  PyObject* sessions = args.object();
  PyObject* tokens = args.object();
  if (PyList_Check(sessions) == 0 || PyList_Check(tokens) == 0 ||
      PyList_Size(sessions) != PyList_Size(tokens))
    fail(ErrorCode::kInvalidArgument, "as many sessions as lists of tokens are needed");
  std::vector<std::shared_ptr<SessionState>> states;
  std::vector<std::unique_ptr<InSession>> in;
  std::vector<Array> arrays;
  std::vector<BatchEntry> batch;
  std::vector<std::shared_ptr<std::vector<float>>> rows;
  std::vector<int64_t> starts;
  size_t total = 0;
  for (Py_ssize_t i = 0; i < PyList_Size(sessions); ++i) {
    std::shared_ptr<SessionState> state = handle<SessionState>(PyList_GetItem(sessions, i));
    if (std::find(states.begin(), states.end(), state) != states.end())
      fail(ErrorCode::kInvalidArgument, "session {} stands twice in the batch", i);
    in.push_back(std::make_unique<InSession>(*state));
    states.push_back(std::move(state));
    arrays.push_back(Array::of(PyList_GetItem(tokens, i)));
    batch.push_back({&in.back()->session(), arrays.back().items<int32_t>("tokens")});
    in.back()->sequence().reserve(batch.back().tokens.size());
    starts.push_back(in.back()->session().position());
    total += batch.back().tokens.size();
    rows.push_back(std::make_shared<std::vector<float>>());
  }
  Watch watch(std::make_shared<Control>());
  const auto closed = [&] {
    return std::any_of(states.begin(), states.end(), [](const auto& state) { return state->closed(); });
  };
  try {
    read(watch, total, [&] {
      nfloat::forward_batch(
          batch,
          [&](size_t entry, int64_t, std::span<const float> logits) {
            rows[entry]->insert(rows[entry]->end(), logits.begin(), logits.end());
          },
          [&] { return watch.stopped() || closed(); });
      for (size_t i = 0; i < in.size(); ++i) in[i]->sequence().took(batch[i].tokens);
    });
  } catch (const std::exception&) {
    for (size_t i = 0; i < in.size(); ++i) forget(in[i]->sequence(), starts[i]);
    if (closed()) SessionState::refuse();
    throw;
  } catch (...) {
    for (size_t i = 0; i < in.size(); ++i) forget(in[i]->sequence(), starts[i]);
    throw;
  }
  return list(rows, [](const auto& values) {
    return make_memory(values, values->data(), values->size() * sizeof(float), true);
  });
}

// temperature, top_k, top_p, min_p, repetition_penalty, seed
Ref make_sampler(Args& args) {
  SamplerOptions options;
  options.temperature = static_cast<float>(args.real());
  options.top_k = args.integer();
  options.top_p = static_cast<float>(args.real());
  options.min_p = static_cast<float>(args.real());
  options.repetition_penalty = static_cast<float>(args.real());
  options.seed = args.natural();
  return make_handle(std::make_shared<Sampler>(options));
}
Ref sample(Args& args) {
  const std::shared_ptr<Sampler> sampler = args.handle<Sampler>();
  const Array logits = args.array(), history = args.array();
  return integer(sampler->sample(logits.items<float>("logits"), history.items<int32_t>("history")));
}
// logits, count: [(token, log-probability)]
Ref most_likely(Args& args) {
  const Array logits = args.array();
  const int64_t count = args.integer();
  if (count < 1) fail(ErrorCode::kInvalidArgument, "count is {}: at least 1", count);
  return list(nfloat::most_likely(logits.items<float>("logits"), static_cast<size_t>(count)),
              [](const TokenProbability& one) {
                return tuple(integer(one.token), real(static_cast<double>(one.log_probability)));
              });
}
Ref log_probability(Args& args) {
  const Array logits = args.array();
  const auto values = logits.items<float>("logits");
  const int64_t token = args.integer();
  if (token < 0 || token >= static_cast<int64_t>(values.size()))
    fail(ErrorCode::kInvalidArgument, "token {} of {} logits", token, values.size());
  return real(nfloat::log_probability(values, static_cast<int32_t>(token)));
}

}  // namespace

std::vector<PyMethodDef> generate_methods();

std::vector<PyMethodDef> model_methods() {
  std::vector<PyMethodDef> methods = {method<load_model>("load_model"),
                                      method<python::synthetic_model>("synthetic_model"),
                                      method<model_info>("model_info"),
                                      method<make_session>("make_session"),
                                      method<close_session>("close_session"),
                                      method<session_info>("session_info"),
                                      method<session_tokens>("session_tokens"),
                                      method<session_logits>("session_logits"),
                                      method<prefill>("prefill"),
                                      method<rewind>("rewind"),
                                      method<fork>("fork"),
                                      method<python::forward_batch>("forward_batch"),
                                      method<make_sampler>("make_sampler"),
                                      method<sample>("sample"),
                                      method<python::most_likely>("most_likely"),
                                      method<python::log_probability>("log_probability")};
  const std::vector<PyMethodDef> more = generate_methods();
  methods.insert(methods.end(), more.begin(), more.end());
  return methods;
}

}  // namespace nfloat::python
