// SPDX-License-Identifier: Apache-2.0
// The server over sockets, with clients that behave and clients that do not.
#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <future>
#include <map>
#include <thread>

#include "base/fail.h"
#include "base/json.h"
#include "base/state_of.h"
#include "engine/linear_id.h"
#include "model/model_state.h"
#include "nfloat/error.h"
#include "nfloat/generate.h"
#include "nfloat/serve.h"
#include "server/http.h"
#include "server/stall_watch.h"
#include "support/paths.h"
#include "tune/adapter.h"
#include "tune/adapter_file.h"

namespace nfloat {
namespace {

class Connection {
 public:
  explicit Connection(uint16_t port, bool must = true) : socket_(::socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    const int refused = ::connect(socket_, reinterpret_cast<sockaddr*>(&address), sizeof address);
    EXPECT_TRUE(refused == 0 || !must);
  }
  ~Connection() { ::close(socket_); }
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  void send(std::string_view text) {
    while (!text.empty()) {
      const ssize_t sent = ::send(socket_, text.data(), text.size(), MSG_NOSIGNAL);
      if (sent <= 0) return;
      text.remove_prefix(static_cast<size_t>(sent));
    }
  }
  // Closing will be noticed at once, as a reset.
  void reset() {
    const linger now{1, 0};
    ::setsockopt(socket_, SOL_SOCKET, SO_LINGER, &now, sizeof now);
  }
  // What comes until `end` is in it, the other side closes, or time runs out.
  std::string receive(std::string_view end = "\x01never", int milliseconds = 120000) {
    std::string text;
    pollfd wait{socket_, POLLIN, 0};
    while (text.find(end) == std::string::npos && ::poll(&wait, 1, milliseconds) > 0) {
      char part[4096];
      const ssize_t count = ::recv(socket_, part, sizeof part, 0);
      if (count <= 0) break;
      text.append(part, static_cast<size_t>(count));
    }
    return text;
  }

 private:
  int socket_;
};

class Servers : public ::testing::Test {
 protected:
  void start(ServeOptions options = {}, bool open = true) {
    options.port = 0;
    if (options.chat_template.empty())
      options.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:";
    server_ = std::make_unique<Server>(options);
    const std::string address = server_->address();
    port_ = static_cast<uint16_t>(std::stoi(address.substr(address.rfind(':') + 1)));
    thread_ = std::thread([this] { whole_ = server_->run([this] { return ending_.load(); }); });
    if (open) this->open();
  }
  void open(const Model& model) { server_->open(model, testing::source_path("/models/nfloat-tiny")); }
  void open() {
    static const std::string folder = testing::source_path("/models/nfloat-tiny");
    static const Model model = Model::load(folder, {.precision = Precision::kInt8, .threads = 1});
    server_->open(model, folder);
  }
  void TearDown() override {
    if (!server_) return;
    server_->stop();
    if (thread_.joinable()) thread_.join();
  }
  static std::string request(const std::string& method, const std::string& path, const std::string& body = "",
                             const std::string& more = "") {
    std::string text = method + " " + path + " HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n" + more;
    if (!body.empty() || method == "POST")
      text += "Content-Type: application/json\r\nContent-Length: " + std::to_string(body.size()) + "\r\n";
    return text + "\r\n" + body;
  }
  std::string raw(const std::string& text) {
    Connection connection(port_);
    connection.send(text);
    return connection.receive();
  }
  std::string get(const std::string& path, const std::string& more = "") {
    return raw(request("GET", path, "", more));
  }
  std::string post(const std::string& path, const Json& body, const std::string& more = "") {
    return raw(request("POST", path, body.dump(), more));
  }
  static int status(const std::string& answer) {
    return answer.size() > 12 ? std::stoi(answer.substr(9, 3)) : 0;
  }
  static Json body(const std::string& answer) {
    return Json::parse(answer.substr(answer.find("\r\n\r\n") + 4));
  }
  static Json chat(int64_t tokens, bool stream = false) {
    return {{"messages", Json::array({Json{{"role", "user"}, {"content", "The sea"}}})},
            {"max_tokens", tokens},
            {"temperature", 0},
            {"ignore_eos", true},
            {"stream", stream}};
  }
  double metric(const std::string& name) {
    const std::string text = get("/metrics");
    const size_t at = text.find("\nnfloat:" + name + " ");
    return at == std::string::npos ? -1 : std::stod(text.substr(at + name.size() + 9));
  }
  bool idle() {
    for (int i = 0; i < 3000; ++i) {
      if (metric("requests_running") + metric("requests_waiting") < 0.5) return true;
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
    return false;
  }

  std::unique_ptr<Server> server_;
  std::thread thread_;
  uint16_t port_ = 0;
  std::atomic<bool> ending_{false}, whole_{false};
};

TEST_F(Servers, AnswerBeforeTheModelIsThere) {
  start({}, false);
  const std::string health = get("/health");
  EXPECT_EQ(status(health), 503);
  EXPECT_NE(health.find("Retry-After"), std::string::npos);
  EXPECT_EQ(body(health)["error"]["code"], "loading");
  EXPECT_EQ(status(post("/v1/chat/completions", chat(1))), 503);
  EXPECT_EQ(status(get("/metrics")), 200);
  EXPECT_EQ(status(get("/")), 200);
  open();
  EXPECT_EQ(status(get("/health")), 200);
}

TEST_F(Servers, GiveTheSameTextWholeAndInPieces) {
  start();
  const Json whole = body(post("/v1/chat/completions", chat(20)));
  EXPECT_EQ(whole["usage"]["completion_tokens"], 20);
  const std::string stream = post("/v1/chat/completions", chat(20, true));
  EXPECT_NE(stream.find("text/event-stream"), std::string::npos);
  EXPECT_NE(stream.find("data: [DONE]"), std::string::npos);
  std::string joined;
  for (size_t at = stream.find("data: {"); at != std::string::npos; at = stream.find("data: {", at + 1)) {
    const Json event = Json::parse(stream.substr(at + 6, stream.find("\n\n", at) - at - 6));
    const Json delta = event["choices"][0]["delta"];
    if (delta.contains("content")) joined += delta["content"].text();
  }
  EXPECT_EQ(Json(joined), whole["choices"][0]["message"]["content"]);
}

TEST_F(Servers, SayWhereTokensAreInTheText) {
  start();
  const Json request{{"prompt", "The king \xf0\x9f\x98\x80 caf\xc3\xa9"},
                     {"max_tokens", 12},
                     {"temperature", 0},
                     {"echo", true},
                     {"logprobs", 1},
                     {"ignore_eos", true}};
  const Json choice = body(post("/v1/completions", request))["choices"][0], &found = choice["logprobs"];
  std::vector<std::string> characters;
  for (const char byte : choice["text"].text())
    if ((static_cast<unsigned char>(byte) & 0xc0) != 0x80)
      characters.emplace_back(1, byte);
    else
      characters.back() += byte;
  size_t whole = 0;
  for (size_t i = 1; i < found["tokens"].size(); ++i) {
    const std::string& token = found["tokens"][i].text();
    if (token.starts_with("bytes:")) continue;
    std::string there;
    for (auto at = found["text_offset"][i].get<size_t>();
         at < characters.size() && there.size() < token.size(); ++at)
      there += characters[at];
    EXPECT_EQ(there, token) << i;
    ++whole;
  }
  EXPECT_GT(whole, 10u);
}

TEST_F(Servers, HoldAnswersToSchemasAndFunctions) {
  start();
  Json request = chat(200);
  request["temperature"] = 1.5;
  request["ignore_eos"] = false;
  request["response_format"] = Json::parse(R"({"type": "json_schema", "json_schema": {"name": "a", "schema":
      {"type": "object", "properties": {"n": {"type": "integer", "minimum": 1, "maximum": 3}, "s": {"enum": ["x", "y"]}},
       "required": ["n", "s"], "additionalProperties": false}}})");
  for (int seed = 0; seed < 4; ++seed) {
    request["seed"] = seed;
    const Json choice = body(post("/v1/chat/completions", request))["choices"][0];
    EXPECT_EQ(choice["finish_reason"], "stop");
    const Json value = Json::parse(choice["message"]["content"].text());
    EXPECT_EQ(value.size(), 2u);
    EXPECT_LE(value["n"].get<int>(), 3);
  }
  request["response_format"] = Json::parse(R"({"type": "regex", "regex": "(yes|no)!"})");
  const std::string word =
      body(post("/v1/chat/completions", request))["choices"][0]["message"]["content"].text();
  EXPECT_TRUE(word == "yes!" || word == "no!") << word;
  request["tools"] = Json::parse(R"([{"type": "function", "function": {"name": "no"}}])");
  const Json free = body(post("/v1/chat/completions", request))["choices"][0]["message"];
  EXPECT_TRUE(free["content"] == "yes!" || free["content"] == "no!") << free.dump();
  request.erase("response_format");
  request["tools"] = Json::parse(R"([{"type": "function", "function": {"name": "roll", "parameters":
      {"type": "object", "properties": {"sides": {"enum": [4, 6]}}, "required": ["sides"]}}}])");
  request["tool_choice"] = "required";
  const Json called = body(post("/v1/chat/completions", request))["choices"][0];
  EXPECT_EQ(called["finish_reason"], "tool_calls");
  EXPECT_EQ(called["message"]["tool_calls"][0]["function"]["name"], "roll");
  EXPECT_TRUE(called["message"]["content"].is_null());
  request["response_format"] =
      Json::parse(R"({"type": "json_schema", "json_schema": {"schema": {"oneOf": []}}})");
  request["tool_choice"] = "none";
  const std::string refused = post("/v1/chat/completions", request);
  EXPECT_EQ(status(refused), 400);
  EXPECT_NE(refused.find("oneOf"), std::string::npos);
}

TEST(HttpServers, ShortBodiesDoNotWaitForLongOnes) {
  std::promise<void> answered;
  std::future_status seen = std::future_status::timeout;
  {
    HttpServer server(
        {}, {}, {}, [](const std::shared_ptr<HttpExchange>&) {},
        [](int, const std::string&) { return std::pair<HttpHeaders, std::string>(); });
    server.background(size_t{7} << 20,
                      [&] { seen = answered.get_future().wait_for(std::chrono::seconds(60)); });
    server.background(100, [&] { answered.set_value(); });
  }
  EXPECT_EQ(seen, std::future_status::ready);
}

TEST_F(Servers, GrammarsBeyondTheirBoundAreTheClientsFault) {
  start();
  // Too large from the first character on, and only after some.
  for (const char* regex : {"(a?){9999}a{9999}", "(.{0,1000}){0,1000}x"}) {
    Json wanted{{"prompt", "hi"},
                {"max_tokens", 60},
                {"seed", 3},
                {"temperature", 1},
                {"response_format", {{"type", "regex"}, {"regex", regex}}}};
    const std::string whole = post("/v1/completions", wanted);
    EXPECT_EQ(status(whole), 400) << whole;
    EXPECT_EQ(body(whole)["error"]["type"], "invalid_request_error");
    EXPECT_EQ(body(whole)["error"]["param"], "response_format");
    wanted["stream"] = true;
    const std::string stream = post("/v1/completions", wanted);
    EXPECT_NE(stream.find("invalid_request_error"), std::string::npos) << stream;
    EXPECT_EQ(stream.find("[DONE]"), std::string::npos);
  }
  EXPECT_EQ(status(post("/v1/chat/completions", chat(2))), 200) << "others go on";
  EXPECT_EQ(status(get("/health")), 200);
}

// RFC 9110, 7.2 and RFC 3986, 3.2: a host, then perhaps a colon and digits, which may be none.
TEST_F(Servers, HostHeadersAreHostsAndPorts) {
  start({.allowed_hosts = {"Box.example"}}, false);
  const auto asked = [&](const std::string& host) {
    return status(raw("GET /v1/models HTTP/1.1\r\nHost: " + host + "\r\nConnection: close\r\n\r\n"));
  };
  constexpr int kTaken = 503;  // there is no model yet
  for (const char* host : {"localhost", "localhost:8080", "localhost:", "localhost:0", "LOCALHOST:65535",
                           "localhost:008080", "127.0.0.1", "127.255.0.9:1", "[::1]", "[::1]:80",
                           "[0:0:0:0:0:0:0:1]:80", "box.example", "BOX.example:443"})
    EXPECT_EQ(asked(host), kTaken) << host;
  for (const char* host : {"127.0.0.1:evil",
                           "localhost:80x",
                           "localhost:-1",
                           "localhost:+80",
                           "localhost:65536",
                           "127.0.0.1:99999",
                           "localhost:99999999999999999999",
                           "localhost::80",
                           "localhost:80:80",
                           "[::1",
                           "[::1:80",
                           "::1",
                           "::1:80",
                           "[::1]80",
                           "[::1]:x",
                           "[127.0.0.1]",
                           "[localhost]",
                           "[]",
                           "[]:80",
                           ":80",
                           ":",
                           "evil@localhost",
                           "localhost/",
                           "localhost:80/",
                           "local host",
                           "localhost, localhost",
                           "localhost%",
                           "localhost%2",
                           "localhost%zz",
                           "caf\xc3\xa9"})
    EXPECT_EQ(asked(host), 400) << host;
  for (const char* host : {"127.1", "127.0.0.1.2", "127.0.0.256", "localhost.", "[::2]", "[::ffff:127.0.0.1]",
                           "8.8.8.8", "localhos%74", "evil.example:80", "xbox.example"})
    EXPECT_EQ(asked(host), 403) << host;
}

TEST_F(Servers, OlderClientsGetAStreamWithoutChunks) {
  start();
  const std::string text = chat(4, true).dump();
  const std::string answer =
      raw("POST /v1/chat/completions HTTP/1.0\r\nHost: localhost\r\nContent-Type: "
          "application/json\r\nContent-Length: " +
          std::to_string(text.size()) + "\r\n\r\n" + text);
  EXPECT_EQ(answer.find("chunked"), std::string::npos);
  EXPECT_TRUE(answer.ends_with("data: [DONE]\n\n")) << answer;
}

TEST_F(Servers, RequestsThatAreNoneAreRefusedWithTheirStatus) {
  start();
  const auto first = [&](const std::string& text) { return status(raw(text)); };
  EXPECT_EQ(first("nonsense\r\n\r\n"), 400);
  EXPECT_EQ(first("GET /health HTTP/1.1\r\nConnection: close\r\n\r\n"), 400) << "no Host";
  EXPECT_EQ(first("GET /health HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n"), 403);
  EXPECT_EQ(first("GET /health HTTP/1.1\r\nHost: 127.0.0.1.evil.example\r\nConnection: close\r\n\r\n"), 403);
  EXPECT_EQ(first("GET /health HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n"), 400);
  EXPECT_EQ(first("GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: x\r\nConnection: close\r\n\r\n"),
            200);
  EXPECT_LT(get("/" + std::string(9000, 'a')).size(), 1000u) << "what a request says is quoted in short";
  EXPECT_EQ(first("GET /health HTTP/1.1\r\nHost: 127.0.0.2:80\r\nConnection: close\r\n\r\n"), 200);
  EXPECT_EQ(first("GET /health HTTP/1.1\r\nHost: LocalHost:80\r\nConnection: close\r\n\r\n"), 200);
  EXPECT_EQ(
      first("GET http://localhost/health?a HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n"),
      200);
  EXPECT_EQ(first("GET http://evil.example/health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"),
            403);
  EXPECT_EQ(first(request("POST", "/tokenize", "{}", "Content-Encoding: gzip\r\n")), 415);
  EXPECT_EQ(first(request("GET", "/nothing")), 404);
  const std::string wrong = raw(request("GET", "/v1/chat/completions"));
  EXPECT_EQ(status(wrong), 405);
  EXPECT_NE(wrong.find("Allow: POST"), std::string::npos);
  EXPECT_EQ(first("POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: "
                  "text/plain\r\nContent-Length: 2\r\n\r\n{}"),
            415);
  for (const auto& [type, wanted] : {std::pair{"application/jsonp", 415},
                                     {"Application/JSON; charset=utf-8", 400},
                                     {"application/json;charset=utf-8", 400}})
    EXPECT_EQ(first("POST /tokenize HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 2\r\n"
                    "Content-Type: " +
                    std::string(type) + "\r\n\r\n{}"),
              wanted)
        << type;
  EXPECT_EQ(first("POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n{"), 413);
  EXPECT_EQ(first("GET / HTTP/1.1\r\nHost: localhost\r\nX: " + std::string(20000, 'x') + "\r\n\r\n"), 431);
  EXPECT_EQ(
      first("POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\nTransfer-Encoding: "
            "chunked\r\n\r\n0\r\n\r\nGET /metrics HTTP/1.1\r\n\r\n"),
      400)
      << "two lengths";
  const std::string twice =
      raw("POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked, chunked\r\n\r\n"
          "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n");
  EXPECT_EQ(status(twice), 400);
  EXPECT_EQ(twice.find("HTTP/1.1", 1), std::string::npos) << "the body was taken for a request";
  // An endless body in chunks ends at the limit.
  Connection bomb(port_);
  bomb.send("POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n");
  const std::string chunk = "100000\r\n" + std::string(1 << 20, ' ') + "\r\n";
  for (int i = 0; i < 12; ++i) bomb.send(chunk);
  EXPECT_EQ(status(get("/health")), 200);
}

TEST_F(Servers, SeveralRequestsComeOverOneConnectionAlsoInAdvance) {
  start();
  Connection connection(port_);
  const std::string one = "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n";
  connection.send(one + one);
  std::string answers = connection.receive("\"}");
  if (answers.find("200", answers.find("\"}")) == std::string::npos) answers += connection.receive("\"}");
  EXPECT_NE(answers.find("200 OK", answers.find("\"}")), std::string::npos) << answers;
  connection.send(one);
  EXPECT_NE(connection.receive("\"}").find("200 OK"), std::string::npos);
}

TEST_F(Servers, WorkEndsWithItsClient) {
  start({.streams = 1});
  for (const bool stream : {true, false}) {
    {
      Connection running(port_), queued(port_);
      running.send(request("POST", "/v1/chat/completions", chat(480, stream).dump()));
      queued.send(request("POST", "/v1/chat/completions", chat(480, stream).dump()));
      for (int i = 0; i < 200 && metric("requests_running") < 0.5; ++i) {
      }
    }
    EXPECT_TRUE(idle());
  }
  EXPECT_EQ(status(post("/v1/chat/completions", chat(2))), 200);
}

TEST_F(Servers, ClientsThatLeaveAtEveryMomentLeaveNothingBehind) {
  start();
  const std::string wanted = request("POST", "/v1/chat/completions", chat(200, true).dump());
  for (size_t i = 0; i < 400; ++i) {
    Connection connection(port_);
    connection.send(std::string_view(wanted).substr(0, i % 4 == 0 ? i % wanted.size() : wanted.size()));
    if (i % 8 == 1) connection.receive("data:");
    if (i % 3 == 0) connection.reset();
  }
  EXPECT_TRUE(idle());
  EXPECT_EQ(status(post("/v1/chat/completions", chat(2))), 200);
}

TEST_F(Servers, TheEndComesWhileClientsComeAndGo) {
  for (int round = 0; round < 5; ++round) {
    start();
    std::atomic<bool> over{false};
    std::vector<std::thread> clients;
    for (int i = 0; i < 4; ++i)
      clients.emplace_back([&, i] {
        while (!over) {
          Connection connection(port_, false);
          connection.send(request("POST", "/v1/chat/completions", chat(50, i % 2 == 0).dump()));
          if (i < 2) connection.receive("data:", 50);
        }
      });
    std::this_thread::sleep_for(std::chrono::milliseconds(60));
    TearDown();
    server_.reset();
    over = true;
    for (std::thread& client : clients) client.join();
  }
}

TEST_F(Servers, MorePromptsThanTheQueueEverHoldsAreRefusedForGood) {
  start({.streams = 2, .queue = 1});
  Json request{{"prompt", Json::array({"a", "b", "c", "d"})}, {"max_tokens", 1}};
  const std::string refused = post("/v1/completions", request);
  EXPECT_EQ(status(refused), 400);
  EXPECT_EQ(body(refused)["error"]["param"], "prompt");
  EXPECT_EQ(refused.find("Retry-After: "), std::string::npos);
  request["prompt"] = Json::array({"a", "b", "c"});
  EXPECT_EQ(status(post("/v1/completions", request)), 200);
}

// An adapter beside every matrix, so strong that it changes the text.
std::string write_adapter(const std::string& name, const Model& model, float strength) {
  const std::string folder = ::testing::TempDir() + "/served_" + name;
  std::filesystem::create_directories(folder);
  TrainOptions options;
  options.rank = 4;
  Adapter adapter = make_adapter(state_of(model), options);
  uint32_t random = 12345;
  for (LoraModule& module : adapter.modules)
    for (float& value : module.b) {
      random = random * 1664525 + 1013904223;
      value = strength * (static_cast<float>(random >> 8) * 0x1p-24F - 0.5F);
    }
  nfloat::write_adapter(folder, state_of(model), adapter, options, "nfloat-tiny");
  return folder;
}

TEST_F(Servers, RequestsChooseAnAdapterByTheNameOfTheModel) {
  const std::string folder = testing::source_path("/models/nfloat-tiny");
  const Model model = Model::load(folder, {.precision = Precision::kInt8, .threads = 1});
  const std::string one = write_adapter("one", model, 0.5F), two = write_adapter("two", model, -0.5F);
  const auto text = [](const std::string& answer) {
    return body(answer)["choices"][0]["message"]["content"].text();
  };
  ServeOptions options;
  options.model_name = "base";
  options.adapters = {{"one", {.folder = one}}, {"two", {.folder = two}}};
  options.look_up = 7;
  start(options);
  const auto named = [](const char* name) {
    Json wanted = chat(40);
    wanted["model"] = name;
    return wanted;
  };
  // What a model gives that has the adapter and nothing else.
  std::map<std::string, std::string> alone;
  for (const char* name : {"base", "one", "two"})
    alone[name] = text(post("/v1/chat/completions", named(name)));
  EXPECT_NE(alone["base"], alone["one"]);
  EXPECT_NE(alone["one"], alone["two"]);
  std::vector<std::string> together(9);
  std::vector<std::thread> clients;
  const char* const names[] = {"base", "one", "two"};
  for (size_t i = 0; i < together.size(); ++i)
    clients.emplace_back([&, i] { together[i] = post("/v1/chat/completions", named(names[i % 3])); });
  for (std::thread& client : clients) client.join();
  for (size_t i = 0; i < together.size(); ++i) {
    ASSERT_EQ(status(together[i]), 200) << together[i];
    EXPECT_EQ(text(together[i]), alone[names[i % 3]]) << names[i % 3];
    EXPECT_EQ(body(together[i])["model"], names[i % 3]);
  }
  EXPECT_EQ(status(post("/v1/chat/completions", named("three"))), 404);
  const Json models = body(get("/v1/models"))["data"];
  ASSERT_EQ(models.size(), 3u);
  EXPECT_EQ(models[0]["meta"]["device"], "cpu");
  EXPECT_EQ(body(get("/props"))["device"], "cpu");
  EXPECT_EQ(models[1]["id"], "one");
  EXPECT_EQ(models[1]["parent"], "base");
  EXPECT_EQ(body(get("/v1/models/two"))["id"], "two");
  EXPECT_EQ(status(get("/v1/models/three")), 404);
  // The same as attached for all.
  attach_adapters(model, {{.folder = one}});
  const Tokenizer tokenizer = Tokenizer::load(folder);
  TokenSequence sequence(Session(model, {.context = 128}));
  Sampler sampler({.temperature = 0});
  Generation generation(sequence, tokenizer, sampler, tokenizer.encode("The sea"), {.max_tokens = 40});
  std::string attached;
  while (const auto piece = generation.next()) attached += piece->text;
  const Json wanted{
      {"model", "one"}, {"prompt", "The sea"}, {"max_tokens", 40}, {"temperature", 0}, {"ignore_eos", true}};
  EXPECT_EQ(attached, body(post("/v1/completions", wanted))["choices"][0]["text"].text());
}

TEST_F(Servers, KeysAreAskedForWhereThereAreSome) {
  start({.api_keys = {"secret", "other"}});
  EXPECT_EQ(status(get("/v1/models")), 401);
  EXPECT_EQ(status(get("/v1/models", "Authorization: Bearer wrong\r\n")), 401);
  EXPECT_EQ(status(get("/v1/models", "Authorization: Bearer other\r\n")), 200);
  EXPECT_EQ(status(get("/v1/models", "authorization: bearer other\r\n")), 200);
  EXPECT_EQ(status(get("/health")), 200);
  EXPECT_THROW(Server({.host = "0.0.0.0", .port = 0}), Error);
  EXPECT_THROW(Server({.host = "nowhere", .port = 0, .public_without_key = true}), Error);
  for (const char* key : {"", "a b", "a\n", "caf\xc3\xa9"})
    EXPECT_THROW(Server({.port = 0, .api_keys = {"secret", key}}), Error)
        << "would let anybody in, or nobody";
  for (const char* host : {"", "box:8080", "http://box", "::1", "[box]", "a b"})
    EXPECT_THROW(Server({.port = 0, .allowed_hosts = {host}}), Error) << host;
  EXPECT_NO_THROW(Server({.host = "LocalHost", .port = 0}));
  EXPECT_NO_THROW(Server({.host = "127.1", .port = 0, .allowed_hosts = {"[::2]", "Box", "10.0.0.1"}}));
}

// Stands for a device: its products wait while `held`, and are lost with `lost`.
class BadDevice : public LinearObserver {
 public:
  void input(const LinearId&, const ActivationRows&) override {}
  void output(const LinearId&, const ActivationRows&, float*, int64_t) override {
    if (++products_ == hold_at) held = true;
    while (held) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    if (lost) fail(ErrorCode::kIo, "the device vulkan:0 (a card) has failed: VK_ERROR_DEVICE_LOST");
  }
  int64_t hold_at = -1;  // products
  std::atomic<bool> held{false}, lost{false};

 private:
  int64_t products_ = 0;
};

TEST_F(Servers, AFullQueueAnswers429) {
  const auto device = std::make_shared<BadDevice>();
  const Model model = Model::load(testing::source_path("/models/nfloat-tiny"), {.threads = 1});
  state_of(model).beside = device;
  start({.streams = 1, .queue = 0}, false);
  open(model);
  device->hold_at = 500;  // in the middle of the answer, which is running until then
  Connection running(port_);
  running.send(request("POST", "/v1/chat/completions", chat(400, true).dump()));
  running.receive("data:");
  for (int i = 0; i < 6000 && !device->held; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(10));
  ASSERT_TRUE(device->held);
  const std::string refused = post("/v1/chat/completions", chat(1));
  EXPECT_EQ(status(refused), 429);
  EXPECT_NE(refused.find("Retry-After: "), std::string::npos);
  EXPECT_EQ(body(refused)["error"]["code"], "queue_full");
  device->held = false;
}

TEST_F(Servers, ALostDeviceEndsRequestsAndHealth) {
  const auto device = std::make_shared<BadDevice>();
  const Model model = Model::load(testing::source_path("/models/nfloat-tiny"), {.threads = 1});
  state_of(model).beside = device;
  start({.streams = 1}, false);
  open(model);
  EXPECT_EQ(status(get("/health")), 200);
  EXPECT_EQ(status(post("/v1/chat/completions", chat(2))), 200);
  EXPECT_EQ(metric("engine_up"), 1);
  device->held = true;
  Connection running(port_), queued(port_);
  running.send(request("POST", "/v1/chat/completions", chat(400, true).dump()));
  queued.send(request("POST", "/v1/chat/completions", chat(400, false).dump()));
  for (int i = 0; i < 6000 && metric("requests_running") + metric("requests_waiting") < 1.5; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  device->lost = true;
  device->held = false;
  for (const std::string& answer :
       {running.receive(), queued.receive(), get("/health"), post("/v1/chat/completions", chat(2)),
        post("/v1/completions", chat(2))}) {
    EXPECT_EQ(status(answer), 503) << answer;
    EXPECT_NE(answer.find("VK_ERROR_DEVICE_LOST"), std::string::npos) << answer;
    EXPECT_EQ(body(answer)["error"]["code"], "engine_failed");
    EXPECT_EQ(body(answer)["error"]["type"], "service_unavailable");
  }
  EXPECT_NE(server_->trouble().find("VK_ERROR_DEVICE_LOST"), std::string::npos);
  EXPECT_EQ(metric("engine_up"), 0);
  EXPECT_EQ(metric("requests_running") + metric("requests_waiting"), 0);
  EXPECT_EQ(status(get("/v1/models")), 200);
}

TEST_F(Servers, AStepThatDoesNotEndIsToldUntilItDoes) {
  const auto device = std::make_shared<BadDevice>();
  const Model model = Model::load(testing::source_path("/models/nfloat-tiny"), {.threads = 1});
  state_of(model).beside = device;
  start({.stall_seconds = 0.2}, false);
  open(model);
  device->held = true;
  Connection running(port_);
  running.send(request("POST", "/v1/chat/completions", chat(3).dump()));
  std::string health;
  for (int i = 0; i < 6000 && status(health = get("/health")) == 200; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  EXPECT_EQ(body(health)["error"]["code"], "engine_stalled");
  EXPECT_EQ(status(post("/v1/chat/completions", chat(2))), 503);
  for (int i = 0; i < 6000 && metric("engine_stalls_total") < 1; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  EXPECT_EQ(metric("engine_up"), 0);
  EXPECT_GT(metric("step_running_seconds"), 0.2);
  device->held = false;
  EXPECT_EQ(status(running.receive()), 200);
  // The step that gave the answer may not have come to its end.
  for (int i = 0; i < 1000 && status(health = get("/health")) != 200; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  EXPECT_EQ(status(health), 200);
  EXPECT_GE(metric("engine_stalls_total"), 1);
}

TEST_F(Servers, TellWhatIsAtWorkAndNoText) {
  const auto device = std::make_shared<BadDevice>();
  const Model model = Model::load(testing::source_path("/models/nfloat-tiny"), {.threads = 1});
  state_of(model).beside = device;
  start({.streams = 1, .api_keys = {"secret"}}, false);
  open(model);
  device->hold_at = 500;  // in the middle of the first answer
  const std::string key = "Authorization: Bearer secret\r\n";
  EXPECT_EQ(status(get("/v1/requests")), 401);
  EXPECT_EQ(body(get("/v1/requests", key))["data"].size(), 0u);
  Connection running(port_), queued(port_);
  running.send(request("POST", "/v1/chat/completions", chat(400, true).dump(), key));
  const std::string begun = running.receive("data:");
  for (int i = 0; i < 6000 && !device->held; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(10));
  queued.send(request("POST", "/v1/completions", R"({"prompt": "quokka", "max_tokens": 3})", key));
  Json all;
  for (int i = 0; i < 6000; ++i) {
    all = body(get("/v1/requests", key));
    if (all["data"].size() == 2) break;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  ASSERT_EQ(all["data"].size(), 2u) << all.dump();
  const Json& first = all["data"][0];
  EXPECT_NE(begun.find(first["id"].text()), std::string::npos) << first.dump();
  EXPECT_EQ(first["state"], "generating");
  EXPECT_EQ(first["stream"], true);
  EXPECT_GE(first["completion_tokens"].get<int64_t>(), 1);
  EXPECT_GE(first["kv_pages"].get<int64_t>(), 1);
  EXPECT_EQ(all["data"][1]["state"], "waiting");
  EXPECT_EQ(all["data"][1]["kv_pages"].get<int64_t>(), 0);
  EXPECT_EQ(all["running"].get<int64_t>(), 1);
  EXPECT_EQ(all["waiting"].get<int64_t>(), 1);
  EXPECT_EQ(all.dump().find("quokka"), std::string::npos);
  device->held = false;
}

TEST(StallWatches, CountEachStepOnce) {
  StallWatch watch(10);
  watch.look(5, std::nullopt);
  watch.look(15, 5);
  EXPECT_EQ(watch.count(), 0u);
  watch.look(15.5, 5);
  watch.look(20, 5);
  EXPECT_EQ(watch.count(), 1u);
  EXPECT_FALSE(watch.stalled(20, 15).has_value());
  EXPECT_NEAR(watch.stalled(26, 15).value(), 11, 1e-9);
  watch.look(26, 15);
  EXPECT_EQ(watch.count(), 2u);
}

TEST_F(Servers, TheEndWaitsForRunningAnswers) {
  start({.drain_seconds = 300});
  Connection running(port_);
  running.send(request("POST", "/v1/chat/completions", chat(200, true).dump()));
  running.receive("data:");
  ending_ = true;
  EXPECT_NE(running.receive("[DONE]").find("data: [DONE]"), std::string::npos);
  thread_.join();
  EXPECT_TRUE(whole_);
}

TEST_F(Servers, TheEndBreaksOffWhatTakesTooLong) {
  start({.drain_seconds = 0});
  Connection running(port_);
  Json many = chat(490, true);
  many["n"] = 8;
  running.send(request("POST", "/v1/chat/completions", many.dump()));
  running.receive("data:");
  ending_ = true;
  const std::string rest = running.receive();
  thread_.join();
  if (whole_)
    GTEST_SKIP() << "needs answers that are still running at the end; here they were whole before it";
  EXPECT_NE(rest.find("shutting_down"), std::string::npos) << rest;
  EXPECT_EQ(rest.find("[DONE]"), std::string::npos);
}

}  // namespace
}  // namespace nfloat
