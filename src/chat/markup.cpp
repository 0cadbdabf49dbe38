// SPDX-License-Identifier: Apache-2.0
#include "chat/builtins.h"

namespace nfloat::chat {

Value soft_text(const Value& value, Budget& budget) {
  return value.kind == Value::kString ? value : Value::text(to_text(value, budget));
}

Value escaped(const Value& value, Budget& budget) {
  if (value.kind == Value::kString && value.markup) return value;
  std::string out;
  const std::string text = to_text(value, budget);
  for (const char c : text) {
    const size_t known = std::string_view("&<>'\"").find(c);
    static constexpr std::string_view kTo[] = {"&amp;", "&lt;", "&gt;", "&#39;", "&#34;"};
    if (known == std::string_view::npos)
      out += c;
    else
      out += kTo[known];
  }
  budget.bytes(out.size());
  return Value::markup_of(std::move(out));
}

Value markup_method(const Value& object, const std::string& name, Arguments arguments, Budget& budget) {
  const auto escape_texts = [&](Value& value) {
    if (value.kind == Value::kString) value = escaped(value, budget);
  };
  if (name == "join" && !arguments.positional.empty()) {
    Items items = iterate(arguments.positional[0], budget);
    for (Value& item : items) item = escaped(item, budget);
    arguments.positional[0] = Value::items(std::move(items), budget);
  } else if (name == "replace" || name == "format" || name == "ljust" || name == "rjust" ||
             name == "center" || name == "partition" || name == "rpartition") {
    for (Value& value : arguments.positional) escape_texts(value);
    for (auto& entry : arguments.named) escape_texts(entry.second);
  }
  Value result = string_method(object.str(), name, arguments, budget);
  if (result.kind == Value::kString) result.markup = true;
  if (!result.is_list()) return result;
  Items items = *result.list;
  for (Value& item : items)
    if (item.kind == Value::kString) item.markup = true;
  return Value::items(std::move(items), budget, result.kind);
}

}  // namespace nfloat::chat
