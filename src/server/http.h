// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_SERVER_HTTP_H_
#define NFLOAT_SERVER_HTTP_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace nfloat {

using HttpHeaders = std::vector<std::pair<std::string, std::string>>;

struct HttpRequest {
  std::string method, path;  // the path without its query
  HttpHeaders headers;       // names in lower case
  std::string body;

  // Of several with one name the first; empty: none.
  std::string_view header(std::string_view name) const noexcept;
};

struct HttpLimits {
  uint32_t header_bytes = 16 << 10;
  uint64_t body_bytes = uint64_t{8} << 20;
  // Of a stream that its client does not read: it is ended when so much has waited for `outbox_seconds`, and
  // at once when 16 times as much waits.
  size_t outbox_bytes = 256 << 10;
  int connections = 512;
  int header_seconds = 10, body_seconds = 30, idle_seconds = 60, write_seconds = 30, outbox_seconds = 1;
};

// PEM files; empty: no TLS.
struct HttpTls {
  std::string certificate, key;  // the chain, the server's own first
};

// One request and its answer. All calls on the thread of HttpServer::run.
class HttpExchange {
 public:
  virtual ~HttpExchange() = default;

  virtual const HttpRequest& request() const noexcept = 0;
  // A whole answer; Content-Length is added.
  virtual void respond(int status, const HttpHeaders& headers, std::string body) = 0;
  // An answer in pieces: begin, write any number, end. A connection that is ended without `complete` breaks
  // off.
  virtual void begin_stream(const HttpHeaders& headers) = 0;
  virtual void write(std::string_view piece) = 0;
  virtual void end_stream(bool complete) = 0;
  // Called once when the client goes away, or reads too slowly, before the answer has ended.
  virtual void when_gone(std::function<void()> gone) = 0;
  virtual bool gone() const noexcept = 0;
};

// HTTP/1.1 and 1.0 on one thread, over TLS 1.2 or later where that is wanted. It answers itself what is not
// HTTP, too large or too slow.
class HttpServer {
 public:
  using Handler = std::function<void(std::shared_ptr<HttpExchange>)>;
  // Makes the body and headers of the server's own answers.
  using ErrorBody =
      std::function<std::pair<HttpHeaders, std::string>(int status, const std::string& message)>;

  // `listening`: sockets that listen, which are its own from now on. Throws kInvalidArgument (certificate and
  // key that are none or do not fit), kIo, kUnsupported (TLS in a build without OpenSSL).
  HttpServer(std::span<const int> listening, const HttpLimits& limits, const HttpTls& tls, Handler handler,
             ErrorBody error_body);
  ~HttpServer();
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;

  // Serves until stop().
  void run();
  // Breaks off all connections. From any thread.
  void stop();
  // Takes no further connections; what is open goes on.
  void stop_accepting();
  // Calls `work` on the thread of run(). From any thread.
  void post(std::function<void()> work);
  void after(double seconds, std::function<void()> work);
  // Calls `work` on a thread beside, one after the other; of long bodies on another, so that short ones do
  // not wait for them. An exchange that it holds must be handed back by post() and not be left in it.
  void background(size_t body_bytes, std::function<void()> work);

  struct State;

 private:
  std::unique_ptr<State> state_;
};

// "OK", "Not Found", ...
std::string_view http_reason(int status) noexcept;

}  // namespace nfloat

#endif  // NFLOAT_SERVER_HTTP_H_
