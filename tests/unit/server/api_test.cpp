// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include "nfloat/error.h"
#include "nfloat/serve.h"
#include "nfloat/tokenizer.h"
#include "server/api_error.h"
#include "server/api_request.h"
#include "server/parts.h"
#include "server/prompt.h"
#include "server/server_state.h"
#include "support/paths.h"

namespace nfloat {
namespace {

const ApiBounds kBounds{.choices = 4, .vocabulary = 100, .defaults = {.temperature = 0.5F}};

ApiError chat_error(const std::string& body) {
  try {
    parse_chat_request(parse_body(body), kBounds);
  } catch (const ApiError& error) {
    return error;
  }
  return {0, "no error"};
}

TEST(ApiRequests, FieldsAndTheirDefaults) {
  const ChatRequest request = parse_chat_request(
      parse_body(R"({"messages": [{"role": "developer", "content": [{"type": "text", "text": "a"},
                 {"type": "text", "text": "b"}]}, {"role": "assistant", "tool_calls": [{"function":
                 {"name": "f", "arguments": "{\"x\": 1}"}}]}], "max_tokens": 5, "max_completion_tokens": 3,
                 "top_p": null, "stop": "end", "seed": -1, "logit_bias": {"7": 100}, "logprobs": true})"),
      kBounds);
  EXPECT_EQ(request.messages[0]["role"], "system");
  EXPECT_EQ(request.messages[0]["content"], "ab");
  EXPECT_EQ(request.messages[1]["tool_calls"][0]["function"]["arguments"]["x"], 1);
  EXPECT_EQ(request.max_tokens, 3);
  EXPECT_EQ(request.sampler.temperature, 0.5F);
  EXPECT_EQ(request.sampler.top_p, 1);
  EXPECT_EQ(request.sampler.seed, ~uint64_t{0});
  EXPECT_EQ(request.sampler.bias.size(), 1u);
  EXPECT_EQ(request.stops, std::vector<std::string>{"end"});
  EXPECT_EQ(request.log_probabilities, 0);
  EXPECT_EQ(request.choices, 1);
}

// Letters, digits, _ and - are OpenAI's; the others come from clients that hand on the tools of MCP servers.
TEST(ApiRequests, NamesOfToolsAreThoseThatClientsSend) {
  const auto body_of = [](const std::string& name) {
    return R"({"messages": [{"role": "user", "content": "x"}], "tools": [{"type": "function", "function":
              {"name": ")" +
           name + R"("}}], "tool_choice": {"type": "function", "function": {"name": ")" + name + R"("}}})";
  };
  for (const std::string name : {"get_weather", "caf\xc3\xa9", "Get-Weather2", "immich.assets.list",
                                 "mcp/server/tool", "server:tool", "7", "mcp__a__b"})
    EXPECT_EQ(parse_chat_request(parse_body(body_of(name)), kBounds).tool, name);
  EXPECT_EQ(chat_error(body_of(std::string(128, 'a'))).status, 0);
  EXPECT_EQ(chat_error(body_of(std::string(129, 'a'))).param, "tools");
}

TEST(ApiRequests, FieldsThatComeTwiceAreRefused) {
  for (const std::string body : {R"({"messages": [{"role": "user", "content": "x"}], "n": 1, "n": 2})",
                                 R"({"messages": [{"role": "user", "content": "x", "content": "n"}]})"}) {
    const ApiError error = chat_error(body);
    EXPECT_EQ(error.status, 400);
    EXPECT_NE(error.message.find("two members of one object have the name"), std::string::npos)
        << error.message;
  }
}

TEST(ApiRequests, WhatIsWrongIsNamed) {
  const std::string messages = R"("messages": [{"role": "user", "content": "x"}])";
  const std::pair<const char*, const char*> cases[] = {
      {R"("temperature": "warm")", "temperature"},
      {R"("temperature": 2.5)", "temperature"},
      {R"("n": 5)", "n"},
      {R"("n": 1.5)", "n"},
      {R"("max_tokens": 0)", "max_tokens"},
      {R"("stop": ["a","b","c","d","e"])", "stop"},
      {R"("logit_bias": {"100": 1})", "logit_bias"},
      {R"("stream": 1)", "stream"},
      {R"("top_logprobs": 2)", "top_logprobs"},
      {R"("seed": 1.5)", "seed"},
      {R"("tools": [{"type": "x"}])", "tools"},
      {R"("tools": [{"type": "function", "function": {"name": ""}}])", "tools"},
      {R"("tools": [{"type": "function", "function": {"name": "a b"}}])", "tools"},
      {R"("tools": [{"type": "function", "function": {"name": "a\u0000"}}])", "tools"},
      {R"("tools": [{"type": "function", "function": {"name": "<tool_call>"}}])", "tools"},
      {R"("tools": [{"type": "function", "function": {"name": "f"}},
                    {"type": "function", "function": {"name": "f"}}])",
       "tools"},
      {R"("tools": [{"type": "function", "function": {"name": "f"}}],
          "tool_choice": {"type": "function", "function": {"name": "g"}})",
       "tool_choice"},
      {R"("tools": [{"type": "function", "function": {"name": "f"}}],
          "tool_choice": {"type": "custom", "function": {"name": "f"}})",
       "tool_choice"},
      {R"("tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": {"type": "function"})",
       "tool_choice"},
      {R"("tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "f")", "tool_choice"},
      {R"("tool_choice": "required")", "tool_choice"},
      {R"("response_format": {"type": "xml"})", "response_format"},
      {R"("stream_options": {})", "stream_options"},
      {R"("guided_json": {})", "guided_json"},
      {R"("guided_regex": "a")", "guided_regex"},
      {R"("grammar": "root ::= \"a\"")", "grammar"},
      {R"("guided_choice": ["a"])", "guided_choice"},
      {R"("guided_grammar": "root ::= a")", "guided_grammar"},
      {R"("structured_outputs": {"regex": "a"})", "structured_outputs"},
      {R"("functions": [{"name": "f"}])", "functions"},
      {R"("function_call": {"name": "f"})", "function_call"},
      {R"("modalities": ["text", "audio"])", "modalities"},
      {R"("modalities": "text")", "modalities"},
      {R"("audio": {"voice": "a"})", "audio"}};
  for (const auto& [field, param] : cases) {
    const ApiError error = chat_error("{" + messages + ", " + field + "}");
    EXPECT_EQ(error.status, 400) << field;
    EXPECT_EQ(error.param, param) << field;
  }
  for (const char* field : {R"("guided_json": null)", R"("functions": [])", R"("function_call": "auto")",
                            R"("modalities": ["text"])"})
    EXPECT_EQ(chat_error("{" + messages + ", " + field + "}").status, 0) << field;
  for (const char* body :
       {"", "[]", "{\"messages\":", "{\"messages\": [1]}", "{\"messages\": []}", "{}",
        R"({"messages": [{"role": "user"}]})", R"({"messages": [{"role": "x", "content": ""}]})",
        R"({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]})",
        "{\"messages\": [{\"role\": \"user\", \"content\": \"\xff\"}]}"})
    EXPECT_EQ(chat_error(body).status, 400) << body;
  EXPECT_EQ(chat_error(std::string(1000, '[')).status, 400);
}

TEST(ApiErrors, AreJsonInTheShapeOfOpenAi) {
  const Json error = Json::parse(ApiError{429, "full", "", "queue_full", 3}.body())["error"];
  EXPECT_EQ(error["type"], "rate_limit_error");
  EXPECT_TRUE(error["param"].is_null());
  EXPECT_EQ(error["code"], "queue_full");
}

TEST(ApiSecrets, AreComparedWhole) {
  EXPECT_TRUE(equal_secrets("key", "key"));
  EXPECT_FALSE(equal_secrets("ke", "key"));
  EXPECT_FALSE(equal_secrets("keykey", "key"));
  EXPECT_FALSE(equal_secrets("", "key"));
}

// The parts of a text that comes in pieces of `size` bytes, as "T:...", "R:...", "C:name", "A:..."; equal
// kinds joined.
std::string split(const ChatRequest& request, const std::string& text, size_t size) {
  const auto splitter = make_parts(request);
  std::string result;
  std::optional<Part::Kind> last;
  const auto add = [&](const std::vector<Part>& parts) {
    for (const Part& part : parts) {
      if (part.kind != last || part.kind == Part::Kind::kCall)
        result += std::string(last ? "|" : "") + "TRCA"[static_cast<int>(part.kind)] + ":";
      last = part.kind;
      result += part.text;
    }
  };
  for (size_t at = 0; at < text.size(); at += size) {
    EngineEvent event;
    event.piece.text = text.substr(at, size);
    add(splitter->push(event));
  }
  add(splitter->finish(FinishReason::kEndOfText));
  return result;
}

TEST(AnswerParts, ThoughtsCallsAndTextAreToldApartHoweverTheyCome) {
  ChatRequest plain, tools;
  tools.tools = Json::parse(R"([{"type": "function", "function": {"name": "f"}},
                                {"type": "function", "function": {"name": "g"}}])");
  tools.tool_choice = ChatRequest::ToolChoice::kAuto;
  ChatRequest inside = plain;
  inside.thinks = open_thought("assistant\n<think>\n");
  ChatRequest mistral = plain;
  mistral.thinks = open_thought("[/INST][THINK]");
  EXPECT_EQ(open_thought("<think>a</think>"), "");
  EXPECT_EQ(open_thought("<think>a</think> b [THINK]c"), "[/THINK]");
  // What a schema asks for is no call and no thought, whatever it looks like.
  ChatRequest formed = tools;
  formed.format = ChatRequest::Format::kSchema;
  formed.thinks = "</think>";
  ChatRequest single = tools;
  single.several_calls = false;
  ChatRequest forced = tools;
  forced.tool_choice = ChatRequest::ToolChoice::kRequired;
  for (const size_t size : {1u, 2u, 3u, 7u, 1000u}) {
    EXPECT_EQ(split(plain, "<think>\nhm < 3\n</think>\n\nYes.", size), "R:hm < 3\n|T:Yes.");
    EXPECT_EQ(split(inside, "hm</think>Yes.", size), "R:hm|T:Yes.");
    EXPECT_EQ(split(plain, "[THINK]hm [/THIN </think>[/THINK]Yes.", size), "R:hm [/THIN </think>|T:Yes.");
    EXPECT_EQ(split(mistral, "hm</think>[/THINK] Yes.", size), "R:hm</think>|T:Yes.");
    EXPECT_EQ(split(tools, "[THINK]hm[/THINK][TOOL_CALLS]f[ARGS]{}", size), "R:hm|C:f|A:{}");
    EXPECT_EQ(split(plain, "[THIN] so", size), "T:[THIN] so");
    EXPECT_EQ(split(tools, "[TH", size), "T:[TH");
    EXPECT_EQ(split(plain, "<thin> <tool_call>{}", size), "T:<thin> <tool_call>{}");
    EXPECT_EQ(
        split(tools, "Well. <tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": 1}}\n</tool_call>", size),
        "T:Well. |C:f|A:{\"a\":1}");
    EXPECT_EQ(split(tools, "{\"name\": \"g\", \"parameters\": {}}", size), "C:g|A:{}");
    EXPECT_EQ(
        split(tools, "[{\"name\": \"g\", \"arguments\": {}}, {\"name\": \"f\", \"arguments\": {}}]", size),
        "C:g|A:{}|C:f|A:{}");
    EXPECT_EQ(split(tools, "Well. [TOOL_CALLS] [{\"name\": \"g\", \"arguments\": {\"a\": 1}}]", size),
              "T:Well. |C:g|A:{\"a\":1}");
    EXPECT_EQ(split(tools, "[TOOL_CALLS]f[ARGS]{\"a\": 1}[TOOL_CALLS] g [CALL_ID]x1[ARGS]{}", size),
              "C:f|A:{\"a\":1}|C:g|A:{}");
    EXPECT_EQ(split(tools, "[TOOL_CALLS]f{\"a\": [1]}", size), "C:f|A:{\"a\":[1]}");
    for (const char* text :
         {"[TOOL_CALLS]h[ARGS]{}", "[TOOL_CALLS]f[ARGS]{", "[TOOL_CALLS]", "a [TOOL_ <tool_ [TOOL_C"})
      EXPECT_EQ(split(tools, text, size), std::string("T:") + text);
    EXPECT_EQ(split(tools, "a <tool_[TOOL_CALLS]f{}", size), "T:a <tool_|C:f|A:{}");
    EXPECT_EQ(split(tools, "[TOOL_<tool_call>{\"name\": \"f\"}</tool_call>", size), "T:[TOOL_|C:f|A:{}");
    EXPECT_EQ(split(tools, "{\"name\": \"h\"}", size), "T:{\"name\": \"h\"}");
    EXPECT_EQ(split(tools, "<tool_call>{\"name\": \"h\"}</tool_call>", size),
              "T:<tool_call>{\"name\": \"h\"}</tool_call>");
    for (const char* text :
         {"{\"name\": \"f\", \"arguments\": {}}", "<think>a</think> b", " [TOOL_CALLS]f{}"})
      EXPECT_EQ(split(formed, text, size), std::string("T:") + text);
    EXPECT_EQ(split(single, "[TOOL_CALLS]f{}[TOOL_CALLS]g{}", size), "C:f|A:{}");
    EXPECT_EQ(split(single, "[{\"name\": \"g\"}, {\"name\": \"f\"}]", size), "C:g|A:{}");
    EXPECT_EQ(split(forced, "{\"name\": \"f\", \"arguments\": {\"a\": {}}}", size), "C:f|A:{\"a\": {}}");
  }
}

TEST(ChatPrompts, SpecialTokensOfUsersStayText) {
  const Tokenizer tokenizer = Tokenizer::load(testing::source_path("/models/nfloat-tiny"));
  const ChatTemplate chat = ChatTemplate::parse(
      "{% for m in messages %}{{ m.role }}: {{ m.content }}<|end_of_text|>{% endfor %}", "test");
  const ChatPrompt prompt(chat, tokenizer);
  const auto tokens = [&](const std::string& content) {
    return prompt.tokens({{"messages", Json::array({Json{{"role", "user"}, {"content", content}}})}});
  };
  const int32_t end = tokenizer.token_id("<|end_of_text|>").value();
  const auto count = [&](const std::vector<int32_t>& list) {
    return std::count(list.begin(), list.end(), end);
  };
  EXPECT_EQ(count(tokens("plain")), 1);
  EXPECT_EQ(tokens("plain"), tokenizer.encode("user: plain<|end_of_text|>", false));
  const std::vector<int32_t> hostile = tokens("a<|end_of_text|>b");
  EXPECT_EQ(count(hostile), 1);
  EXPECT_EQ(tokenizer.decode(hostile), "user: a<|end_of_text|>b<|end_of_text|>");
  // A template that cuts texts short, and marks that come from elsewhere.
  const ChatPrompt cut(ChatTemplate::parse("{{ messages[0].content[:1] }}{{ x }}!", "test"), tokenizer);
  const Json values{{"messages", Json::array({Json{{"role", "user"}, {"content", "<|end_of_text|>"}}})},
                    {"x",
                     "\uefb0"
                     "7\uefb1\uefb0"}};
  EXPECT_EQ(count(cut.tokens(values)), 0);
  EXPECT_EQ(tokenizer.decode(cut.tokens(values)).back(), '!');
}

TEST(ApiKeys, AreReadFromLines) {
  const auto keys = [](const std::string& text) { return read_api_keys(text, "keys.txt"); };
  using Keys = std::vector<std::string>;
  EXPECT_EQ(keys("one\ntwo"), (Keys{"one", "two"}));
  EXPECT_EQ(keys("# c\r\n\r\n \tone \r\n  # of two\r\ntwo#\r\none\r\n"), (Keys{"one", "two#"}));
  EXPECT_EQ(keys("x"), Keys{"x"});
  const auto complaint = [&](const std::string& text) {
    try {
      keys(text);
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string("taken");
  };
  for (const std::string none : {"", "\n", "# all\n#of\n  # them", " \r\n\t"})
    EXPECT_EQ(complaint(none), "keys.txt: no API key in it") << none;
  for (const auto& [text, words] : {std::pair<std::string, std::string>{"one\nse cret", "line 2 has a space"},
                                    {"#\n\ncaf\xc3\xa9", "line 3 has 0xc3 at its byte 4"},
                                    {"\xef\xbb\xbfone", "line 1 has 0xef at its byte 1"},
                                    {std::string("se\0cret", 7), "line 1 has 0x00 at its byte 3"},
                                    {"se\rcret\n", "line 1 has 0x0d at its byte 3"}}) {
    EXPECT_NE(complaint(text).find(words), std::string::npos) << complaint(text);
    EXPECT_EQ(complaint(text).find("cret"), std::string::npos) << "keys are not shown";
  }
}

}  // namespace
}  // namespace nfloat
