// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>
#include <functional>
#include <set>

#include "base/ascii.h"
#include "nfloat/error.h"
#include "server/fields.h"
#include "server/parts.h"
#include "server/prompt.h"
#include "server/server_state.h"

namespace nfloat {

namespace embedded {
extern const std::string_view chat_html;
extern const std::string_view chat_css;
extern const std::string_view chat_js;
}  // namespace embedded

namespace {

// Where a route's handler is, and who may use it.
enum class Route : uint8_t {
  kPage,
  kHealth,
  kMetrics,
  kRequests,
  kModels,
  kModel,
  kProperties,
  kChat,
  kCompletions,
  kSmall,
  kEmbeddings
};
struct RouteEntry {
  std::string_view path;
  bool post;
  Route route;
};
constexpr RouteEntry kRoutes[] = {{"/", false, Route::kPage},
                                  {"/chat.css", false, Route::kPage},
                                  {"/chat.js", false, Route::kPage},
                                  {"/health", false, Route::kHealth},
                                  {"/v1/health", false, Route::kHealth},
                                  {"/metrics", false, Route::kMetrics},
                                  {"/props", false, Route::kProperties},
                                  {"/v1/requests", false, Route::kRequests},
                                  {"/v1/models", false, Route::kModels},
                                  {"/v1/chat/completions", true, Route::kChat},
                                  {"/v1/completions", true, Route::kCompletions},
                                  {"/v1/embeddings", true, Route::kEmbeddings},
                                  {"/tokenize", true, Route::kSmall},
                                  {"/detokenize", true, Route::kSmall},
                                  {"/apply-template", true, Route::kSmall}};
constexpr std::string_view kModelPrefix = "/v1/models/";

RouteEntry route_of(const std::string& path) {
  for (const RouteEntry& entry : kRoutes)
    if (entry.path == path) return entry;
  if (path.starts_with(kModelPrefix)) return {path, false, Route::kModel};
  throw ApiError{404, "there is no " + path};
}

std::string_view page_part(std::string_view path) noexcept {
  return path == "/chat.css"  ? embedded::chat_css
         : path == "/chat.js" ? embedded::chat_js
                              : embedded::chat_html;
}
HttpHeaders page_headers(std::string_view path) {
  const char* type = path == "/chat.css"  ? "text/css; charset=utf-8"
                     : path == "/chat.js" ? "text/javascript; charset=utf-8"
                                          : "text/html; charset=utf-8";
  return {
      {"Content-Type", type},
      {"Content-Security-Policy",
       "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
       "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"},
      {"Referrer-Policy", "no-referrer"},
      {"Cross-Origin-Opener-Policy", "same-origin"},
      {"Cache-Control", "no-cache"}};
}

// Whatever parameters follow, as "; charset=utf-8".
bool is_json(std::string_view content_type) {
  content_type = content_type.substr(0, content_type.find_first_of("; \t"));
  return in_lower_case(content_type) == "application/json";
}

std::string unescaped(std::string_view text) {
  std::string out;
  const auto digit = [](char c) {
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
  };
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '%' && i + 2 < text.size() && digit(text[i + 1]) >= 0 && digit(text[i + 2]) >= 0) {
      out += static_cast<char>(digit(text[i + 1]) * 16 + digit(text[i + 2]));
      i += 2;
    } else {
      out += text[i];
    }
  }
  return out;
}

Json template_values(const ChatRequest& request) {
  Json values = request.template_values;
  values["messages"] = request.messages;
  if (request.tool_choice != ChatRequest::ToolChoice::kNone && !request.tools.empty())
    values["tools"] = request.tools;
  if (!values.contains("add_generation_prompt")) values["add_generation_prompt"] = true;
  return values;
}

const ChatTemplate& chat_of(const ServedModel& served) {
  if (!served.chat) throw ApiError{400, "this model has no chat template: use /v1/completions", "messages"};
  return *served.chat;
}

void check_length(const ServedModel& served, size_t tokens, const char* field) {
  const auto context = served.engine.context();
  if (static_cast<int64_t>(tokens) >= context)
    throw ApiError{400,
                   fmt::format("the prompt has {} tokens, which leaves no room in the context of {} tokens",
                               tokens, context),
                   field, "context_length_exceeded"};
  if (tokens == 0) throw ApiError{400, "the prompt is empty", field};
}

EngineRequest engine_request(const ServedModel& served, const ServeOptions& options,
                             const GenerationRequest& request, std::vector<int32_t> prompt) {
  EngineRequest result;
  result.choices = request.choices;
  result.sampler = request.sampler;
  if (!request.seeded) {
    static std::atomic<uint64_t> serial{static_cast<uint64_t>(served.created) << 20};
    result.sampler.seed = serial.fetch_add(0x9e3779b97f4a7c15u);
  }
  const int64_t most = options.max_tokens > 0 ? options.max_tokens : served.engine.context();
  if (request.max_tokens) {
    result.generation.max_tokens = *request.max_tokens;
  } else {
    try {
      result.generation.max_tokens = std::min(most, answer_limit(result.sampler, std::ssize(prompt), most));
    } catch (const Error& error) {
      throw ApiError{400, error.what(), "max_tokens", "context_length_exceeded"};
    }
  }
  result.generation.stops = request.stops;
  result.generation.log_probabilities = request.log_probabilities;
  result.generation.look_up = options.look_up;
  if (const auto found = served.adapters.find(request.model); found != served.adapters.end())
    result.adapters = found->second;
  if (!request.ignore_eos) result.generation.end_tokens = served.ends;
  result.prompt = std::move(prompt);
  return result;
}

// Compiled on the thread beside; nothing for free text.
std::optional<Grammar> grammar_of(GrammarCache& cache, ChatRequest::Format format, const Json& schema,
                                  const std::string& regex) {
  try {
    switch (format) {
      case ChatRequest::Format::kText:
        return std::nullopt;
      case ChatRequest::Format::kJson:
        return cache.get("object", [] { return Grammar::json_object(); });
      case ChatRequest::Format::kSchema: {
        const std::string text = schema.dump();
        return cache.get("schema " + text, [&] { return Grammar::from_json_schema(text); });
      }
      case ChatRequest::Format::kRegex:
        return cache.get("regex " + regex, [&] { return Grammar::from_regex(regex); });
    }
  } catch (const Error& error) {
    throw ApiError{400, error.what(), "response_format"};
  }
  return std::nullopt;
}

Grammar grammar_of_calls(GrammarCache& cache, const ChatRequest& request) {
  std::vector<FunctionSchema> functions;
  std::string key = "calls";
  for (const Json& tool : request.tools) {
    const Json& function = tool["function"];
    const std::string& name = function["name"].text();
    if (!request.tool.empty() && request.tool != name) continue;
    const Json* parameters = function.find("parameters");
    functions.push_back({name, parameters == nullptr || parameters->is_null() ? "" : parameters->dump()});
    key += fmt::format(" {} {}", Json(name).dump(), functions.back().parameters);
  }
  try {
    return cache.get(key, [&] { return Grammar::from_functions(functions); });
  } catch (const Error& error) {
    throw ApiError{400, error.what(), "tools"};
  }
}

struct Prepared {
  std::unique_ptr<ApiAnswer> answer;
  std::vector<EngineRequest> requests;
  std::string id, model;
  bool stream = false, include_usage = false;
};

AnswerHead head_of(const ServedModel& served, const char* prefix, const GenerationRequest& request) {
  const auto time = std::chrono::system_clock::now().time_since_epoch();
  return {new_id(prefix), request.model.empty() ? served.name : request.model, "nfloat",
          std::chrono::duration_cast<std::chrono::seconds>(time).count()};
}

Prepared prepare_chat(ServedModel& served, const ServeOptions& options, ChatRequest request) {
  const bool forced = request.tool_choice == ChatRequest::ToolChoice::kRequired;
  std::optional<Grammar> grammar =
      forced ? grammar_of_calls(served.grammars, request)
             : grammar_of(served.grammars, request.format, request.schema, request.regex);
  const ChatPrompt prompt(chat_of(served), served.tokenizer);
  std::vector<int32_t> tokens;
  try {
    const Json values = template_values(request);
    tokens = prompt.tokens(values);
  } catch (const Error& error) {
    throw ApiError{400, error.what(), "messages"};
  }
  check_length(served, tokens.size(), "messages");
  const size_t last = std::min<size_t>(tokens.size(), 4);
  const std::string end = served.tokenizer.decode(std::span(tokens).last(last));
  request.thinks = open_thought(end);
  Prepared result;
  result.requests.push_back(engine_request(served, options, request, std::move(tokens)));
  GenerationOptions& generation = result.requests.back().generation;
  generation.channels = !grammar;
  if (!grammar)
    for (const std::string_view mark : part_marks(request))
      if (const auto token = served.tokenizer.token_id(mark); token && served.tokenizer.is_special(*token))
        generation.shown.push_back(*token);
  result.requests.back().grammar = std::move(grammar);
  AnswerHead head = head_of(served, "chatcmpl-", request);
  result.id = head.id;
  result.model = head.model;
  result.answer = make_chat_answer(std::move(head), request, served.tokenizer);
  return result;
}

Prepared prepare_completion(ServedModel& served, const ServeOptions& options,
                            const CompletionRequest& request) {
  const std::optional<Grammar> grammar =
      grammar_of(served.grammars, request.format, request.schema, request.regex);
  Prepared result;
  std::vector<std::string> texts;
  std::vector<std::vector<int32_t>> prompts;
  for (const CompletionRequest::Prompt& prompt : request.prompts) {
    std::vector<int32_t> tokens;
    if (const auto* text = std::get_if<std::string>(&prompt)) {
      tokens = served.tokenizer.encode(*text);
      texts.push_back(*text);
    } else {
      tokens = std::get<std::vector<int32_t>>(prompt);
      for (const int32_t token : tokens)
        if (token >= served.tokenizer.vocab_size()) bad_field("prompt", "the token {} has no text", token);
      texts.push_back(request.echo ? served.tokenizer.decode(tokens) : "");
    }
    check_length(served, tokens.size(), "prompt");
    result.requests.push_back(engine_request(served, options, request, tokens));
    result.requests.back().score_prompt = request.echo && request.log_probabilities >= 0;
    result.requests.back().grammar = grammar;
    prompts.push_back(std::move(tokens));
  }
  AnswerHead head = head_of(served, "cmpl-", request);
  result.id = head.id;
  result.model = head.model;
  result.answer = make_completion_answer(std::move(head), request, std::move(texts), std::move(prompts),
                                         served.tokenizer);
  return result;
}

// Of /tokenize, /detokenize and /apply-template.
Json small_answer(const ServedModel& served, const HttpRequest& request) {
  const std::string& path = request.path;
  const Json body = parse_body(request.body);
  const Fields fields(body);
  const Tokenizer& tokenizer = served.tokenizer;
  if (path == "/tokenize") {
    const char* name =
        fields.get("content") == nullptr && fields.get("prompt") != nullptr ? "prompt" : "content";
    if (fields.get(name) == nullptr) bad_field("content", "content is missing");
    const std::vector<int32_t> tokens =
        tokenizer.encode(fields.text(name), {.add_special_tokens = fields.boolean("add_special", false),
                                             .parse_special_tokens = fields.boolean("parse_special", true)});
    Json list = tokens;
    if (fields.boolean("with_pieces")) {
      list = Json::array();
      for (const int32_t token : tokens)
        list.push_back({{"id", token}, {"piece", token_name(tokenizer.token_bytes(token))}});
    }
    return Json{{"tokens", list}, {"count", tokens.size()}};
  }
  if (path == "/detokenize") {
    const Json* list = fields.array("tokens");
    if (list == nullptr) bad_field("tokens", "tokens is missing");
    std::vector<int32_t> tokens;
    for (const Json& one : *list) {
      if (!one.is_number_unsigned() || one.get<uint64_t>() >= static_cast<uint64_t>(tokenizer.vocab_size()))
        bad_field("tokens", "tokens holds {}, expected ids from 0 to {}", Fields::shown(one),
                  tokenizer.vocab_size() - 1);
      tokens.push_back(one.get<int32_t>());
    }
    return Json{{"content", tokenizer.decode(tokens)}};
  }
  const ChatRequest chat = parse_chat_request(body, served.bounds);
  try {
    return Json{{"prompt", ChatPrompt(chat_of(served), tokenizer).text(template_values(chat))}};
  } catch (const Error& error) {
    throw ApiError{400, error.what(), "messages"};
  }
}

// What a request is answered with when `work` fails.
std::optional<ApiError> refusal_of(const std::function<void()>& work) {
  try {
    work();
    return std::nullopt;
  } catch (const ApiError& error) {
    return error;
  } catch (const Error& error) {
    return ApiError{400, error.what()};
  } catch (const std::exception& error) {
    return ApiError{500, error.what()};
  }
}

}  // namespace

void Server::State::handle(std::shared_ptr<HttpExchange> exchange) {
  try {
    route(exchange);
  } catch (const ApiError& error) {
    refuse(exchange, error);
  } catch (const std::exception& error) {
    refuse(exchange, {500, error.what()});
  }
}

void Server::State::route(const std::shared_ptr<HttpExchange>& exchange) {
  const HttpRequest& request = exchange->request();
  check_host(request);
  const RouteEntry entry = route_of(request.path);
  const std::string allowed = entry.post ? "POST" : "GET, HEAD";
  if (request.method == "OPTIONS" && !options.cors_origin.empty())
    return respond(
        exchange, 204,
        {{"Access-Control-Allow-Methods", allowed + ", OPTIONS"},
         {"Access-Control-Allow-Headers", std::string(request.header("access-control-request-headers"))},
         {"Access-Control-Max-Age", "600"}},
        "");
  if (entry.post ? request.method != "POST" : request.method != "GET" && request.method != "HEAD") {
    const ApiError error{405, fmt::format("{} takes {}", request.path, allowed)};
    HttpHeaders headers = error.headers();
    headers.emplace_back("Allow", allowed);
    return respond(exchange, 405, std::move(headers), error.body());
  }
  if (entry.route != Route::kPage && entry.route != Route::kHealth &&
      !(entry.route == Route::kMetrics && loopback))
    check_key(request);
  if (entry.post && !is_json(request.header("content-type")))
    throw ApiError{415, "the content type is not application/json", "", "unsupported_media_type"};
  switch (entry.route) {
    case Route::kPage:
      return respond(exchange, 200, page_headers(request.path), std::string(page_part(request.path)));
    case Route::kHealth:
      expect_working(*served());
      if (draining) throw ApiError{503, "the server is shutting down", "", "shutting_down", 1};
      return respond(exchange, Json{{"status", "ok"}});
    case Route::kMetrics:
      return respond(exchange, 200, {{"Content-Type", "text/plain; version=0.0.4; charset=utf-8"}},
                     metrics());
    case Route::kRequests:
      return respond(exchange, requests());
    case Route::kModels:
      return respond(exchange, models(""));
    case Route::kModel:
      return respond(exchange, models(unescaped(std::string_view(request.path).substr(kModelPrefix.size()))));
    case Route::kProperties:
      return respond(exchange, properties());
    case Route::kChat:
    case Route::kCompletions:
      return generate(exchange, entry.route == Route::kChat);
    case Route::kSmall:
      return small_post(exchange);
    case Route::kEmbeddings:
      throw ApiError{400, "this server has no embeddings", "", "unsupported_endpoint"};
  }
}

void Server::State::check_model(const ServedModel& model, const std::string& name) const {
  if (name.empty() || name == model.name || options.any_model || model.adapters.count(name) != 0) return;
  std::string names = model.name;
  for (const auto& [adapter, weights] : model.adapters) names += ", " + adapter;
  throw ApiError{404, fmt::format("there is no model {}; this server has {}", name, names), "model",
                 "model_not_found"};
}

void Server::State::generate(const std::shared_ptr<HttpExchange>& exchange, bool chat) {
  if (draining) throw ApiError{503, "the server is shutting down", "", "shutting_down", 1};
  const std::shared_ptr<ServedModel> model = served();
  expect_working(*model);
  http.background(exchange->request().body.size(), [this, exchange = exchange, model, chat]() mutable {
    auto prepared = std::make_shared<Prepared>();
    const std::optional<ApiError> error = refusal_of([&] {
      const Json body = parse_body(exchange->request().body);
      const Json* name = body.find("model");
      if (name != nullptr && name->is_string()) check_model(*model, name->text());
      if (chat) {
        ChatRequest request = parse_chat_request(body, model->bounds);
        const bool stream = request.stream, usage = request.include_usage;
        *prepared = prepare_chat(*model, options, std::move(request));
        prepared->stream = stream;
        prepared->include_usage = usage;
      } else {
        const CompletionRequest request = parse_completion_request(body, model->bounds);
        *prepared = prepare_completion(*model, options, request);
        prepared->stream = request.stream;
        prepared->include_usage = request.include_usage;
      }
    });
    // Moved, so that this thread never holds the last of a connection, which ends where run() is.
    http.post([this, exchange = std::move(exchange), model, prepared, error] {
      if (error) return refuse(exchange, *error);
      auto work = std::make_shared<ServerWork>();
      work->exchange = exchange;
      work->served = model;
      work->answer = std::move(prepared->answer);
      work->id = prepared->id;
      work->model = prepared->model;
      work->stream = prepared->stream;
      work->include_usage = prepared->include_usage;
      try {
        submit(work, std::move(prepared->requests));
      } catch (const ApiError& given) {
        refuse(exchange, given);
      } catch (const Error& given) {
        forget(*work, true);
        refuse(exchange, {400, given.what()});
      }
    });
  });
}

void Server::State::small_post(const std::shared_ptr<HttpExchange>& exchange) {
  http.background(exchange->request().body.size(), [this, exchange = exchange, model = served()]() mutable {
    auto answer = std::make_shared<std::string>();
    const std::optional<ApiError> error = refusal_of(
        [&] { *answer = small_answer(*model, exchange->request()).dump(-1, Json::Invalid::kReplace); });
    http.post([this, exchange = std::move(exchange), answer, error] {
      if (error) return refuse(exchange, *error);
      respond(exchange, 200, {{"Content-Type", "application/json"}}, std::move(*answer));
    });
  });
}

}  // namespace nfloat
