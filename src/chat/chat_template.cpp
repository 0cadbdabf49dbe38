// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "base/fail.h"
#include "base/json.h"
#include "chat/interpreter.h"
#include "llama_cpp/tokenizer.h"
#include "nfloat/chat.h"

namespace nfloat {

struct ChatTemplate::State {
  struct Named {
    std::string name, source;
    chat::NodePtr root;
  };
  std::vector<Named> templates;
  std::string wanted;  // by the caller; empty: by what is rendered
  Json special_tokens = Json::object();

  const Named* find(std::string_view name) const {
    for (const Named& one : templates)
      if (one.name == name) return &one;
    return nullptr;
  }
  // As Transformers chooses.
  const Named& choose(bool tools) const {
    const Named* chosen = find(wanted.empty() && tools && find("tool_use") != nullptr ? "tool_use"
                               : wanted.empty()                                       ? "default"
                                                                                      : wanted);
    if (chosen == nullptr && wanted.empty() && templates.size() == 1) chosen = templates.data();
    if (chosen != nullptr) return *chosen;
    std::string names;
    for (const Named& one : templates) names += (names.empty() ? "" : ", ") + one.name;
    fail(ErrorCode::kInvalidArgument, "{}: no template is the default; there are {}", templates[0].source,
         names);
  }
};

namespace {

std::optional<std::string> file_text(const std::filesystem::path& path) {
  constexpr size_t kMost = size_t{64} << 20;
  std::error_code error;
  if (!std::filesystem::is_regular_file(path, error)) return std::nullopt;
  if (std::filesystem::file_size(path, error) > kMost)
    fail(ErrorCode::kMalformedFile, "{}: larger than {} bytes", path.string(), kMost);
  std::ifstream in(path, std::ios::binary);
  if (!in) fail(ErrorCode::kIo, "{}: cannot open: {}", path.string(), std::strerror(errno));
  return std::string(std::istreambuf_iterator<char>(in), {});
}

void add_special_tokens(const Json& config, Json& tokens) {
  for (const auto& [key, value] : config.items()) {
    if (!key.ends_with("_token") || tokens.contains(key)) continue;
    if (value.is_string()) tokens[key] = value;
    if (value.is_object() && value.contains("content") && value["content"].is_string())
      tokens[key] = value["content"];
  }
}

// An object, empty when there is no such file.
Json object_in(const std::filesystem::path& path) {
  const auto text = file_text(path);
  return text ? parse_json_object(*text, path.string()) : Json::object();
}

using Texts = std::vector<std::array<std::string, 3>>;  // name, text, source

void add_templates(const Json& config, const std::string& path, Texts& texts) {
  const auto* found = config.find("chat_template");
  if (found == nullptr || found->is_null()) return;
  if (found->is_string()) {
    texts.push_back({"default", found->get<std::string>(), path});
    return;
  }
  if (found->is_object()) {
    for (const auto& [name, text] : found->items()) {
      if (!text.is_string())
        fail(ErrorCode::kMalformedFile, "{}: chat_template {} is not a text", path, name);
      texts.push_back({name, text.get<std::string>(), path});
    }
    return;
  }
  if (!found->is_array()) fail(ErrorCode::kMalformedFile, "{}: chat_template is neither text nor list", path);
  for (const Json& one : *found) {
    if (!one.is_object() || !one.contains("name") || !one["name"].is_string() || !one.contains("template") ||
        !one["template"].is_string())
      fail(ErrorCode::kMalformedFile, "{}: an entry of chat_template lacks a name or a template", path);
    texts.push_back({one["name"].get<std::string>(), one["template"].get<std::string>(), path});
  }
}

// chat_template.jinja and additional_chat_templates, else chat_template.json, else tokenizer_config.json.
Texts texts_of(const std::filesystem::path& base, const Json& config) {
  Texts texts;
  const std::filesystem::path main = base / "chat_template.jinja",
                              folder = base / "additional_chat_templates";
  if (const auto text = file_text(main)) texts.push_back({"default", *text, main.string()});
  std::error_code error;
  std::vector<std::filesystem::path> more;
  for (const auto& entry : std::filesystem::directory_iterator(folder, error))
    if (entry.path().extension() == ".jinja") more.push_back(entry.path());
  std::sort(more.begin(), more.end());
  for (const auto& path : more)
    if (const auto text = file_text(path)) texts.push_back({path.stem().string(), *text, path.string()});
  const std::filesystem::path processor = base / "chat_template.json";
  if (texts.empty()) add_templates(object_in(processor), processor.string(), texts);
  if (texts.empty()) add_templates(config, (base / "tokenizer_config.json").string(), texts);
  return texts;
}

}  // namespace

ChatTemplate ChatTemplate::parse(std::string_view text, const std::string& source) {
  auto state = std::make_shared<ChatTemplate::State>();
  state->templates.push_back({"default", source, chat::parse(text, source)});
  return ChatTemplate(std::move(state));
}

std::optional<ChatTemplate> ChatTemplate::load(const std::string& folder, const std::string& name) {
  const std::filesystem::path base(folder);
  Json config;
  if (is_gguf_path(folder)) {
    const auto files = huggingface_tokenizer(GgufFile(folder));
    const auto found = files.find("tokenizer_config.json");
    if (found != files.end()) config = parse_json_object(found->second, folder);
  } else {
    config = object_in(base / "tokenizer_config.json");
  }
  auto state = std::make_shared<ChatTemplate::State>();
  state->wanted = name;
  for (const auto& [own_name, text, source] : texts_of(base, config))
    if (name.empty() || own_name == name)
      state->templates.push_back({own_name, source, chat::parse(text, source)});
  if (state->templates.empty()) return std::nullopt;
  add_special_tokens(config, state->special_tokens);
  add_special_tokens(object_in(base / "special_tokens_map.json"), state->special_tokens);
  return ChatTemplate(std::move(state));
}

std::string ChatTemplate::render(std::string_view variables) const {
  chat::Budget reading(state_->templates[0].source);
  const chat::Value given = [&] {
    try {
      chat::Value value = chat::from_json(variables, "the variables", reading);
      if (value.kind != chat::Value::kDict)
        fail(ErrorCode::kInvalidArgument, "the variables are not a JSON object");
      return value;
    } catch (const Error& error) {
      fail(ErrorCode::kInvalidArgument, "{}: {}", state_->templates[0].source, error.what());
    }
  }();
  const chat::Value* tools = chat::find(*given.dict, chat::Value::text("tools"), reading);
  const State::Named& chosen = state_->choose(tools != nullptr && tools->kind != chat::Value::kNone);
  chat::Budget budget(chosen.source);
  chat::Entries entries{{"tools", chat::Value::none()},
                        {"documents", chat::Value::none()},
                        {"add_generation_prompt", chat::Value::boolean(false)}};
  for (const auto& [key, value] : state_->special_tokens.items())
    entries.emplace_back(key, chat::Value::text(value.text()));
  for (const auto& [key, value] : *given.dict) {
    std::erase_if(entries, [&name = key](const auto& entry) { return entry.first == name.str(); });
    entries.emplace_back(key.str(), value);
  }
  return chat::render(*chosen.root, std::move(entries), budget);
}

}  // namespace nfloat
