// SPDX-License-Identifier: Apache-2.0
// The server over TLS, with OpenSSL's own client.
#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <memory>
#include <thread>

#include "nfloat/error.h"
#include "nfloat/serve.h"
#include "support/paths.h"

namespace nfloat {
namespace {

// A certificate that vouches for itself.
void make_certificate(const std::string& certificate, const std::string& key) {
  EVP_PKEY* const pair = EVP_EC_gen("P-256");
  X509* const made = X509_new();
  X509_set_version(made, 2);
  ASN1_INTEGER_set(X509_get_serialNumber(made), 1);
  X509_gmtime_adj(X509_getm_notBefore(made), -3600);
  X509_gmtime_adj(X509_getm_notAfter(made), 3600);
  X509_set_pubkey(made, pair);
  X509_NAME* const name = X509_get_subject_name(made);
  X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, reinterpret_cast<const unsigned char*>("localhost"),
                             -1, -1, 0);
  X509_set_issuer_name(made, name);
  X509_sign(made, pair, EVP_sha256());
  std::FILE* file = std::fopen(certificate.c_str(), "w");
  PEM_write_X509(file, made);
  std::fclose(file);
  file = std::fopen(key.c_str(), "w");
  PEM_write_PrivateKey(file, pair, nullptr, nullptr, 0, nullptr, nullptr);
  std::fclose(file);
  X509_free(made);
  EVP_PKEY_free(pair);
}

class TlsClient {
 public:
  TlsClient(uint16_t port, const std::string& certificate)
      : context_(SSL_CTX_new(TLS_client_method())), socket_(::socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    const timeval limit{120, 0};
    ::setsockopt(socket_, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    EXPECT_EQ(::connect(socket_, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    EXPECT_EQ(SSL_CTX_load_verify_locations(context_, certificate.c_str(), nullptr), 1);
    SSL_CTX_set_verify(context_, SSL_VERIFY_PEER, nullptr);
    tls_ = SSL_new(context_);
    SSL_set_fd(tls_, socket_);
    connected_ = SSL_connect(tls_) == 1;
  }
  ~TlsClient() {
    SSL_free(tls_);
    SSL_CTX_free(context_);
    ::close(socket_);
  }
  TlsClient(const TlsClient&) = delete;
  TlsClient& operator=(const TlsClient&) = delete;

  bool connected() const { return connected_; }
  void send(const std::string& text) { SSL_write(tls_, text.data(), static_cast<int>(text.size())); }
  std::string receive(std::string_view end) {
    std::string text;
    char part[4096];
    for (int count; text.find(end) == std::string::npos && (count = SSL_read(tls_, part, sizeof part)) > 0;)
      text.append(part, static_cast<size_t>(count));
    return text;
  }

 private:
  SSL_CTX* context_;
  int socket_;
  SSL* tls_ = nullptr;
  bool connected_ = false;
};

std::string post(const std::string& body) {
  return "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: "
         "application/json\r\nContent-Length: " +
         std::to_string(body.size()) + "\r\n\r\n" + body;
}

TEST(Tls, CarriesAnswersStreamsAndTheEndOfAClient) {
  const std::string folder = testing::source_path("/models/nfloat-tiny");
  const std::string certificate = ::testing::TempDir() + "/tls_chain.pem",
                    key = ::testing::TempDir() + "/tls_key.pem";
  make_certificate(certificate, key);
  ServeOptions options;
  options.port = 0;
  options.tls_certificate = certificate;
  EXPECT_THROW(Server{options}, Error) << "without a key";
  options.tls_key = certificate;
  EXPECT_THROW(Server{options}, Error) << "not a key";
  options.tls_key = key;
  Server server(options);
  ASSERT_TRUE(server.address().starts_with("https://")) << server.address();
  const auto port =
      static_cast<uint16_t>(std::stoi(server.address().substr(server.address().rfind(':') + 1)));
  server.open(Model::load(folder, {.precision = Precision::kInt8, .threads = 1}), folder);
  std::thread thread([&] { server.run([] { return false; }); });
  {
    TlsClient client(port, certificate);
    ASSERT_TRUE(client.connected());
    for (int i = 0; i < 3; ++i) {  // on one connection
      client.send("GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n");
      EXPECT_NE(client.receive("\"ok\"").find("200 OK"), std::string::npos) << i;
    }
    // Two at once: the second waits.
    const std::string wanted = post(R"({"prompt": "The sea", "max_tokens": 20, "stream": true})");
    client.send(wanted + "GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    const std::string answers = client.receive("\x01never");
    EXPECT_NE(answers.find("[DONE]"), std::string::npos);
    EXPECT_LT(answers.find("[DONE]"), answers.find("\"ok\"")) << answers;
  }
  {
    TlsClient client(port, certificate);
    client.send(post(R"({"prompt": "The sea", "max_tokens": 400, "ignore_eos": true, "stream": true})"));
    client.receive("data:");
  }
  {
    // An error is heard while the request is still being sent.
    TlsClient client(port, certificate);
    client.send("POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip\r\n\r\n");
    for (int i = 0; i < 16; ++i) client.send(std::string(16384, 'x'));
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    EXPECT_NE(client.receive("\x01never").find("400 Bad Request"), std::string::npos);
  }
  TlsClient watcher(port, certificate);
  bool idle = false;
  for (int i = 0; i < 3000 && !idle; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    watcher.send("GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n");
    idle = watcher.receive("nfloat:grammar_mask_seconds_count").find("nfloat:requests_running 0\n") !=
           std::string::npos;
  }
  EXPECT_TRUE(idle) << "work goes on for a client that has gone";
  server.stop();
  thread.join();
}

}  // namespace
}  // namespace nfloat
