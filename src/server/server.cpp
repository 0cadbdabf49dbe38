// SPDX-License-Identifier: Apache-2.0
#include "nfloat/serve.h"

#include <algorithm>
#include <chrono>

#include "base/ascii.h"
#include "base/fail.h"
#include "base/state_of.h"
#include "model/model_state.h"
#include "nfloat/conversation.h"
#include "nfloat/lead.h"
#include "server/parts.h"
#include "server/server_state.h"

namespace nfloat {
namespace {

constexpr double kTick = 0.25;     // seconds
constexpr double kKeepAlive = 15;  // seconds of silence in a stream
constexpr int kLastWords = 2;      // ticks for answers to leave the machine

std::string name_of(const std::string& path, const ServeOptions& options) {
  if (!options.model_name.empty()) return options.model_name;
  std::string name = path;
  while (name.size() > 1 && name.back() == '/') name.pop_back();
  name = name.substr(name.rfind('/') + 1);
  return name.ends_with(".gguf") ? name.substr(0, name.size() - 5) : name;
}

// How most bytes of the layers are stored.
std::string format_of(const Model& model) {
  if (model.options().quantize) return model.options().quantize->name;
  const Checkpoint* const checkpoint = state_of(model).checkpoint.get();
  std::map<std::string, uint64_t> bytes;
  if (checkpoint != nullptr)
    for (const std::string& weight : checkpoint->weight_names()) {
      const Shape shape = checkpoint->weight_shape(weight);
      if (shape.rank() >= 2 && shape[0] != model.config().vocabulary)
        bytes[checkpoint->stored_type(weight)] += checkpoint->stored_bytes(weight);
    }
  const auto most = std::max_element(bytes.begin(), bytes.end(),
                                     [](const auto& a, const auto& b) { return a.second < b.second; });
  return most == bytes.end() ? "" : most->first;
}

// As the engine's.
uint64_t kv_bytes_of_token(const Model& model, const ServeOptions& options) {
  constexpr int64_t kMany = 1 << 16;  // pages hold several
  const KvPlan plan = plan_kv(model.config(), model.options().precision,
                              {.context = options.context, .kv_cache = options.kv_cache});
  return kv_cache_bytes(model.config(), plan.type, kMany) / kMany;
}

}  // namespace

ServedModel::ServedModel(const Model& weights, const std::string& path, const std::optional<Model>& draft,
                         const ServeOptions& options,
                         std::function<void(std::span<const EngineEvent>)> events)
    : model(weights),
      tokenizer(Tokenizer::load(path)),
      chat(options.chat_template.empty() ? chat_template_of(path, tokenizer)
                                         : ChatTemplate::parse(options.chat_template, "--chat-template")),
      ends(model.config().eos_tokens),
      name(name_of(path, options)),
      format(format_of(model)),
      created(std::chrono::duration_cast<std::chrono::seconds>(
                  std::chrono::system_clock::now().time_since_epoch())
                  .count()),
      kv_bytes_per_token(kv_bytes_of_token(model, options)),
      engine(model, tokenizer,
             {.streams = options.streams,
              .queue = options.queue,
              .context = options.context,
              .kv_cache = options.kv_cache,
              .kv_bytes = options.kv_bytes,
              .prefix_folder = options.prefix_folder,
              .prefix_folder_bytes = options.prefix_folder_bytes,
              .step_seconds = options.step_seconds,
              .draft = draft,
              .clock = nullptr,
              .events = std::move(events)}) {
  LedModels led{{model}, {}};
  if (draft) led.models.push_back(*draft);
  for (const ServedAdapter& adapter : options.adapters) {
    if (adapter.name.empty() || adapter.name == name || adapters.contains(adapter.name))
      fail(ErrorCode::kInvalidArgument, "'{}' names several models", adapter.name);
    LoadedAdapters loaded = load_adapters(model, {adapter.choice});
    led.adapters.push_back(loaded.adapters);
    adapters.emplace(adapter.name, std::move(loaded.adapters));
    notes.insert(notes.end(), loaded.notes.begin(), loaded.notes.end());
  }
  lead_ranks(led);
  bounds.choices = options.streams;
  bounds.vocabulary = model.config().vocabulary;
  bounds.defaults = sampler_options(SamplingSettings(), path, model.config(), &ends);
  if (const auto id = tokenizer.token_id("<|im_end|>"); id && tokenizer.token_id("<|im_start|>"))
    ends.push_back(*id);
}

// Names of hosts as they are compared.
static ServeOptions with_lower_hosts(ServeOptions options) {
  if (!is_unix(options.host)) options.host = in_lower_case(options.host);
  for (std::string& host : options.allowed_hosts) host = in_lower_case(host);
  return options;
}

static std::vector<Listener> listeners_of(const ServeOptions& options) {
  std::vector<Listener> result;
  for (const int file : options.listening) result.push_back(Listener::adopt(file));
  if (result.empty()) result.push_back(Listener::open(options.host, options.port));
  for (const Listener& listener : result)
    if (!listener.local() && options.api_keys.empty() && !options.public_without_key)
      fail(ErrorCode::kInvalidArgument,
           "{} can be reached from other machines: give API keys, or allow it without", listener.address());
  return result;
}

static std::vector<int> released(std::vector<Listener>& listeners) {
  std::vector<int> files;
  for (Listener& listener : listeners) files.push_back(listener.release());
  return files;
}

Server::State::State(const ServeOptions& given)
    : options(with_lower_hosts(given)),
      stalls(given.stall_seconds),
      listeners(listeners_of(options)),
      loopback(std::all_of(listeners.begin(), listeners.end(),
                           [](const Listener& listener) { return listener.local(); })),
      http(
          released(listeners), {}, {given.tls_certificate, given.tls_key},
          [this](std::shared_ptr<HttpExchange> exchange) { handle(std::move(exchange)); },
          [this](int status, const std::string& message) {
            ++answers[status];
            const ApiError error{status, message, "", status == 413 ? "body_too_large" : "",
                                 status == 503 ? 1 : 0};
            HttpHeaders headers = common_headers();
            for (auto& header : error.headers()) headers.push_back(std::move(header));
            return std::pair(std::move(headers), error.body());
          }) {}

Server::State::~State() {
  if (opened) opened->engine.stop();
  live.clear();  // before the connections
}

Server::Server(const ServeOptions& options) {
  if (options.tls_certificate.empty() != options.tls_key.empty())
    fail(ErrorCode::kInvalidArgument, "TLS needs a certificate and its key");
  check_access(options);
  // Before anything listens there.
  if (options.listening.empty() && options.api_keys.empty() && !options.public_without_key &&
      !is_local(in_lower_case(options.host)))
    fail(ErrorCode::kInvalidArgument,
         "{} can be reached from other machines: give API keys, or allow it without", options.host);
  state_ = std::make_unique<State>(options);
}

Server::~Server() = default;

std::string Server::address() const {
  const Listener& first = state_->listeners.front();
  if (first.unix_socket()) return first.address();
  return (state_->options.tls_certificate.empty() ? "http://" : "https://") + first.address();
}

std::vector<std::string> Server::open(const Model& model, const std::string& path,
                                      const std::optional<Model>& draft) {
  State* state = state_.get();
  auto served = std::make_shared<ServedModel>(
      model, path, draft, state->options, [state](std::span<const EngineEvent> events) {
        state->http.post(
            [state, copy = std::vector<EngineEvent>(events.begin(), events.end())] { state->take(copy); });
      });
  served->engine.prepare_grammars();
  served->engine.start();
  std::vector<std::string> notes = served->notes;
  const std::scoped_lock lock(state->mutex);
  state->opened = std::move(served);
  return notes;
}

int64_t Server::context() const {
  const std::scoped_lock lock(state_->mutex);
  return state_->opened ? state_->opened->engine.context() : 0;
}

uint64_t Server::kv_bytes() const {
  const std::scoped_lock lock(state_->mutex);
  return state_->opened ? state_->opened->engine.statistics().kv_bytes_limit : 0;
}

std::string Server::trouble() const {
  try {
    std::shared_ptr<ServedModel> model;
    {
      const std::scoped_lock lock(state_->mutex);
      model = state_->opened;
    }
    if (model) state_->expect_working(*model);
    return {};
  } catch (const ApiError& error) {
    return error.message;
  }
}

bool Server::run(const std::function<bool()>& ending) {
  state_->ending = ending;
  state_->http.after(kTick, [this] { state_->tick(); });
  state_->http.run();
  return state_->whole;
}

void Server::stop() {
  state_->http.stop();
}

double Server::State::now() const {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

std::shared_ptr<ServedModel> Server::State::served() const {
  const std::scoped_lock lock(mutex);
  if (!opened) throw ApiError{503, "the model is being loaded", "", "loading", 1};
  return opened;
}

void Server::State::expect_working(const ServedModel& model) const {
  if (const std::string why = model.engine.failure(); !why.empty())
    throw ApiError{503, "the engine has failed and takes no more requests: " + why, "", "engine_failed"};
  if (const auto taken = stalls.stalled(now(), model.engine.statistics().step_began))
    throw ApiError{503, fmt::format("the engine's step has not ended for {:.0f} seconds", *taken), "",
                   "engine_stalled", 10};
}

// Keeps silent streams open, and ends the server when that is wanted.
void Server::State::tick() {
  const double time = now();
  {
    const std::scoped_lock lock(mutex);
    if (opened) stalls.look(time, opened->engine.statistics().step_began);
  }
  std::vector<std::shared_ptr<ServerWork>> works;
  for (const auto& [number, work] : live)
    if (works.empty() || works.back() != work.first) works.push_back(work.first);
  for (const std::shared_ptr<ServerWork>& work : works)
    if (work->stream && time - work->spoken > kKeepAlive) send(*work, ":\n\n");
  if (!draining && ending && ending()) {
    draining = true;
    drain_until = time + options.drain_seconds;
  }
  if (draining) {
    if (time > drain_until) {
      for (const std::shared_ptr<ServerWork>& work : works) {
        whole = false;
        fail(work, {503, "the server is shutting down", "", "shutting_down", 1});
      }
    }
    if (live.empty() && ++quiet_ticks >= kLastWords) return http.stop();
  }
  http.after(kTick, [this] { tick(); });
}

HttpHeaders Server::State::common_headers() const {
  HttpHeaders headers{{"x-request-id", new_id("req_")}, {"X-Content-Type-Options", "nosniff"}};
  if (!options.cors_origin.empty()) {
    headers.emplace_back("Access-Control-Allow-Origin", options.cors_origin);
    headers.emplace_back("Vary", "Origin");
  }
  return headers;
}

void Server::State::respond(const std::shared_ptr<HttpExchange>& exchange, int status, HttpHeaders headers,
                            std::string body) {
  ++answers[status];
  HttpHeaders all = common_headers();
  for (auto& header : headers) all.push_back(std::move(header));
  exchange->respond(status, all, std::move(body));
}

void Server::State::respond(const std::shared_ptr<HttpExchange>& exchange, const Json& json) {
  respond(exchange, 200, {{"Content-Type", "application/json"}}, json.dump(-1, Json::Invalid::kReplace));
}

void Server::State::refuse(const std::shared_ptr<HttpExchange>& exchange, const ApiError& error) {
  respond(exchange, error.status, error.headers(), error.body());
}

void Server::State::submit(const std::shared_ptr<ServerWork>& work, std::vector<EngineRequest> requests) {
  if (work->exchange->gone()) return;
  if (draining) throw ApiError{503, "the server is shutting down", "", "shutting_down", 1};
  Engine& engine = work->served->engine;
  expect_working(*work->served);
  const size_t most = static_cast<size_t>(options.streams) + static_cast<size_t>(options.queue);
  if (requests.size() > most)
    bad_field("prompt", "prompt has {} prompts, this server holds at most {} at a time", requests.size(),
              most);
  for (size_t i = 0; i < requests.size(); ++i) {
    const std::optional<uint64_t> number = engine.submit(std::move(requests[i]));
    if (!number) {
      forget(*work, true);
      const EngineStatistics statistics = engine.statistics();
      const double each = statistics.finished == 0
                              ? 1
                              : statistics.request_seconds.sum / static_cast<double>(statistics.finished);
      const double wait = each * static_cast<double>(statistics.waiting) / options.streams;
      throw ApiError{429, fmt::format("{} requests are waiting: the queue is full", statistics.waiting), "",
                     "queue_full", static_cast<int>(std::clamp(wait + 0.999, 1.0, 60.0))};
    }
    work->numbers.push_back(*number);
    live[*number] = {work, static_cast<int>(i)};
    ++work->open;
  }
  work->spoken = now();
  work->exchange->when_gone([this, weak = std::weak_ptr(work)] {
    if (const auto gone = weak.lock()) forget(*gone, true);
  });
}

void Server::State::forget(const ServerWork& work, bool cancel) {
  for (const uint64_t number : work.numbers)
    if (live.erase(number) != 0 && cancel) work.served->engine.cancel(number);
}

void Server::State::send(ServerWork& work, const std::string& text) {
  if (!work.begun) {
    work.begun = true;
    ++answers[200];
    HttpHeaders headers = common_headers();
    headers.emplace_back("Content-Type", "text/event-stream; charset=utf-8");
    headers.emplace_back("Cache-Control", "no-cache");
    headers.emplace_back("X-Accel-Buffering", "no");
    work.exchange->begin_stream(headers);
  }
  work.spoken = now();
  work.exchange->write(text);
}

static ApiError error_of(const EngineEvent& event) {
  switch (event.fault) {
    case EngineFault::kGrammar:
      return {400, event.error, "response_format", "grammar_too_large"};
    case EngineFault::kEngine:
      return {503, "the engine has failed: " + event.error, "", "engine_failed"};
    default:
      return {500, event.error};
  }
}

void Server::State::take(const std::vector<EngineEvent>& events) {
  for (const EngineEvent& event : events) {
    const auto found = live.find(event.request);
    if (found == live.end()) continue;
    const auto [work, prompt] = found->second;
    if (!event.error.empty()) {
      fail(work, error_of(event));
      continue;
    }
    const std::string text = work->answer->take(prompt, event);
    if (work->stream && !text.empty()) send(*work, text);
    if (!event.done) continue;
    work->usage.prompt_tokens += event.usage.prompt_tokens;
    work->usage.cached_tokens += event.usage.cached_tokens;
    work->usage.completion_tokens += event.usage.completion_tokens;
    live.erase(event.request);
    if (--work->open == 0) finish(work);
  }
}

void Server::State::finish(const std::shared_ptr<ServerWork>& work) {
  if (!work->stream) return respond(work->exchange, work->answer->whole(work->usage));
  if (work->include_usage) send(*work, stream_event(work->answer->usage_piece(work->usage)));
  send(*work, std::string(kStreamEnd));
  work->exchange->end_stream(true);
}

void Server::State::fail(const std::shared_ptr<ServerWork>& work, const ApiError& error) {
  forget(*work, true);
  if (!work->begun) return refuse(work->exchange, error);
  send(*work, "data: " + error.body() + "\n\n");
  work->exchange->end_stream(false);
}

}  // namespace nfloat
