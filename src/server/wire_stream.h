// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_SERVER_WIRE_STREAM_H_
#define NFLOAT_SERVER_WIRE_STREAM_H_

// Of http.cpp alone.
#include <utility>  // Boost 1.74's awaitable.hpp needs it and does not say so

#include <boost/asio/ip/tcp.hpp>
#include <boost/beast/core.hpp>
#ifdef NFLOAT_TLS
#include <boost/asio/ssl.hpp>
#endif

#include <memory>
#include <optional>

#include "base/fail.h"
#include "server/http.h"

namespace nfloat {

namespace net = boost::asio;
namespace beast = boost::beast;
using tcp = net::ip::tcp;

#ifdef NFLOAT_TLS
using TlsContext = net::ssl::context;
#else
struct TlsContext {};
#endif

// Null: no TLS. Throws as HttpServer.
inline std::unique_ptr<TlsContext> make_tls(const HttpTls& files) {
  if (files.certificate.empty() && files.key.empty()) return nullptr;
#ifdef NFLOAT_TLS
  auto context = std::make_unique<TlsContext>(TlsContext::tls_server);
  context->set_options(TlsContext::default_workarounds | TlsContext::no_sslv2 | TlsContext::no_sslv3 |
                       TlsContext::no_tlsv1 | TlsContext::no_tlsv1_1 | TlsContext::single_dh_use);
  beast::error_code error;
  context->use_certificate_chain_file(files.certificate, error);
  if (error)
    fail(ErrorCode::kInvalidArgument, "{}: not a certificate: {}", files.certificate, error.message());
  context->use_private_key_file(files.key, TlsContext::pem, error);
  if (error)
    fail(ErrorCode::kInvalidArgument, "{}: not the key of {}: {}", files.key, files.certificate,
         error.message());
  return context;
#else
  fail(ErrorCode::kUnsupported, "this build has no TLS: it was made without OpenSSL");
#endif
}

// A socket, with or without TLS.
class WireStream {
 public:
  using executor_type = beast::tcp_stream::executor_type;

  WireStream(tcp::socket socket, [[maybe_unused]] TlsContext* context) : tcp_(std::move(socket)) {
#ifdef NFLOAT_TLS
    if (context != nullptr) tls_.emplace(tcp_, *context);
#endif
  }
  executor_type get_executor() noexcept {
    return tcp_.get_executor();
  }
  beast::tcp_stream& layer() noexcept {
    return tcp_;
  }
  tcp::socket& socket() noexcept {
    return tcp_.socket();
  }

#ifdef NFLOAT_TLS
  bool secure() const noexcept {
    return tls_.has_value();
  }
  template <typename Handler>
  void async_handshake(Handler&& handler) {
    tls_->async_handshake(net::ssl::stream_base::server, std::forward<Handler>(handler));
  }
  template <typename Handler>
  void async_close(Handler&& handler) {
    tls_->async_shutdown(std::forward<Handler>(handler));
  }
  template <typename Buffers, typename Handler>
  void async_read_some(const Buffers& buffers, Handler&& handler) {
    if (tls_)
      tls_->async_read_some(buffers, std::forward<Handler>(handler));
    else
      tcp_.async_read_some(buffers, std::forward<Handler>(handler));
  }
  template <typename Buffers, typename Handler>
  void async_write_some(const Buffers& buffers, Handler&& handler) {
    if (tls_)
      tls_->async_write_some(buffers, std::forward<Handler>(handler));
    else
      tcp_.async_write_some(buffers, std::forward<Handler>(handler));
  }
#else
  bool secure() const noexcept {
    return false;
  }
  template <typename Handler>
  void async_handshake(Handler&&) {}
  template <typename Handler>
  void async_close(Handler&&) {}
  template <typename Buffers, typename Handler>
  void async_read_some(const Buffers& buffers, Handler&& handler) {
    tcp_.async_read_some(buffers, std::forward<Handler>(handler));
  }
  template <typename Buffers, typename Handler>
  void async_write_some(const Buffers& buffers, Handler&& handler) {
    tcp_.async_write_some(buffers, std::forward<Handler>(handler));
  }
#endif

 private:
  beast::tcp_stream tcp_;
#ifdef NFLOAT_TLS
  std::optional<net::ssl::stream<beast::tcp_stream&>> tls_;
#endif
};

}  // namespace nfloat

#endif  // NFLOAT_SERVER_WIRE_STREAM_H_
