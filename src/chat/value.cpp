// SPDX-License-Identifier: Apache-2.0
#include "chat/value.h"

#include <algorithm>
#include <cmath>

#include "base/fail.h"
#include "base/json.h"

namespace nfloat::chat {

void Budget::refuse(const std::string& what) const {
  fail(ErrorCode::kInvalidArgument, "{}, line {}: {}", source_, line, what);
}

void Budget::over(const char* what, uint64_t most) const {
  refuse(fmt::format("the template takes more than {} {}", most, what));
}

Value Value::undefined(std::string name) {
  Value value;
  value.string = std::make_shared<const std::string>(std::move(name));
  return value;
}

Value Value::real(double number) {
  Value value = of(kFloat);
  value.number = number;
  return value;
}

Value Value::text(std::string text) {
  Value value = of(kString);
  value.string = std::make_shared<const std::string>(std::move(text));
  return value;
}

namespace {
int checked_depth(int depth, Budget& budget) {
  if (depth >= kMostDepth)
    budget.refuse(fmt::format("values are nested more than {} levels deep", kMostDepth));
  return depth + 1;
}
}  // namespace

Value Value::items(Items items, Budget& budget, Kind kind) {
  budget.steps(items.size());
  Value value = of(kind);
  int depth = 0;
  for (const Value& item : items) depth = std::max(depth, item.depth);
  value.depth = checked_depth(depth, budget);
  value.list = std::make_shared<const Items>(std::move(items));
  return value;
}

Value Value::entries(Entries entries, Budget& budget) {
  budget.steps(entries.size());
  Value value = of(kDict);
  int depth = 0;
  for (const auto& entry : entries) depth = std::max(depth, entry.second.depth);
  value.depth = checked_depth(depth, budget);
  value.dict = std::make_shared<const Entries>(std::move(entries));
  return value;
}

Value Value::function(std::string name, const Node* macro) {
  Value value = of(kFunction);
  value.string = std::make_shared<const std::string>(std::move(name));
  value.macro = macro;
  return value;
}

namespace {
Value convert(const Json& json, Budget& budget, int depth) {
  checked_depth(depth, budget);
  if (json.is_null()) return Value::none();
  if (json.is_boolean()) return Value::boolean(json.get<bool>());
  if (json.is_number_integer()) return Value::integer_of(json.get<int64_t>());
  if (json.is_number_float()) return Value::real(json.get<double>());
  if (json.is_string()) return Value::text(json.text());
  if (json.is_array()) {
    Items items;
    for (const auto& item : json) items.push_back(convert(item, budget, depth + 1));
    return Value::items(std::move(items), budget);
  }
  Entries entries;
  for (const auto& [key, item] : json.items()) entries.emplace_back(key, convert(item, budget, depth + 1));
  return Value::entries(std::move(entries), budget);
}
}  // namespace

Value Value::from_json(const Json& json, Budget& budget) {
  return convert(json, budget, 0);
}

bool Value::truth() const {
  switch (kind) {
    case kUndefined:
    case kNone:
      return false;
    case kBool:
    case kInt:
      return integer != 0;
    case kFloat:
      return number < 0 || number > 0 || std::isnan(number);
    case kString:
      return !string->empty();
    case kList:
    case kTuple:
      return !list->empty();
    case kDict:
      return !dict->empty();
    default:
      return true;
  }
}

const Value* find(const Entries& entries, std::string_view key, Budget& budget) {
  budget.steps(1 + entries.size() / 16);
  for (const auto& entry : entries)
    if (entry.first == key) return &entry.second;
  return nullptr;
}

const char* kind_name(const Value& value) {
  static constexpr const char* kNames[] = {"undefined", "None",  "bool", "int",       "float",   "str",
                                           "list",      "tuple", "dict", "namespace", "function"};
  return kNames[value.kind];
}

bool equal(const Value& a, const Value& b, Budget& budget) {
  budget.steps();
  if (a.is_number() && b.is_number()) {
    if (a.kind != Value::kFloat && b.kind != Value::kFloat) return a.integer == b.integer;
    return !(a.as_double() < b.as_double()) && !(a.as_double() > b.as_double());
  }
  if (a.kind != b.kind) return false;
  switch (a.kind) {
    case Value::kString:
      budget.steps(a.str().size() / 64);
      return a.str() == b.str();
    case Value::kList:
    case Value::kTuple:
      return std::equal(a.list->begin(), a.list->end(), b.list->begin(), b.list->end(),
                        [&](const Value& x, const Value& y) { return equal(x, y, budget); });
    case Value::kDict:
      if (a.dict->size() != b.dict->size()) return false;
      for (const auto& entry : *a.dict) {
        const Value* other = find(*b.dict, entry.first, budget);
        if (other == nullptr || !equal(entry.second, *other, budget)) return false;
      }
      return true;
    case Value::kNamespace:
      return a.names == b.names;
    case Value::kFunction:
      return a.str() == b.str() && a.macro == b.macro;
    default:
      return true;
  }
}

int compare(const Value& a, const Value& b, Budget& budget) {
  budget.steps();
  if (a.is_number() && b.is_number()) {
    if (a.kind != Value::kFloat && b.kind != Value::kFloat)
      return a.integer < b.integer ? -1 : a.integer > b.integer ? 1 : 0;
    return a.as_double() < b.as_double() ? -1 : a.as_double() > b.as_double() ? 1 : 0;
  }
  if (a.kind == Value::kString && b.kind == Value::kString) {
    budget.steps(a.str().size() / 64);
    return a.str().compare(b.str());
  }
  if (a.is_list() && b.is_list()) {
    for (size_t i = 0; i < a.list->size() && i < b.list->size(); ++i) {
      const int order = compare((*a.list)[i], (*b.list)[i], budget);
      if (order != 0) return order;
    }
    return a.list->size() < b.list->size() ? -1 : a.list->size() > b.list->size() ? 1 : 0;
  }
  budget.refuse(fmt::format("{} and {} have no order", kind_name(a), kind_name(b)));
}

bool contains(const Value& container, const Value& item, Budget& budget) {
  switch (container.kind) {
    case Value::kString:
      if (item.kind == Value::kUndefined) return false;
      if (item.kind != Value::kString)
        budget.refuse(fmt::format("'in <str>' needs a str, not {}", kind_name(item)));
      budget.steps(1 + container.str().size() / 64);
      return container.str().find(item.str()) != std::string::npos;
    case Value::kList:
    case Value::kTuple:
      return std::any_of(container.list->begin(), container.list->end(),
                         [&](const Value& other) { return equal(other, item, budget); });
    case Value::kDict:
      return item.kind == Value::kString && find(*container.dict, item.str(), budget) != nullptr;
    case Value::kNamespace:
      return item.kind == Value::kString && find(*container.names, item.str(), budget) != nullptr;
    case Value::kUndefined:
      return false;
    default:
      budget.refuse(fmt::format("{} holds no items: 'in' needs a str, list or dict", kind_name(container)));
  }
}

namespace {

std::string number_text(double number) {
  if (std::isnan(number)) return "nan";
  if (std::isinf(number)) return number < 0 ? "-inf" : "inf";
  std::string text = fmt::format("{}", number);
  if (text.find_first_of(".e") == std::string::npos) text += ".0";
  return text;
}

std::string quoted(const std::string& text) {
  const char quote = text.find('\'') != std::string::npos && text.find('"') == std::string::npos ? '"' : '\'';
  std::string out(1, quote);
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == quote || c == '\\')
      out += {'\\', c};
    else if (c == '\n')
      out += "\\n";
    else if (c == '\r')
      out += "\\r";
    else if (c == '\t')
      out += "\\t";
    else if (byte < 0x20 || byte == 0x7f)
      out += fmt::format("\\x{:02x}", byte);
    else
      out += c;
  }
  return out + quote;
}

std::string json_string(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\')
      out += {'\\', c};
    else if (c == '\n')
      out += "\\n";
    else if (c == '\r')
      out += "\\r";
    else if (c == '\t')
      out += "\\t";
    else if (c == '\b')
      out += "\\b";
    else if (c == '\f')
      out += "\\f";
    else if (byte < 0x20)
      out += fmt::format("\\u{:04x}", byte);
    else
      out += c;
  }
  return out + '"';
}

void put(std::string& out, std::string_view piece, Budget& budget) {
  budget.bytes(piece.size() + 1);
  out += piece;
}

void write_repr(const Value& value, std::string& out, Budget& budget) {
  budget.steps();
  if (value.is_list()) {
    const bool tuple = value.kind == Value::kTuple;
    put(out, tuple ? "(" : "[", budget);
    for (size_t i = 0; i < value.list->size(); ++i) {
      if (i > 0) put(out, ", ", budget);
      write_repr((*value.list)[i], out, budget);
    }
    put(out, !tuple ? "]" : value.list->size() == 1 ? ",)" : ")", budget);
  } else if (value.kind == Value::kDict) {
    put(out, "{", budget);
    bool first = true;
    for (const auto& entry : *value.dict) {
      if (!first) put(out, ", ", budget);
      first = false;
      put(out, quoted(entry.first) + ": ", budget);
      write_repr(entry.second, out, budget);
    }
    put(out, "}", budget);
  } else {
    put(out, value.kind == Value::kString ? quoted(value.str()) : to_text(value, budget), budget);
  }
}

void write_json(const Value& value, int indent, int level, std::string& out, Budget& budget) {
  budget.steps();
  const auto line = [&](int depth) {
    if (indent >= 0) put(out, fmt::format("\n{:{}}", "", indent * depth), budget);
  };
  const std::string separator = indent >= 0 ? "," : ", ";
  const bool list = value.is_list();
  if (list || value.kind == Value::kDict) {
    const size_t count = list ? value.list->size() : value.dict->size();
    put(out, list ? "[" : "{", budget);
    for (size_t i = 0; i < count; ++i) {
      if (i > 0) put(out, separator, budget);
      line(level + 1);
      if (!list) put(out, json_string((*value.dict)[i].first) + ": ", budget);
      write_json(list ? (*value.list)[i] : (*value.dict)[i].second, indent, level + 1, out, budget);
    }
    if (count > 0) line(level);
    put(out, list ? "]" : "}", budget);
  } else if (value.kind == Value::kString) {
    put(out, json_string(value.str()), budget);
  } else if (value.kind == Value::kNone) {
    put(out, "null", budget);
  } else if (value.kind == Value::kBool) {
    put(out, value.integer != 0 ? "true" : "false", budget);
  } else if (value.is_number()) {
    put(out, to_text(value, budget), budget);
  } else {
    budget.refuse(fmt::format("{} is not JSON serializable", kind_name(value)));
  }
}

}  // namespace

std::string to_text(const Value& value, Budget& budget) {
  switch (value.kind) {
    case Value::kUndefined:
      return "";
    case Value::kNone:
      return "None";
    case Value::kBool:
      return value.integer != 0 ? "True" : "False";
    case Value::kInt:
      return std::to_string(value.integer);
    case Value::kFloat:
      return number_text(value.number);
    case Value::kString:
      budget.bytes(value.str().size());
      return value.str();
    case Value::kNamespace:
      return "<Namespace>";
    case Value::kFunction:
      return fmt::format("<function {}>", value.str());
    default:
      return to_repr(value, budget);
  }
}

std::string to_repr(const Value& value, Budget& budget) {
  std::string out;
  write_repr(value, out, budget);
  return out;
}

std::string to_json(const Value& value, int indent, Budget& budget) {
  std::string out;
  write_json(value, std::min(indent, 64), 0, out, budget);
  return out;
}

std::vector<size_t> characters(std::string_view text) {
  std::vector<size_t> offsets;
  for (size_t i = 0; i < text.size(); ++i)
    if ((static_cast<unsigned char>(text[i]) & 0xc0U) != 0x80) offsets.push_back(i);
  offsets.push_back(text.size());
  return offsets;
}

std::string strip(const std::string& text, const std::string& set, bool left, bool right) {
  const std::string space = set.empty() ? std::string(" \t\n\v\f\r\x1c\x1d\x1e\x1f") : set;
  const size_t begin = left ? text.find_first_not_of(space) : 0;
  if (begin == std::string::npos) return "";
  const size_t end = right ? text.find_last_not_of(space) : text.size() - 1;
  if (text.empty() || end == std::string::npos) return "";
  return text.substr(begin, end - begin + 1);
}

Items iterate(const Value& value, Budget& budget) {
  Items items;
  switch (value.kind) {
    case Value::kUndefined:
      break;
    case Value::kList:
    case Value::kTuple:
      budget.steps(value.list->size());
      return *value.list;
    case Value::kDict:
      budget.steps(value.dict->size());
      for (const auto& entry : *value.dict) items.push_back(Value::text(entry.first));
      break;
    case Value::kString: {
      budget.steps(value.str().size());
      const std::vector<size_t> offsets = characters(value.str());
      for (size_t i = 0; i + 1 < offsets.size(); ++i)
        items.push_back(Value::text(value.str().substr(offsets[i], offsets[i + 1] - offsets[i])));
      break;
    }
    default:
      budget.refuse(fmt::format("{} cannot be looped over", kind_name(value)));
  }
  return items;
}

}  // namespace nfloat::chat
