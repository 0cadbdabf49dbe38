// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_SERVER_API_REQUEST_H_
#define NFLOAT_SERVER_API_REQUEST_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/json.h"
#include "nfloat/sampler.h"

namespace nfloat {

// What requests are held against.
struct ApiBounds {
  int choices = 8;         // most of one prompt
  int64_t vocabulary = 0;  // tokens
  SamplerOptions defaults;
};

// The fields that chat and text completions have in common.
struct GenerationRequest {
  std::string model;  // empty: not said
  bool stream = false, include_usage = false, ignore_eos = false;
  int choices = 1;
  std::optional<int64_t> max_tokens;  // unset: what the context has room for
  SamplerOptions sampler;
  bool seeded = false;
  std::vector<std::string> stops;
  int64_t log_probabilities = -1;  // most likely tokens beside each; -1: none at all
};

struct ChatRequest : GenerationRequest {
  Json messages = Json::array();  // as templates expect them: content a text or null, arguments an object
  Json tools = Json::array();
  enum class ToolChoice : uint8_t { kNone, kAuto, kRequired } tool_choice = ToolChoice::kNone;
  std::string tool;  // the one that must be called; empty: any
  bool several_calls = true;
  enum class Format : uint8_t { kText, kJson, kSchema, kRegex } format = Format::kText;
  Json schema;                            // kSchema
  std::string regex;                      // kRegex
  Json template_values = Json::object();  // chat_template_kwargs
  std::string thinks;                     // the mark that ends the thought in which the prompt ends
};

struct CompletionRequest : GenerationRequest {
  using Prompt = std::variant<std::string, std::vector<int32_t>>;
  std::vector<Prompt> prompts;
  bool echo = false;
  ChatRequest::Format format = ChatRequest::Format::kText;
  Json schema;
  std::string regex;
};

// A body: a JSON object, at most 64 levels deep. Throws ApiError.
Json parse_body(std::string_view body);
ChatRequest parse_chat_request(const Json& body, const ApiBounds& bounds);
CompletionRequest parse_completion_request(const Json& body, const ApiBounds& bounds);
// The messages of a chat, with the field they are in named in errors.
Json parse_messages(const Json& body);

}  // namespace nfloat

#endif  // NFLOAT_SERVER_API_REQUEST_H_
