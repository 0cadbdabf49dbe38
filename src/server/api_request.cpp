// SPDX-License-Identifier: Apache-2.0
#include "server/api_request.h"

#include <algorithm>
#include <charconv>
#include <set>

#include "base/ascii.h"
#include "server/api_error.h"
#include "server/fields.h"

namespace nfloat {
namespace {

constexpr size_t kMostStops = 4;
constexpr int64_t kMostTokens = int64_t{1} << 40;

std::vector<std::string> stops_of(const Fields& fields) {
  const Json* value = fields.get("stop");
  if (value == nullptr) return {};
  if (value->is_string()) return {value->text()};
  if (!value->is_array())
    bad_field("stop", "stop is {}, expected a string or a list of them", Fields::shown(*value));
  if (value->size() > kMostStops)
    bad_field("stop", "stop has {} strings, expected at most {}", value->size(), kMostStops);
  std::vector<std::string> stops;
  for (const Json& one : *value) {
    if (!one.is_string()) bad_field("stop", "stop holds {}, expected strings", Fields::shown(one));
    stops.push_back(one.text());
  }
  return stops;
}

void read_bias(const Fields& fields, int64_t vocabulary, SamplerOptions& sampler) {
  const Json* bias = fields.object("logit_bias");
  if (bias == nullptr) return;
  for (const auto& [key, value] : bias->items()) {
    int64_t token = -1;
    const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), token);
    if (error != std::errc() || end != key.data() + key.size() || token < 0 || token >= vocabulary)
      bad_field("logit_bias", "logit_bias names the token \"{}\", expected ids from 0 to {}", key,
                vocabulary - 1);
    const double amount = value.is_number() ? value.get<double>() : NAN;
    if (!(amount >= -100 && amount <= 100))
      bad_field("logit_bias", "logit_bias of token {} is {}, expected a number from -100 to 100", key,
                Fields::shown(value));
    // 100 is to force a token and -100 to ban it, whatever its logit.
    const double weight = amount >= 100 ? 1e4 : amount <= -100 ? -1e4 : amount;
    sampler.bias.emplace_back(static_cast<int32_t>(token), static_cast<float>(weight));
  }
}

void read_sampling(const Fields& fields, const ApiBounds& bounds, GenerationRequest& request) {
  SamplerOptions& sampler = request.sampler;
  sampler = bounds.defaults;
  const auto set = [](float& value, std::optional<double> given) {
    if (given) value = static_cast<float>(*given);
  };
  set(sampler.temperature, fields.number("temperature", 0, 2));
  set(sampler.top_p, fields.number("top_p", 0, 1));
  set(sampler.min_p, fields.number("min_p", 0, 1));
  set(sampler.presence_penalty, fields.number("presence_penalty", -2, 2));
  set(sampler.frequency_penalty, fields.number("frequency_penalty", -2, 2));
  set(sampler.repetition_penalty, fields.number("repetition_penalty", 0.01, 100));
  if (const auto most = fields.integer("top_k", -1, INT32_MAX)) sampler.top_k = std::max<int64_t>(*most, 0);
  if (sampler.top_p <= 0) {
    sampler.top_p = 1;
    sampler.top_k = 1;
  }
  if (const Json* seed = fields.get("seed")) {
    if (!seed->is_number_integer())
      bad_field("seed", "seed is {}, expected a 64-bit integer", Fields::shown(*seed));
    sampler.seed =
        seed->is_number_unsigned() ? seed->get<uint64_t>() : static_cast<uint64_t>(seed->get<int64_t>());
    request.seeded = true;
  }
  read_bias(fields, bounds.vocabulary, sampler);
}

// What would change the answer and is not done, in both endpoints.
void refuse_unsupported(const Fields& fields) {
  const auto refuse = [](const char* name, const char* instead) {
    throw ApiError{400, fmt::format("{} is not supported{}", name, instead), name, "unsupported_parameter"};
  };
  for (const char* name :
       {"guided_json", "guided_regex", "guided_choice", "guided_grammar", "structured_outputs", "grammar"})
    if (fields.get(name) != nullptr) refuse(name, ": response_format takes a schema or a regex");
  if (const Json* list = fields.get("functions"); list != nullptr && !(list->is_array() && list->empty()))
    refuse("functions", ": give tools instead");
  if (const Json* call = fields.get("function_call"); call != nullptr && *call != "none" && *call != "auto")
    refuse("function_call", ": give tool_choice instead");
  if (const Json* kinds = fields.get("modalities"); kinds != nullptr && *kinds != Json::array({"text"}))
    bad_field("modalities", "modalities is {}, expected [\"text\"]: this model makes text only",
              kinds->dump(-1, Json::Invalid::kReplaceAndEscape).substr(0, 60));
  if (fields.get("audio") != nullptr) refuse("audio", ": this model makes text only");
}

void read_common(const Fields& fields, const ApiBounds& bounds, GenerationRequest& request,
                 int64_t least_tokens) {
  refuse_unsupported(fields);
  request.model = fields.text("model");
  request.stream = fields.boolean("stream");
  if (const Json* options = fields.object("stream_options")) {
    if (!request.stream) bad_field("stream_options", "stream_options goes with stream: true");
    const Json* usage = options->find("include_usage");
    if (usage != nullptr && !usage->is_null() && !usage->is_boolean())
      bad_field("stream_options", "include_usage is {}, expected true or false", Fields::shown(*usage));
    request.include_usage = usage != nullptr && usage->is_boolean() && usage->get<bool>();
  }
  request.ignore_eos = fields.boolean("ignore_eos");
  if (const auto n = fields.integer("n", 1, 1 << 20)) {
    if (*n > bounds.choices)
      bad_field("n", "n is {}, this server runs at most {} sequences together", *n, bounds.choices);
    request.choices = static_cast<int>(*n);
  }
  request.max_tokens = fields.integer("max_tokens", least_tokens, kMostTokens);
  if (const auto newer = fields.integer("max_completion_tokens", least_tokens, kMostTokens))
    request.max_tokens = newer;
  read_sampling(fields, bounds, request);
  request.stops = stops_of(fields);
}

// A content: a text, or parts that are texts.
Json content_of(const Json& content, const std::string& where) {
  if (content.is_string() || content.is_null()) return content;
  if (!content.is_array())
    bad_field("messages", "{} is {}, expected a string or a list of parts", where, Fields::shown(content));
  std::string text;
  for (size_t i = 0; i < content.size(); ++i) {
    const Json& part = content[i];
    const Json* type = part.is_object() ? part.find("type") : nullptr;
    if (type == nullptr || !type->is_string())
      bad_field("messages", "{}[{}] is not a part with a type", where, i);
    if (type->text() != "text" && type->text() != "refusal")
      bad_field("messages", "{}[{}] is of type {}: this model reads text only", where, i, type->text());
    const Json* value = part.find(type->text());
    if (value == nullptr || !value->is_string()) bad_field("messages", "{}[{}] has no text", where, i);
    text += value->text();
  }
  return text;
}

Json calls_of(const Json& calls, const std::string& where) {
  if (!calls.is_array()) bad_field("messages", "{} is {}, expected a list", where, Fields::shown(calls));
  Json result = Json::array();
  for (size_t i = 0; i < calls.size(); ++i) {
    Json call = calls[i];
    const Json* function = call.is_object() ? call.find("function") : nullptr;
    const Json* name = function != nullptr && function->is_object() ? function->find("name") : nullptr;
    if (name == nullptr || !name->is_string())
      bad_field("messages", "{}[{}] has no function with a name", where, i);
    // Templates expect the arguments as an object, the protocol has them as its text.
    if (const Json* arguments = function->find("arguments"); arguments != nullptr && arguments->is_string()) {
      try {
        Json parsed = Json::parse(arguments->text(), {.depth = 64});
        if (parsed.is_object()) call["function"]["arguments"] = std::move(parsed);
      } catch (const JsonError&) {
        // A text that is not JSON is given as it is.
      }
    }
    result.push_back(std::move(call));
  }
  return result;
}

// OpenAI takes names of letters, digits, _ and -, at most 64; clients that hand on the tools of MCP servers
// send their dots, slashes and colons and up to 128 characters too; letters of any alphabet do no harm.
// Others would not stand in one piece between the marks of a call.
bool is_tool_name(std::string_view name) noexcept {
  constexpr size_t kMostBytes = 128;
  static constexpr std::string_view kOthers = "_-./:";
  return !name.empty() && name.size() <= kMostBytes && std::all_of(name.begin(), name.end(), [](char c) {
    const char l = lower(c);
    return (l >= 'a' && l <= 'z') || (l >= '0' && l <= '9') || static_cast<unsigned char>(c) >= 0x80 ||
           kOthers.find(c) != kOthers.npos;
  });
}

void read_tools(const Fields& fields, ChatRequest& request) {
  const Json* tools = fields.array("tools");
  if (tools != nullptr) {
    std::set<std::string_view> names;
    for (size_t i = 0; i < tools->size(); ++i) {
      const Json& tool = (*tools)[i];
      const Json* type = tool.is_object() ? tool.find("type") : nullptr;
      if (type == nullptr || !type->is_string() || type->text() != "function")
        bad_field("tools", "tools[{}] is not of type function", i);
      const Json* function = tool.find("function");
      const Json* name = function != nullptr && function->is_object() ? function->find("name") : nullptr;
      if (name == nullptr || !name->is_string() || name->text().empty())
        bad_field("tools", "tools[{}] has no function with a name", i);
      if (!is_tool_name(name->text()))
        bad_field("tools",
                  "tools[{}].function.name is {}, expected at most 128 bytes of letters, digits and _-./:", i,
                  Fields::shown(*name));
      if (!names.insert(name->text()).second)
        bad_field("tools", "tools[{}].function.name is {}, which another tool has too", i, name->text());
      if (const Json* parameters = function->find("parameters");
          parameters != nullptr && !parameters->is_null() && !parameters->is_object())
        bad_field("tools", "tools[{}].function.parameters is {}, expected a schema", i,
                  Fields::shown(*parameters));
    }
    request.tools = *tools;
  }
  const Json* choice = fields.get("tool_choice");
  using ToolChoice = ChatRequest::ToolChoice;
  request.tool_choice = request.tools.empty() ? ToolChoice::kNone : ToolChoice::kAuto;
  if (choice == nullptr) return;
  if (choice->is_string()) {
    const std::string& name = choice->text();
    if (name != "none" && name != "auto" && name != "required")
      bad_field("tool_choice", "tool_choice is {}, expected none, auto, required or a function",
                Fields::shown(*choice));
    if (name == "required" && request.tools.empty())
      bad_field("tool_choice", "tool_choice is required, but there are no tools");
    if (name == "none") request.tool_choice = ToolChoice::kNone;
    if (name == "required") request.tool_choice = ToolChoice::kRequired;
    return;
  }
  const Json* type = choice->is_object() ? choice->find("type") : nullptr;
  if (type != nullptr && *type != "function")
    bad_field("tool_choice", "tool_choice.type is {}, expected function", Fields::shown(*type));
  const Json* function = choice->is_object() ? choice->find("function") : nullptr;
  const Json* name = function != nullptr && function->is_object() ? function->find("name") : nullptr;
  if (name == nullptr || !name->is_string()) bad_field("tool_choice", "tool_choice names no function");
  const bool known = std::any_of(request.tools.begin(), request.tools.end(),
                                 [&](const Json& tool) { return tool["function"]["name"] == *name; });
  if (!known)
    bad_field("tool_choice", "tool_choice names {}, which is not among the tools", Fields::shown(*name));
  request.tool_choice = ToolChoice::kRequired;
  request.tool = name->text();
}

void read_format(const Fields& fields, ChatRequest::Format& format, Json& schema, std::string& regex) {
  const Json* given = fields.object("response_format");
  if (given == nullptr) return;
  const Json* type = given->find("type");
  const std::string name = type != nullptr && type->is_string() ? type->text() : "";
  if (name == "text") return;
  if (name == "json_object") {
    format = ChatRequest::Format::kJson;
    if (const Json* direct = given->find("schema"); direct != nullptr && direct->is_object()) {
      format = ChatRequest::Format::kSchema;
      schema = *direct;
    }
    return;
  }
  if (name == "json_schema") {
    const Json* holder = given->find("json_schema");
    const Json* found = holder != nullptr && holder->is_object() ? holder->find("schema") : nullptr;
    if (found == nullptr || !(found->is_object() || found->is_boolean()))
      bad_field("response_format", "response_format has no json_schema.schema");
    format = ChatRequest::Format::kSchema;
    schema = *found;
    return;
  }
  if (name == "regex") {
    const Json* found = given->find("regex");
    if (found == nullptr || !found->is_string()) bad_field("response_format", "response_format has no regex");
    format = ChatRequest::Format::kRegex;
    regex = found->text();
    return;
  }
  bad_field("response_format",
            "response_format.type is \"{}\", expected text, json_object, json_schema or regex", name);
}

}  // namespace

Json parse_body(std::string_view body) {
  try {
    Json json = Json::parse(body, {.depth = 64, .values = 1 << 20, .unique_names = true});
    if (json.is_object()) return json;
  } catch (const Error& error) {
    throw ApiError{400, std::string("the body: ") + error.what()};
  }
  throw ApiError{400, "the body is not a JSON object"};
}

Json parse_messages(const Json& body) {
  const Json* messages = Fields(body).array("messages");
  if (messages == nullptr) bad_field("messages", "messages is missing");
  if (messages->empty()) bad_field("messages", "messages is empty");
  Json result = Json::array();
  for (size_t i = 0; i < messages->size(); ++i) {
    const Json& message = (*messages)[i];
    const Json* role = message.is_object() ? message.find("role") : nullptr;
    if (role == nullptr || !role->is_string()) bad_field("messages", "messages[{}] has no role", i);
    const std::string& name = role->text();
    if (name != "system" && name != "developer" && name != "user" && name != "assistant" && name != "tool")
      bad_field("messages",
                "messages[{}].role is \"{}\", expected system, developer, user, assistant or tool", i, name);
    Json one = message;
    const Json* content = message.find("content");
    const Json* calls = message.find("tool_calls");
    const bool called = calls != nullptr && !calls->is_null();
    if ((content == nullptr || content->is_null()) && name != "assistant")
      bad_field("messages", "messages[{}] has no content", i);
    if (content != nullptr) one["content"] = content_of(*content, fmt::format("messages[{}].content", i));
    if (called)
      one["tool_calls"] = calls_of(*calls, fmt::format("messages[{}].tool_calls", i));
    else if (content == nullptr || content->is_null())
      one["content"] = "";
    // Templates know the role by its older name.
    if (name == "developer") one["role"] = "system";
    result.push_back(std::move(one));
  }
  return result;
}

ChatRequest parse_chat_request(const Json& body, const ApiBounds& bounds) {
  const Fields fields(body);
  ChatRequest request;
  read_common(fields, bounds, request, 1);
  request.messages = parse_messages(body);
  const bool wanted = fields.boolean("logprobs");
  const auto top = fields.integer("top_logprobs", 0, 20);
  if (top && !wanted) bad_field("top_logprobs", "top_logprobs goes with logprobs: true");
  if (wanted) request.log_probabilities = top.value_or(0);
  read_tools(fields, request);
  request.several_calls = fields.boolean("parallel_tool_calls", true);
  read_format(fields, request.format, request.schema, request.regex);
  if (const std::string effort = fields.text("reasoning_effort"); !effort.empty())
    request.template_values["reasoning_effort"] = effort;
  if (const Json* values = fields.object("chat_template_kwargs"))
    for (const auto& [name, value] : values->items()) request.template_values[name] = value;
  return request;
}

CompletionRequest parse_completion_request(const Json& body, const ApiBounds& bounds) {
  const Fields fields(body);
  CompletionRequest request;
  read_common(fields, bounds, request, 0);
  const Json* prompt = fields.get("prompt");
  if (prompt == nullptr) bad_field("prompt", "prompt is missing");
  const auto ids = [&](const Json& list) {
    std::vector<int32_t> tokens;
    for (const Json& id : list) {
      if (!id.is_number_unsigned() || id.get<uint64_t>() >= static_cast<uint64_t>(bounds.vocabulary))
        bad_field("prompt", "prompt holds the token {}, expected ids from 0 to {}", Fields::shown(id),
                  bounds.vocabulary - 1);
      tokens.push_back(id.get<int32_t>());
    }
    return tokens;
  };
  if (prompt->is_string()) {
    request.prompts.emplace_back(prompt->text());
  } else if (prompt->is_array() && !prompt->empty() && prompt->front().is_number()) {
    request.prompts.emplace_back(ids(*prompt));
  } else if (prompt->is_array() && !prompt->empty()) {
    for (const Json& one : *prompt) {
      if (one.is_string())
        request.prompts.emplace_back(one.text());
      else if (one.is_array() && !one.empty())
        request.prompts.emplace_back(ids(one));
      else
        bad_field("prompt", "prompt holds {}, expected strings or lists of tokens", Fields::shown(one));
    }
  } else {
    bad_field("prompt", "prompt is {}, expected a string, tokens, or a list of them", Fields::shown(*prompt));
  }
  if (const Json* suffix = fields.get("suffix");
      suffix != nullptr && !(suffix->is_string() && suffix->text().empty()))
    throw ApiError{400, "suffix: this server does not fill in the middle", "suffix", "unsupported_parameter"};
  if (const auto best = fields.integer("best_of", 1, 1 << 20); best && *best != request.choices)
    throw ApiError{400, "best_of: this server does not rank choices", "best_of", "unsupported_parameter"};
  request.echo = fields.boolean("echo");
  if (const Json* logprobs = fields.get("logprobs"); logprobs != nullptr && !logprobs->is_boolean())
    request.log_probabilities = fields.integer("logprobs", 0, 20).value_or(-1);
  else if (logprobs != nullptr && logprobs->get<bool>())
    request.log_probabilities = 0;
  read_format(fields, request.format, request.schema, request.regex);
  return request;
}

}  // namespace nfloat
