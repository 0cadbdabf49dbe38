// SPDX-License-Identifier: Apache-2.0
#include "chat/value.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <utility>

#include "base/fail.h"

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

Value Value::markup_of(std::string value) {
  Value result = text(std::move(value));
  result.markup = true;
  return result;
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
  if (kind == kGenerator) value.spent = std::make_shared<bool>(false);
  return value;
}

Value Value::entries(Entries entries, Budget& budget) {
  Pairs pairs;
  for (auto& [name, value] : entries) pairs.emplace_back(text(name), std::move(value));
  return Value::pairs(std::move(pairs), budget);
}

Value Value::pairs(Pairs pairs, Budget& budget) {
  budget.steps(pairs.size());
  Value value = of(kDict);
  int depth = 0;
  for (const auto& entry : pairs) depth = std::max({depth, entry.first.depth, entry.second.depth});
  value.depth = checked_depth(depth, budget);
  value.dict = std::make_shared<const Pairs>(std::move(pairs));
  return value;
}

Value Value::function(std::string name, const Node* macro) {
  Value value = of(kFunction);
  value.string = std::make_shared<const std::string>(std::move(name));
  value.macro = macro;
  return value;
}

Value Value::whole(std::string_view digits) {
  int64_t small = 0;
  if (digits.starts_with('+')) digits.remove_prefix(1);
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), small);
  if (error == std::errc()) return integer_of(small);
  const bool negative = digits.starts_with('-');
  if (negative) digits.remove_prefix(1);
  const size_t first = digits.find_first_not_of('0');
  Value value = of(kInt, negative ? INT64_MIN : INT64_MAX);
  std::string all(digits.substr(first));
  if (negative) all.insert(all.begin(), '-');
  value.string = std::make_shared<const std::string>(std::move(all));
  return value;
}

double Value::as_double() const {
  if (kind == kFloat) return number;
  return is_big() ? std::strtod(string->c_str(), nullptr) : static_cast<double>(integer);
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
    case kView:
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

const Value* find(const Pairs& pairs, const Value& key, Budget& budget) {
  budget.steps(1 + pairs.size() / 16);
  for (const auto& entry : pairs) {
    const Value& other = entry.first;
    if (key.kind == Value::kString || other.kind == Value::kString
            ? key.kind == other.kind && key.str() == other.str()
            : equal(key, other, budget))
      return &entry.second;
  }
  return nullptr;
}

void put(Pairs& pairs, const Value& key, Value value, Budget& budget) {
  if (key.kind == Value::kList || key.kind == Value::kDict)
    budget.refuse(fmt::format("{} cannot be a key of a dict", kind_name(key)));
  if (const Value* found = find(pairs, key, budget))
    const_cast<Value&>(*found) = std::move(value);
  else
    pairs.emplace_back(key, std::move(value));
}

const char* kind_name(const Value& value) {
  static constexpr const char* kNames[] = {"undefined", "None",      "bool",     "int",  "float",
                                           "str",       "list",      "tuple",    "dict", "namespace",
                                           "function",  "dict view", "generator"};
  return kNames[value.kind];
}

bool equal(const Value& a, const Value& b, Budget& budget) {
  budget.steps();
  if (a.is_number() && b.is_number()) {
    if (a.kind != Value::kFloat && b.kind != Value::kFloat)
      return a.integer == b.integer && a.is_big() == b.is_big() && (!a.is_big() || a.str() == b.str());
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
    case Value::kView:
    case Value::kGenerator:
      return a.list == b.list;
    case Value::kFunction:
      return a.str() == b.str() && a.macro == b.macro;
    default:
      return true;
  }
}

namespace {
int order_of_whole(const Value& a, const Value& b) {
  if (a.integer != b.integer) return a.integer < b.integer ? -1 : 1;
  if (!a.is_big() || !b.is_big()) {
    const int sign = a.integer < 0 ? -1 : 1;
    return a.is_big() == b.is_big() ? 0 : a.is_big() ? sign : -sign;
  }
  const int longer = a.str().size() != b.str().size() ? (a.str().size() < b.str().size() ? -1 : 1)
                                                      : a.str().compare(b.str());
  return a.integer < 0 ? -longer : longer;
}
}  // namespace

int compare(const Value& a, const Value& b, Budget& budget) {
  budget.steps();
  if (a.is_number() && b.is_number()) {
    if (a.kind != Value::kFloat && b.kind != Value::kFloat) return order_of_whole(a, b);
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
    case Value::kGenerator: {
      const Items items = iterate(container, budget);
      return std::any_of(items.begin(), items.end(),
                         [&](const Value& other) { return equal(other, item, budget); });
    }
    case Value::kList:
    case Value::kTuple:
    case Value::kView:
      return std::any_of(container.list->begin(), container.list->end(),
                         [&](const Value& other) { return equal(other, item, budget); });
    case Value::kDict:
      return find(*container.dict, item, budget) != nullptr;
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

void append(std::string& out, std::string_view piece, Budget& budget) {
  budget.bytes(piece.size() + 1);
  out += piece;
}

void write_repr(const Value& value, std::string& out, Budget& budget) {
  budget.steps();
  if (value.kind == Value::kList && value.string != nullptr) return append(out, value.str(), budget);
  if (value.is_list() || value.kind == Value::kView) {
    const bool tuple = value.kind == Value::kTuple, view = value.kind == Value::kView;
    if (view) append(out, value.str() + "(", budget);
    append(out, tuple ? "(" : "[", budget);
    for (size_t i = 0; i < value.list->size(); ++i) {
      if (i > 0) append(out, ", ", budget);
      write_repr((*value.list)[i], out, budget);
    }
    append(out, view ? "])" : !tuple ? "]" : value.list->size() == 1 ? ",)" : ")", budget);
  } else if (value.kind == Value::kDict) {
    append(out, "{", budget);
    bool first = true;
    for (const auto& entry : *value.dict) {
      if (!first) append(out, ", ", budget);
      first = false;
      append(out, to_repr(entry.first, budget) + ": ", budget);
      write_repr(entry.second, out, budget);
    }
    append(out, "}", budget);
  } else {
    append(out,
           value.kind == Value::kUndefined ? "Undefined"
           : value.kind == Value::kString  ? quoted(value.str())
                                           : to_text(value, budget),
           budget);
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
      return value.is_big() ? value.str() : std::to_string(value.integer);
    case Value::kFloat:
      return number_text(value.number);
    case Value::kString:
      budget.bytes(value.str().size());
      return value.str();
    case Value::kNamespace:
      return fmt::format("<Namespace {}>", to_repr(Value::entries(*value.names, budget), budget));
    case Value::kFunction:
      if (value.macro != nullptr) return fmt::format("<Macro '{}'>", value.str());
      [[fallthrough]];
    case Value::kGenerator:
      budget.refuse(fmt::format("a {} has no text", kind_name(value)));
    default:
      return to_repr(value, budget);
  }
}

std::string to_repr(const Value& value, Budget& budget) {
  std::string out;
  write_repr(value, out, budget);
  return out;
}

std::vector<size_t> characters(std::string_view text) {
  std::vector<size_t> offsets;
  for (size_t i = 0; i < text.size(); ++i)
    if ((static_cast<unsigned char>(text[i]) & 0xc0U) != 0x80) offsets.push_back(i);
  offsets.push_back(text.size());
  return offsets;
}

char32_t character_at(std::string_view text, size_t at, size_t* bytes) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned lead = byte(at);
  const size_t more = lead >= 0xf0 ? 3 : lead >= 0xe0 ? 2 : lead >= 0xc0 ? 1 : 0;
  *bytes = 1;
  if (more == 0 || at + more >= text.size()) return lead;
  char32_t code = lead & (0x3fU >> more);
  for (size_t i = 1; i <= more; ++i) {
    if ((byte(at + i) & 0xc0U) != 0x80) return lead;
    code = code << 6U | (byte(at + i) & 0x3fU);
  }
  *bytes = more + 1;
  return code;
}

bool is_python_space(char32_t c) {
  return (c >= 0x09 && c <= 0x0d) || (c >= 0x1c && c <= 0x20) || c == 0x85 || c == 0xa0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f ||
         c == 0x3000;
}

std::string strip(const std::string& text, const std::string& set, bool left, bool right) {
  std::vector<char32_t> chosen;
  size_t bytes = 0;
  for (size_t i = 0; i < set.size(); i += bytes) chosen.push_back(character_at(set, i, &bytes));
  const auto goes = [&](size_t at) {
    const char32_t c = character_at(text, at, &bytes);
    return set.empty() ? is_python_space(c) : std::find(chosen.begin(), chosen.end(), c) != chosen.end();
  };
  size_t begin = 0, end = text.size();
  while (left && begin < end && goes(begin)) begin += bytes;
  while (right && end > begin) {
    size_t last = end - 1;
    while (last > begin && (static_cast<unsigned char>(text[last]) & 0xc0U) == 0x80) --last;
    if (!goes(last) || last + bytes != end) break;
    end = last;
  }
  return text.substr(begin, end - begin);
}

Items iterate(const Value& value, Budget& budget) {
  Items items;
  switch (value.kind) {
    case Value::kUndefined:
      break;
    case Value::kList:
    case Value::kTuple:
    case Value::kView:
      budget.steps(value.list->size());
      return *value.list;
    case Value::kGenerator:
      budget.steps(value.list->size());
      return std::exchange(*value.spent, true) ? items : *value.list;
    case Value::kDict:
      budget.steps(value.dict->size());
      for (const auto& entry : *value.dict) items.push_back(entry.first);
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
