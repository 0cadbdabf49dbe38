// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_SERVER_SERVER_STATE_H_
#define NFLOAT_SERVER_SERVER_STATE_H_

#include <algorithm>
#include <atomic>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "nfloat/chat.h"
#include "nfloat/engine.h"
#include "nfloat/grammar.h"
#include "nfloat/serve.h"
#include "nfloat/tokenizer.h"
#include "server/answer.h"
#include "server/api_error.h"
#include "server/api_request.h"
#include "server/http.h"
#include "server/listen.h"
#include "server/stall_watch.h"

namespace nfloat {

// Grammars by what they were made of, the last ones used. From any thread; one that takes long to make keeps
// nobody else waiting.
class GrammarCache {
 public:
  Grammar get(const std::string& key, const std::function<Grammar()>& make) {
    if (std::optional<Grammar> kept = find(key)) return *kept;
    Grammar made = make();
    // Two threads may have made the same: one stays.
    if (std::optional<Grammar> kept = find(key)) return *kept;
    const std::scoped_lock lock(mutex_);
    kept_.emplace_front(key, made);
    if (kept_.size() > kMost) kept_.pop_back();
    return made;
  }

 private:
  std::optional<Grammar> find(const std::string& key) {
    const std::scoped_lock lock(mutex_);
    const auto found =
        std::find_if(kept_.begin(), kept_.end(), [&](const auto& one) { return one.first == key; });
    if (found == kept_.end()) return std::nullopt;
    kept_.splice(kept_.begin(), kept_, found);
    return found->second;
  }

  static constexpr size_t kMost = 32;
  std::mutex mutex_;
  std::list<std::pair<std::string, Grammar>> kept_;
};

// The model at work, and what belongs to it. Only the engine changes.
struct ServedModel {
  ServedModel(const Model& weights, const std::string& path, const std::optional<Model>& draft,
              const ServeOptions& options, std::function<void(std::span<const EngineEvent>)> events);

  Model model;
  Tokenizer tokenizer;
  std::optional<ChatTemplate> chat;
  std::vector<int32_t> ends;
  ApiBounds bounds;
  std::string name, format;  // "nf4", "BF16", "Q4_K": of most weights
  int64_t created;
  uint64_t kv_bytes_per_token;
  std::map<std::string, std::shared_ptr<LinearObserver>> adapters;  // by name
  std::vector<std::string> notes;                                   // of them
  GrammarCache grammars;
  Engine engine;
};

// A request that the engine works on.
struct ServerWork {
  std::shared_ptr<HttpExchange> exchange;
  std::shared_ptr<ServedModel> served;
  std::unique_ptr<ApiAnswer> answer;
  std::string id, model;
  bool stream = false, include_usage = false, begun = false;
  std::vector<uint64_t> numbers;  // of its engine requests
  size_t open = 0;                // of those, not ended
  EngineUsage usage;
  double spoken = 0;  // when something was sent
};

struct Server::State {
  explicit State(const ServeOptions& options);
  ~State();

  // Everything below runs on the thread of http.run() unless said otherwise.
  void handle(std::shared_ptr<HttpExchange> exchange);
  void route(const std::shared_ptr<HttpExchange>& exchange);
  void check_host(const HttpRequest& request) const;
  void check_key(const HttpRequest& request) const;

  void respond(const std::shared_ptr<HttpExchange>& exchange, int status, HttpHeaders headers,
               std::string body);
  void respond(const std::shared_ptr<HttpExchange>& exchange, const Json& json);
  void refuse(const std::shared_ptr<HttpExchange>& exchange, const ApiError& error);
  HttpHeaders common_headers() const;

  // Parses and tokenizes on the thread beside, then submits.
  void generate(const std::shared_ptr<HttpExchange>& exchange, bool chat);
  void submit(const std::shared_ptr<ServerWork>& work, std::vector<EngineRequest> requests);
  void take(const std::vector<EngineEvent>& events);
  void send(ServerWork& work, const std::string& text);
  void finish(const std::shared_ptr<ServerWork>& work);
  void fail(const std::shared_ptr<ServerWork>& work, const ApiError& error);
  void forget(const ServerWork& work, bool cancel);
  void tick();
  // Throws a 503 where requests cannot be served though there is a model.
  void expect_working(const ServedModel& model) const;

  Json models(const std::string& only) const;
  Json properties() const;
  std::string metrics() const;
  Json requests() const;
  void small_post(const std::shared_ptr<HttpExchange>& exchange);

  double now() const;
  std::shared_ptr<ServedModel> served() const;  // from any thread; throws a 503 while there is none
  void check_model(const ServedModel& model, const std::string& name) const;

  ServeOptions options;
  std::map<uint64_t, std::pair<std::shared_ptr<ServerWork>, int>> live;  // by engine request; which prompt
  std::map<int, uint64_t> answers;                                       // by status
  std::function<bool()> ending;
  bool draining = false, whole = true;
  double drain_until = 0;
  int quiet_ticks = 0;
  StallWatch stalls;

  mutable std::mutex mutex;
  std::shared_ptr<ServedModel> opened;  // under the mutex

  std::vector<Listener> listeners;
  bool loopback;  // nothing but this machine reaches any of them
  HttpServer http;
};

// Throws kInvalidArgument naming a key or an allowed host that no request can carry.
void check_access(const ServeOptions& options);
// What is wrong with an API key, as the end of a sentence that does not show it; empty: nothing.
std::string fault_of_key(std::string_view key);
// In a time that depends on the lengths only.
bool equal_secrets(std::string_view a, std::string_view b) noexcept;

}  // namespace nfloat

#endif  // NFLOAT_SERVER_SERVER_STATE_H_
