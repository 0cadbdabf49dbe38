// SPDX-License-Identifier: Apache-2.0
#include "server/prompt.h"

#include <fmt/format.h>

#include <charconv>
#include <system_error>

namespace nfloat {
namespace {

// Characters for private use around the number of a text that stands elsewhere.
constexpr const char* kOpen = "\xee\xbf\xb0";
constexpr const char* kClose = "\xee\xbf\xb1";
constexpr size_t kMark = 3;  // bytes of each

std::vector<int32_t> plain(const Tokenizer& tokenizer, std::string_view text) {
  return tokenizer.encode(text, EncodeOptions{.add_special_tokens = false, .parse_special_tokens = false});
}

// Moves every string of `value` that spells special tokens, or one of the marks, into `texts`.
void set_aside(const Tokenizer& tokenizer, Json& value, std::vector<std::string>& texts) {
  if (value.is_string()) {
    const std::string& text = value.text();
    const bool marks = text.find(kOpen) != std::string::npos || text.find(kClose) != std::string::npos;
    if (!marks && tokenizer.encode(text, false) == plain(tokenizer, text)) return;
    texts.push_back(text);
    value = fmt::format("{}{}{}", kOpen, texts.size() - 1, kClose);
  } else if (value.is_array()) {
    for (size_t i = 0; i < value.size(); ++i) set_aside(tokenizer, value[i], texts);
  } else if (value.is_object()) {
    std::vector<std::string> names;
    for (const auto& [name, member] : value.items()) names.push_back(name);
    for (const std::string& name : names) set_aside(tokenizer, value[name], texts);
  }
}

}  // namespace

std::string ChatPrompt::text(const Json& values) const {
  return chat_.render(values.dump(-1, Json::Invalid::kReplace));
}

std::vector<int32_t> ChatPrompt::tokens(const Json& values) const {
  Json own = values;
  std::vector<std::string> texts;
  for (const char* name : {"messages", "tools"})
    if (own.contains(name)) set_aside(tokenizer_, own[name], texts);
  const std::string prompt = text(own);
  if (texts.empty()) return tokenizer_.encode(prompt, false);
  std::vector<int32_t> result;
  const auto add = [&](const std::vector<int32_t>& more) {
    result.insert(result.end(), more.begin(), more.end());
  };
  std::string_view rest = prompt;
  while (!rest.empty()) {
    const size_t open = rest.find(kOpen);
    add(tokenizer_.encode(rest.substr(0, open), false));
    if (open == std::string_view::npos) break;
    rest.remove_prefix(open + kMark);
    // A template may cut a text short, and so a mark: what is left of it is no number then.
    size_t number = 0;
    const auto [end, error] = std::from_chars(rest.data(), rest.data() + rest.size(), number);
    rest.remove_prefix(static_cast<size_t>(end - rest.data()));
    if (error != std::errc() || number >= texts.size() || !rest.starts_with(kClose)) continue;
    rest.remove_prefix(kMark);
    add(plain(tokenizer_, texts[number]));
  }
  return result;
}

}  // namespace nfloat
