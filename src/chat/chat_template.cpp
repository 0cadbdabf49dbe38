// SPDX-License-Identifier: Apache-2.0
#include <filesystem>
#include <fstream>
#include <iterator>

#include "base/fail.h"
#include "base/json.h"
#include "chat/interpreter.h"
#include "nfloat/chat.h"

namespace nfloat {

struct ChatTemplate::State {
  std::string source;
  chat::NodePtr root;
  Json special_tokens = Json::object();
};

namespace {

std::shared_ptr<ChatTemplate::State> parsed(std::string_view text, const std::string& source) {
  auto state = std::make_shared<ChatTemplate::State>();
  state->source = source;
  state->root = chat::parse(text, source);
  return state;
}

std::optional<std::string> file_text(const std::filesystem::path& path) {
  constexpr size_t kMost = size_t{64} << 20;
  std::error_code error;
  if (!std::filesystem::is_regular_file(path, error)) return std::nullopt;
  if (std::filesystem::file_size(path, error) > kMost)
    fail(ErrorCode::kMalformedFile, "{}: larger than {} bytes", path.string(), kMost);
  std::ifstream in(path, std::ios::binary);
  if (!in) fail(ErrorCode::kIo, "{}: cannot be read", path.string());
  return std::string(std::istreambuf_iterator<char>(in), {});
}

Json special_tokens_of(const Json& config) {
  Json tokens = Json::object();
  for (const auto& [key, value] : config.items()) {
    if (!key.ends_with("_token")) continue;
    if (value.is_string()) tokens[key] = value;
    if (value.is_object() && value.contains("content") && value["content"].is_string())
      tokens[key] = value["content"];
  }
  return tokens;
}

std::optional<std::string> template_in(const Json& config, const std::string& name, const std::string& path) {
  const auto found = config.find("chat_template");
  if (found == nullptr || found->is_null()) return std::nullopt;
  if (found->is_string()) return name == "default" ? std::optional(found->get<std::string>()) : std::nullopt;
  if (!found->is_array()) fail(ErrorCode::kMalformedFile, "{}: chat_template is neither text nor list", path);
  for (const Json& one : *found) {
    if (!one.is_object() || !one.contains("name") || !one.contains("template") ||
        !one["template"].is_string())
      fail(ErrorCode::kMalformedFile, "{}: an entry of chat_template lacks a name or a template", path);
    if (one["name"] == name) return one["template"].get<std::string>();
  }
  return std::nullopt;
}

Json parse_variables(std::string_view text, const std::string& source) {
  try {
    return parse_json_object(text, "the variables");
  } catch (const Error& error) {
    fail(ErrorCode::kInvalidArgument, "{}: {}", source, error.what());
  }
}

}  // namespace

ChatTemplate ChatTemplate::parse(std::string_view text, const std::string& source) {
  return ChatTemplate(parsed(text, source));
}

std::optional<ChatTemplate> ChatTemplate::load(const std::string& folder, const std::string& name) {
  const std::filesystem::path base(folder);
  const std::string wanted = name.empty() ? "default" : name;
  Json config = Json::object();
  const std::filesystem::path config_path = base / "tokenizer_config.json";
  if (const auto text = file_text(config_path)) {
    config = parse_json_object(*text, config_path.string());
  }
  std::filesystem::path source = base / "chat_template.jinja";
  std::optional<std::string> text = wanted == "default" ? file_text(source) : std::nullopt;
  if (!text) {
    source = config_path;
    text = template_in(config, wanted, config_path.string());
  }
  if (!text) return std::nullopt;
  auto state = parsed(*text, source.string());
  state->special_tokens = special_tokens_of(config);
  return ChatTemplate(std::move(state));
}

std::string ChatTemplate::render(std::string_view variables) const {
  Json all = state_->special_tokens;
  const Json given = parse_variables(variables, state_->source);
  for (const auto& [key, value] : given.items()) all[key] = value;
  chat::Budget budget(state_->source);
  chat::Entries entries;
  for (const auto& [key, value] : all.items())
    entries.emplace_back(key, chat::Value::from_json(value, budget));
  return chat::render(*state_->root, std::move(entries), budget);
}

}  // namespace nfloat
