// SPDX-License-Identifier: Apache-2.0
// The server over loopback sockets, beside the engine and the generation without it.
#include <arpa/inet.h>
#include <fmt/format.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <optional>
#include <string>
#include <string_view>
#include <thread>

#include "base/json.h"
#include "bench/serve/bench.h"
#include "nfloat/error.h"
#include "nfloat/serve.h"

namespace nfloat::bench {
namespace {

class Socket {
 public:
  explicit Socket(int port) : file_(::socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (file_ < 0 || ::connect(file_, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0)
      throw Error(ErrorCode::kIo, "the server does not answer");
    const int on = 1;
    ::setsockopt(file_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  }
  ~Socket() { ::close(file_); }
  Socket(const Socket&) = delete;
  Socket& operator=(const Socket&) = delete;

  void send(const std::string& text) const {
    for (size_t sent = 0; sent < text.size();) {
      const ssize_t count = ::send(file_, text.data() + sent, text.size() - sent, MSG_NOSIGNAL);
      if (count <= 0) throw Error(ErrorCode::kIo, "the server took no request");
      sent += static_cast<size_t>(count);
    }
  }
  // Adds what has come; false: the end.
  bool receive(std::string& text) const {
    char buffer[16384];
    const ssize_t count = ::recv(file_, buffer, sizeof buffer, 0);
    if (count > 0) text.append(buffer, static_cast<size_t>(count));
    return count > 0;
  }

 private:
  int file_;
};

// A server of the setting's model on threads of its own.
class Serving {
 public:
  Serving(const Setting& setting, int streams, int64_t context)
      : server_({.port = 0, .streams = streams, .context = context, .model_name = "synthetic"}) {
    server_.open(setting.model, setting.folder);
    const std::string address = server_.address();
    port = std::stoi(address.substr(address.rfind(':') + 1));
    thread_ = std::thread([this] { server_.run([] { return false; }); });
  }
  ~Serving() {
    server_.stop();
    thread_.join();
  }
  Serving(const Serving&) = delete;
  Serving& operator=(const Serving&) = delete;

  int port = 0;

 private:
  Server server_;
  std::thread thread_;
};

Answer ask(int port, const std::vector<int32_t>& prompt, int64_t tokens) {
  const std::string body = Json{
      {"prompt", Json(prompt)},
      {"max_tokens", tokens},
      {"temperature", 0},
      {"ignore_eos", true},
      {"stream", true}}.dump();
  const Socket socket(port);
  Answer answer;
  answer.submitted = now();
  socket.send(
      fmt::format("POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                  "Connection: close\r\nContent-Length: {}\r\n\r\n{}",
                  body.size(), body));
  std::string text;
  size_t read = 0;
  while (socket.receive(text)) {
    const double time = now();
    for (size_t end = 0; (end = text.find("\n\n", read)) != std::string::npos; read = end + 2) {
      const std::string_view event = std::string_view(text).substr(read, end - read);
      if (event.find("data: {") != event.npos && event.find("\"text\":\"\"") == event.npos)
        answer.times.push_back(time);
    }
  }
  if (!text.starts_with("HTTP/1.1 200") || text.find("data: [DONE]") == std::string::npos)
    throw Error(ErrorCode::kIo, "the server answers " + text.substr(0, 300));
  // A piece of a character waits for the rest of it.
  if (std::ssize(answer.times) > tokens || std::ssize(answer.times) < tokens - tokens / 16)
    throw Error(ErrorCode::kIo, fmt::format("{} tokens came in {} pieces", tokens, answer.times.size()));
  return answer;
}

std::vector<std::vector<int32_t>> some_prompts(const Setting& setting, int count) {
  std::vector<std::vector<int32_t>> prompts;
  for (int i = 0; i < count; ++i) prompts.push_back(some_prompt(setting, setting.prompt));
  return prompts;
}

Answers ask_all(const std::vector<std::vector<int32_t>>& prompts, int port, int64_t tokens) {
  Answers answers;
  answers.of.resize(prompts.size());
  const double begun = now();
  std::vector<std::thread> clients;
  for (size_t i = 0; i < prompts.size(); ++i)
    clients.emplace_back([&, i] { answers.of[i] = ask(port, prompts[i], tokens); });
  for (std::thread& client : clients) client.join();
  answers.seconds = now() - begun;
  return answers;
}

// The loop of `nfloat generate`.
Answers generate(const Setting& setting) {
  TokenSequence sequence(Session(setting.model, {.context = setting.prompt + setting.tokens}));
  Sampler sampler({.temperature = 0});
  Answers answers;
  answers.of.emplace_back();
  answers.of[0].submitted = now();
  Generation generation(sequence, setting.tokenizer, sampler, some_prompt(setting, setting.prompt),
                        {.max_tokens = setting.tokens});
  while (const auto piece = generation.next())
    if (piece->token >= 0) answers.of[0].times.push_back(now());
  answers.seconds = now() - answers.of[0].submitted;
  return answers;
}

}  // namespace

void measure_http(const Setting& setting) {
  constexpr int kStreams = 8;
  const int64_t context = setting.prompt + setting.tokens;
  std::vector<double> alone, generation, engine, http, served, engine_ratio, one_ratio, one_whole,
      eight_whole;
  const auto requests = [&](const std::vector<std::vector<int32_t>>& prompts) {
    std::vector<EngineRequest> all;
    for (const std::vector<int32_t>& prompt : prompts)
      all.push_back(some_request(setting, prompt, setting.tokens));
    return all;
  };
  Runner runner(setting, {.streams = kStreams, .context = context});
  Serving serving(setting, kStreams, context);
  ask_all(some_prompts(setting, 1), serving.port, 8);
  generate(setting);
  for (int round = 0; round < setting.rounds; ++round) {
    const Answers by_generate = generate(setting),
                  by_http = ask_all(some_prompts(setting, 1), serving.port, setting.tokens);
    generation.push_back(by_generate.steady_rate());
    alone.push_back(by_http.steady_rate());
    one_ratio.push_back(alone.back() / generation.back());
    one_whole.push_back(by_generate.seconds / by_http.seconds);
    // Then once more: the prompts are known, so that all of them begin at once.
    const auto prompts = some_prompts(setting, kStreams);
    const Answers by_engine = runner.run(requests(prompts)),
                  by_server = ask_all(prompts, serving.port, setting.tokens),
                  engine_again = runner.run(requests(prompts)),
                  server_again = ask_all(prompts, serving.port, setting.tokens);
    engine.push_back(engine_again.steady_rate());
    http.push_back(server_again.steady_rate());
    engine_ratio.push_back(http.back() / engine.back());
    eight_whole.push_back(by_engine.seconds / by_server.seconds);
  }
  tell(setting, "one sequence, the loop of generate", "tokens/s", generation);
  tell(setting, "one stream over HTTP", "tokens/s", alone);
  tell(setting, "one stream over HTTP, beside generate", "x", one_ratio, "0.97");
  tell(setting, "the same, prompts included", "x", one_whole);
  tell(setting, "8 streams, the engine alone", "tokens/s", engine);
  tell(setting, "8 streams over HTTP", "tokens/s", http);
  tell(setting, "8 streams over HTTP, beside the engine", "x", engine_ratio, "0.93");
  tell(setting, "the same, prompts included", "x", eight_whole);
}

void measure_health(const Setting& setting) {
  constexpr int kStreams = 16;
  Serving serving(setting, kStreams, setting.prompt + 2048);
  std::vector<double> half, rare;
  for (int round = 0; round < setting.rounds; ++round) {
    std::atomic<bool> ended{false};
    std::thread load([&] {
      ask_all(some_prompts(setting, kStreams), serving.port, setting.tokens);
      ended = true;
    });
    std::vector<double> times;
    while (!ended) {
      const double begun = now();
      const Socket socket(serving.port);
      socket.send("GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
      std::string text;
      while (socket.receive(text)) continue;
      if (!text.starts_with("HTTP/1.1 200"))
        throw Error(ErrorCode::kIo, "/health answers " + text.substr(0, 100));
      times.push_back(1e3 * (now() - begun));
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    load.join();
    half.push_back(quantile(times, 0.5));
    rare.push_back(quantile(times, 0.99));
  }
  tell(setting, "/health beside 16 streams, p50", "ms", half);
  tell(setting, "/health beside 16 streams, p99", "ms", rare, "at most 50");
}

}  // namespace nfloat::bench
