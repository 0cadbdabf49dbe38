// SPDX-License-Identifier: Apache-2.0
// Boost.Asio and Boost.Beast are seen by this file and wire_stream.h alone: their templates take seconds to
// compile.
#include "server/http.h"

#include <utility>  // Boost 1.74's awaitable.hpp needs it and does not say so

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/thread_pool.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>

#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <deque>
#include <list>
#include <optional>
#include <set>
#include <vector>

#include "base/ascii.h"
#include "base/fail.h"
#include "server/wire_stream.h"

namespace nfloat {
namespace {

namespace http = beast::http;
using std::chrono::seconds;

constexpr size_t kLongBody = 64 << 10;             // bytes: some tenths of a second to tokenize at worst
constexpr size_t kReadAhead = 4096;                // bytes at a time
constexpr size_t kMostDrained = size_t{16} << 20;  // bytes read and dropped after an answer that closes

}  // namespace

std::string_view http_reason(int status) noexcept {
  const std::string_view known = http::obsolete_reason(static_cast<http::status>(status)).data();
  return known.empty() ? "Unknown" : known;
}

std::string_view HttpRequest::header(std::string_view name) const noexcept {
  for (const auto& [key, value] : headers)
    if (key == name) return value;
  return {};
}

class HttpConnection;

struct HttpServer::State {
  State(const HttpLimits& given, const HttpTls& files, Handler handle, ErrorBody body)
      : limits(given), tls(make_tls(files)), handler(std::move(handle)), error_body(std::move(body)) {}
  void accept(tcp::acceptor& acceptor);

  HttpLimits limits;
  std::unique_ptr<TlsContext> tls;
  Handler handler;
  ErrorBody error_body;
  std::set<HttpConnection*> connections;  // which end with `io`
  net::io_context io{1};
  std::list<tcp::acceptor> acceptors;
  net::thread_pool worker{1}, long_worker{1};
};

// A connection answers one request after the other; each is an exchange of its own towards the handler.
class HttpConnection final : public HttpExchange, public std::enable_shared_from_this<HttpConnection> {
 public:
  HttpConnection(tcp::socket socket, HttpServer::State& server)
      : server_(server), stream_(std::move(socket), server.tls.get()), idle_(server.io) {
    server_.connections.insert(this);
    beast::error_code ignored;
    stream_.socket().set_option(tcp::no_delay(true), ignored);
  }
  ~HttpConnection() override { server_.connections.erase(this); }

  void start() {
    if (!stream_.secure()) return read_header(server_.limits.header_seconds);
    stream_.layer().expires_after(seconds(server_.limits.header_seconds));
    stream_.async_handshake([self = shared_from_this()](beast::error_code error) {
      if (error) return self->shut();
      self->read_header(self->server_.limits.header_seconds);
    });
  }
  void refuse(int status, const std::string& message) {
    version_ = 11;
    keep_alive_ = false;
    answer_error(status, message);
  }
  void shut() {
    lose();
    beast::error_code ignored;
    stream_.socket().close(ignored);
  }

  const HttpRequest& request() const noexcept override { return request_; }
  bool gone() const noexcept override { return gone_; }
  void when_gone(std::function<void()> gone) override {
    if (gone_)
      gone();
    else
      when_gone_ = std::move(gone);
  }

  void respond(int status, const HttpHeaders& headers, std::string body) override {
    if (gone_ || phase_ != Phase::kWorking) return;
    std::string text = head(status, headers);
    text += fmt::format("Content-Length: {}\r\n\r\n", body.size());
    if (request_.method != "HEAD") text += body;
    phase_ = Phase::kEnding;
    when_gone_ = nullptr;
    push(std::move(text));
  }
  void begin_stream(const HttpHeaders& headers) override {
    if (gone_ || phase_ != Phase::kWorking) return;
    chunked_ = version_ >= 11;
    if (!chunked_) keep_alive_ = false;
    std::string text = head(200, headers);
    if (chunked_) text += "Transfer-Encoding: chunked\r\n";
    phase_ = Phase::kStreaming;
    push(text + "\r\n");
  }
  void write(std::string_view piece) override {
    if (gone_ || phase_ != Phase::kStreaming || piece.empty()) return;
    push(chunked_ ? fmt::format("{:x}\r\n{}\r\n", piece.size(), piece) : std::string(piece));
    if (reads_too_slowly()) shut();
  }
  void end_stream(bool complete) override {
    if (gone_ || phase_ != Phase::kStreaming) return;
    phase_ = Phase::kEnding;
    when_gone_ = nullptr;
    if (!complete) keep_alive_ = false;
    if (complete && chunked_)
      push("0\r\n\r\n");
    else
      write_next();
  }

 private:
  enum class Phase : uint8_t { kReading, kWorking, kStreaming, kEnding };
  using Parser = http::request_parser<http::string_body>;

  void read_header(int timeout) {
    phase_ = Phase::kReading;
    parser_.emplace();
    parser_->header_limit(server_.limits.header_bytes);
    parser_->body_limit(server_.limits.body_bytes);
    stream_.layer().expires_after(seconds(timeout));
    http::async_read_header(
        stream_, buffer_, *parser_,
        [self = shared_from_this()](beast::error_code error, size_t) { self->have_header(error); });
  }
  void have_header(beast::error_code error) {
    if (error) return refuse_input(error);
    const auto& message = parser_->get();
    version_ = message.version();
    keep_alive_ = message.keep_alive();
    for (auto [field, end] = message.equal_range(http::field::connection); field != end; ++field)
      if (http::token_list{field->value()}.exists("close")) keep_alive_ = false;
    if (message.count(http::field::host) > 1) {  // RFC 9112, 3.2
      keep_alive_ = false;
      return answer_error(400, "the request has several Host headers");
    }
    // What comes after a body whose end is not known would be taken for the next request.
    const size_t codings = message.count(http::field::transfer_encoding);
    if (codings > 1 ||
        (codings == 1 && !beast::iequals(message[http::field::transfer_encoding], "chunked"))) {
      keep_alive_ = false;
      return answer_error(400, "the transfer encoding is not chunked");
    }
    if (const auto coding = message[http::field::content_encoding];
        !coding.empty() && !beast::iequals(coding, "identity")) {
      keep_alive_ = false;
      return answer_error(415, "the content encoding is not identity");
    }
    if (beast::iequals(message[http::field::expect], "100-continue")) {
      stream_.layer().expires_after(seconds(server_.limits.write_seconds));
      static constexpr std::string_view kContinue = "HTTP/1.1 100 Continue\r\n\r\n";
      net::async_write(stream_, net::buffer(kContinue.data(), kContinue.size()),
                       [self = shared_from_this()](beast::error_code failed, size_t) {
                         if (!failed) self->read_body();
                       });
      return;
    }
    read_body();
  }
  void read_body() {
    stream_.layer().expires_after(seconds(server_.limits.body_seconds));
    http::async_read(
        stream_, buffer_, *parser_,
        [self = shared_from_this()](beast::error_code error, size_t) { self->have_body(error); });
  }
  void have_body(beast::error_code error) {
    if (error) return refuse_input(error);
    stream_.layer().expires_never();
    auto message = parser_->release();
    request_ = HttpRequest();
    request_.method = std::string(message.method_string());
    std::string_view target{message.target().data(), message.target().size()}, authority;
    if (target.starts_with("http://") || target.starts_with("https://")) {  // RFC 9112, 3.2.2
      target.remove_prefix(target.find("//") + 2);
      authority = target.substr(0, target.find_first_of("/?"));
      target.remove_prefix(authority.size());
      request_.headers.emplace_back("host", authority);  // in place of the header
      if (!target.starts_with('/')) target = "/";
    }
    request_.path = std::string(target.substr(0, target.find('?')));
    for (const auto& field : message)
      request_.headers.emplace_back(in_lower_case({field.name_string().data(), field.name_string().size()}),
                                    std::string(field.value()));
    request_.body = std::move(message.body());
    phase_ = Phase::kWorking;
    watch();
    server_.handler(shared_from_this());
  }
  void refuse_input(beast::error_code error) {
    if (error == http::error::end_of_stream || error == net::error::operation_aborted ||
        error == net::error::connection_reset)
      return shut();
    keep_alive_ = false;
    if (error == beast::error::timeout) {
      // A connection that says nothing is closed without a word.
      if (!parser_->got_some()) return shut();
      return answer_error(408, "the request did not come in time");
    }
    if (error == http::error::body_limit)
      return answer_error(413, fmt::format("the body has more than {} bytes", server_.limits.body_bytes));
    if (error == http::error::header_limit || error == http::error::buffer_overflow)
      return answer_error(431, fmt::format("the header has more than {} bytes", server_.limits.header_bytes));
    if (error == http::error::partial_message) return shut();
    answer_error(400, "this is not HTTP: " + error.message());
  }
  void answer_error(int status, const std::string& message) {
    phase_ = Phase::kWorking;
    auto [headers, body] = server_.error_body(status, message);
    respond(status, headers, std::move(body));
  }

  // Sees a client that goes away while its request is at work. What it sends in advance stays where it is.
  void watch() {
    if (watching_ || (stream_.secure() && buffer_.size() > 0)) return;
    watching_ = true;
    if (stream_.secure()) return read_ahead();
    stream_.socket().async_wait(tcp::socket::wait_read, [weak = weak_from_this()](beast::error_code error) {
      if (const auto self = weak.lock()) self->readable(error);
    });
  }
  void readable(beast::error_code error) {
    watching_ = false;
    if (error || (phase_ != Phase::kWorking && phase_ != Phase::kStreaming)) return;
    char byte = 0;
    const ssize_t count = ::recv(stream_.socket().native_handle(), &byte, 1, MSG_PEEK | MSG_DONTWAIT);
    if (count > 0) return;
    if (count < 0 && (errno == EAGAIN || errno == EINTR)) return watch();
    shut();
  }
  // Only reading tells that a client of TLS goes away. What it sends in advance waits in the buffer, and
  // nothing is known of it from then on.
  void read_ahead() {
    stream_.async_read_some(buffer_.prepare(kReadAhead),
                            [self = shared_from_this()](beast::error_code error, size_t count) {
                              self->watching_ = false;
                              self->idle_.cancel();
                              if (error) return self->shut();
                              self->buffer_.commit(count);
                              if (self->phase_ == Phase::kReading)
                                self->read_header(self->server_.limits.header_seconds);
                            });
  }
  void lose() {
    gone_ = true;
    idle_.cancel();
    if (const auto gone = std::exchange(when_gone_, nullptr)) gone();
  }

  std::string head(int status, const HttpHeaders& headers) const {
    std::string text =
        fmt::format("HTTP/{} {} {}\r\n", version_ >= 11 ? "1.1" : "1.0", status, http_reason(status));
    for (const auto& [name, value] : headers) text += fmt::format("{}: {}\r\n", name, value);
    if (!keep_alive_)
      text += "Connection: close\r\n";
    else if (version_ < 11)
      text += "Connection: keep-alive\r\n";
    return text;
  }
  void push(std::string text) {
    waiting_bytes_ += text.size();
    outbox_.push_back(std::move(text));
    write_next();
  }
  // A client that others kept from the processor for a moment may still catch up.
  bool reads_too_slowly() {
    const size_t most = server_.limits.outbox_bytes;
    if (waiting_bytes_ <= most) return false;
    const auto time = std::chrono::steady_clock::now();
    if (!behind_since_) behind_since_ = time;
    return waiting_bytes_ > 16 * most || time - *behind_since_ > seconds(server_.limits.outbox_seconds);
  }
  void write_next() {
    if (writing_ || gone_) return;
    if (outbox_.empty()) {
      if (phase_ == Phase::kEnding) next();
      return;
    }
    writing_ = true;
    at_work_.clear();
    for (std::string& text : outbox_) at_work_ += text;
    outbox_.clear();
    stream_.layer().expires_after(seconds(server_.limits.write_seconds));
    net::async_write(stream_, net::buffer(at_work_),
                     [self = shared_from_this()](beast::error_code error, size_t) { self->written(error); });
  }
  void written(beast::error_code error) {
    writing_ = false;
    if (gone_) return;
    if (error) return shut();
    stream_.layer().expires_never();
    waiting_bytes_ -= at_work_.size();
    if (waiting_bytes_ <= server_.limits.outbox_bytes) behind_since_.reset();
    write_next();
  }
  void next() {
    if (keep_alive_ && stream_.secure() && watching_) return wait_for_next();
    if (keep_alive_) return read_header(server_.limits.idle_seconds);
    stream_.layer().expires_after(seconds(2));
    if (stream_.secure()) return say_goodbye();
    stop_sending();
  }
  // The next request comes to read_ahead().
  void wait_for_next() {
    phase_ = Phase::kReading;
    idle_.expires_after(seconds(server_.limits.idle_seconds));
    idle_.async_wait([weak = weak_from_this()](beast::error_code error) {
      const auto self = weak.lock();
      if (!error && self && self->phase_ == Phase::kReading && self->watching_) self->shut();
    });
  }
  // Fails where the client sends anything else than its own goodbye.
  void say_goodbye() {
    stream_.async_close([self = shared_from_this()](beast::error_code) {
      if (self->watching_) return self->shut();
      self->stop_sending();
    });
  }
  // The client may still be sending: a closed socket would answer with a reset, and the answer be lost.
  void stop_sending() {
    beast::error_code ignored;
    stream_.socket().shutdown(tcp::socket::shutdown_send, ignored);
    drain();
  }
  // Beneath TLS, which has ended.
  void drain() {
    stream_.layer().async_read_some(net::buffer(dropped_),
                                    [self = shared_from_this()](beast::error_code error, size_t count) {
                                      self->drained_ += count;
                                      if (error || self->drained_ > kMostDrained) return self->shut();
                                      self->drain();
                                    });
  }

  HttpServer::State& server_;
  WireStream stream_;
  net::steady_timer idle_;  // of a TLS connection between two requests
  beast::flat_buffer buffer_;
  std::optional<Parser> parser_;
  HttpRequest request_;
  Phase phase_ = Phase::kReading;
  unsigned version_ = 11;
  bool keep_alive_ = true, chunked_ = true, gone_ = false, watching_ = false, writing_ = false;
  std::function<void()> when_gone_;
  std::deque<std::string> outbox_;
  std::string at_work_;
  size_t waiting_bytes_ = 0, drained_ = 0;
  std::optional<std::chrono::steady_clock::time_point> behind_since_;  // more waits than may
  std::array<char, 4096> dropped_;
};

void HttpServer::State::accept(tcp::acceptor& acceptor) {
  acceptor.async_accept([this, &acceptor](beast::error_code error, tcp::socket socket) {
    if (!acceptor.is_open()) return;
    if (!error) {
      const bool full = connections.size() >= static_cast<size_t>(limits.connections);
      const auto connection = std::make_shared<HttpConnection>(std::move(socket), *this);
      if (full)
        connection->refuse(503, "too many connections");
      else
        connection->start();
    }
    accept(acceptor);
  });
}

HttpServer::HttpServer(std::span<const int> listening, const HttpLimits& limits, const HttpTls& tls,
                       Handler handler, ErrorBody error_body) {
  size_t taken = 0;
  try {
    state_ = std::make_unique<State>(limits, tls, std::move(handler), std::move(error_body));
    for (const int file : listening) {
      beast::error_code error;
      // Of a Unix socket too: nothing here asks for what only TCP has.
      state_->acceptors.emplace_back(state_->io).assign(tcp::v4(), file, error);
      if (error) fail(ErrorCode::kIo, "a socket that listens: {}", error.message());
      ++taken;
    }
  } catch (...) {
    for (const int file : listening.subspan(taken)) ::close(file);
    throw;
  }
}

HttpServer::~HttpServer() {
  state_->worker.join();
  state_->long_worker.join();
}

void HttpServer::run() {
  for (tcp::acceptor& acceptor : state_->acceptors) state_->accept(acceptor);
  const auto work = net::make_work_guard(state_->io);
  state_->io.run();
}

void HttpServer::stop() {
  post([this] {
    stop_accepting();
    std::vector<std::shared_ptr<HttpConnection>> all;  // shutting one may let go of another
    for (HttpConnection* connection : state_->connections) all.push_back(connection->shared_from_this());
    for (const auto& connection : all) connection->shut();
    state_->io.stop();
  });
}

void HttpServer::stop_accepting() {
  beast::error_code ignored;
  for (tcp::acceptor& acceptor : state_->acceptors) acceptor.close(ignored);
}

void HttpServer::post(std::function<void()> work) {
  net::post(state_->io, std::move(work));
}

void HttpServer::after(double wait, std::function<void()> work) {
  const auto timer = std::make_shared<net::steady_timer>(
      state_->io,
      std::chrono::duration_cast<net::steady_timer::duration>(std::chrono::duration<double>(wait)));
  timer->async_wait([timer, work = std::move(work)](beast::error_code error) {
    if (!error) work();
  });
}

void HttpServer::background(size_t body_bytes, std::function<void()> work) {
  net::post(body_bytes > kLongBody ? state_->long_worker : state_->worker, std::move(work));
}

}  // namespace nfloat
