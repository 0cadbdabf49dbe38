// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_SERVE_H_
#define NFLOAT_SERVE_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "nfloat/adapter.h"
#include "nfloat/api.h"
#include "nfloat/model.h"

namespace nfloat {

// Adapters that requests choose by naming them as the model.
struct ServedAdapter {
  std::string name;
  AdapterChoice choice;
};

struct ServeOptions {
  std::string host = "127.0.0.1";  // an IP address, localhost, or unix:PATH (a socket of its owner alone)
  uint16_t port = 8080;            // 0: a free one
  // Sockets that listen already, as service managers hand them over: in place of host and port. The server
  // closes them.
  std::vector<int> listening = {};
  int streams = 8;                                   // sequences that are continued together
  int queue = 64;                                    // requests that may wait
  int64_t context = 0;                               // tokens of one sequence; 0: the model's context
  uint64_t kv_bytes = 0;                             // EngineOptions::kv_bytes
  std::string prefix_folder = {};                    // likewise
  uint64_t prefix_folder_bytes = uint64_t{4} << 30;  // likewise
  KvCacheType kv_cache = KvCacheType::kAuto;
  double step_seconds = 0.1;    // longest step with a piece of a prompt
  int64_t max_tokens = 0;       // of an answer whose request names no limit; 0: what the context has room for
  std::string model_name = {};  // what the API calls the model; empty: the last part of its path
  std::vector<ServedAdapter> adapters = {};
  int64_t look_up = 0;                          // GenerationOptions::look_up of all requests
  bool any_model = false;                       // requests may name any model
  std::vector<std::string> api_keys = {};       // empty: none is asked for
  bool public_without_key = false;              // allows an address that is not loopback without keys
  std::vector<std::string> allowed_hosts = {};  // of the Host header, besides loopback and `host`; no ports
  std::string cors_origin = {};                 // that browsers may call from; empty: none
  std::string chat_template = {};               // a template's text; empty: the model's own
  // PEM files: the certificate with those that vouch for it, and its key. Empty: no TLS.
  std::string tls_certificate = {}, tls_key = {};
  double drain_seconds = 30;  // how long running answers may take to end
  // A step that takes longer counts as stalled: until it has ended /health and new requests get 503.
  double stall_seconds = 120;
};

// The keys in a file's text: one a line, spaces around it left out, as are empty lines, those that begin with
// #, and keys that stood before. Throws kInvalidArgument, naming `source` and the line and never a key, for
// one that is not visible ASCII alone, and where there is none.
NFLOAT_API std::vector<std::string> read_api_keys(std::string_view text, const std::string& source);

// A server of the OpenAI API (chat completions, completions, models), with /health, /metrics, /tokenize and a
// page to talk with the model. It listens from construction on and answers 503 until a model is opened.
class NFLOAT_API Server {
 public:
  // Throws kInvalidArgument (address; not loopback without keys; keys and hosts that no
  // request can carry; certificate and key), kAlreadyExists (at the
  // path of the Unix socket is something else, or a server), kIo (in use, not
  // permitted), kUnsupported (TLS in a build without OpenSSL).
  explicit Server(const ServeOptions& options);
  ~Server();
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  // Of the first socket: "http://127.0.0.1:8080", or "unix:/run/nfloat.sock".
  std::string address() const;

  // Serves `model`, which came from `path` with tokenizer, template and generation_config.json, from now on.
  // `draft`: EngineOptions::draft. Of models over ranks this is rank 0, which leads the others
  // (nfloat/lead.h): they call lead_ranks() with model, draft and the adapters in their order. From any
  // thread, once. Throws what Tokenizer::load, ChatTemplate::load, load_adapters and Engine throw;
  // kInvalidArgument: two adapters of one name. Returns what load_adapters notes of the adapters.
  std::vector<std::string> open(const Model& model, const std::string& path,
                                const std::optional<Model>& draft = std::nullopt);

  // Of the model that is served: tokens of a sequence, and what keys and values may take; 0 before there is
  // one.
  int64_t context() const;
  uint64_t kv_bytes() const;
  // Why requests are not taken though the model is there: the engine failed, or its step takes too long.
  // Empty: they are. From any thread.
  std::string trouble() const;

  // Serves until `ending`, asked four times a second, returns true: then new requests get 503, and running
  // answers have drain_seconds to end. False: some were broken off.
  bool run(const std::function<bool()>& ending);
  // Ends run() at once. From any thread.
  void stop();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace nfloat

#endif  // NFLOAT_SERVE_H_
