// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <charconv>
#include <cmath>
#include <map>
#include <set>

#include "base/fail.h"
#include "chat/builtins.h"

namespace nfloat::chat {
Value path_of(const Value& item, const Value& path, Budget& budget) {
  if (path.kind != Value::kString) return item_of(item, path, budget);
  Value value = item;
  size_t at = 0;
  while (true) {
    const size_t dot = path.str().find('.', at);
    const std::string part = path.str().substr(at, dot - at);
    const bool number =
        !part.empty() && part.size() < 10 && part.find_first_not_of("0123456789") == std::string::npos;
    value = item_of(value, number ? Value::integer_of(std::stoll(part)) : Value::text(part), budget);
    if (dot == std::string::npos) return value;
    at = dot + 1;
  }
}

namespace {

Arguments without(const Arguments& arguments, size_t count) {
  Arguments rest;
  if (arguments.positional.size() > count)
    rest.positional.assign(arguments.positional.begin() + static_cast<std::ptrdiff_t>(count),
                           arguments.positional.end());
  return rest;
}

Value chosen(const std::string& name, const Value& value, const Arguments& arguments, Budget& budget) {
  const bool by_attribute = name.ends_with("attr"), keep = name.starts_with("select");
  const size_t skip = by_attribute ? 1 : 0;
  const Value* attribute = by_attribute ? arguments.get(0, "attribute") : nullptr;
  if (by_attribute && attribute == nullptr) budget.refuse(name + " needs the name of an attribute");
  const Value* test = arguments.get(skip, "test");
  if (test != nullptr && test->kind != Value::kString) budget.refuse(name + " needs the name of a test");
  const Arguments rest = without(arguments, skip + 1);
  Items kept;
  // As Jinja: what is false, None too, has nothing to choose from.
  if (!value.truth()) return Value::items({}, budget, Value::kGenerator);
  for (const Value& item : iterate(value, budget)) {
    const Value looked_at = attribute != nullptr ? path_of(item, *attribute, budget) : item;
    const bool passes =
        test != nullptr ? apply_test(test->str(), looked_at, rest, budget) : looked_at.truth();
    if (passes == keep) kept.push_back(item);
  }
  return Value::items(std::move(kept), budget, Value::kGenerator);
}

Value map_items(const Value& value, const Arguments& arguments, Budget& budget) {
  Items out;
  const Value* attribute = arguments.get(SIZE_MAX, "attribute");
  const Value* otherwise = arguments.get(SIZE_MAX, "default");
  const Value* filter = arguments.get(0, "filter");
  if (attribute == nullptr && (filter == nullptr || filter->kind != Value::kString))
    budget.refuse("map needs a filter or attribute=");
  if (!value.truth()) return Value::items({}, budget, Value::kGenerator);
  Arguments rest = without(arguments, 1);
  if (attribute == nullptr) rest.named = arguments.named;
  for (const Value& item : iterate(value, budget)) {
    Value one = attribute != nullptr ? path_of(item, *attribute, budget)
                                     : apply_filter(filter->str(), item, rest, budget);
    if (one.kind == Value::kUndefined && otherwise != nullptr) one = *otherwise;
    out.push_back(std::move(one));
  }
  return Value::items(std::move(out), budget, Value::kGenerator);
}

}  // namespace

// As Python's sort without regard to case.
Value key_of(const Value& item, const Value* attribute, bool sensitive, Budget& budget) {
  Value key = attribute != nullptr ? path_of(item, *attribute, budget) : item;
  if (key.kind == Value::kString && !sensitive) return call_method(key, "lower", {}, budget);
  return key;
}

namespace {

Value sorted(const Value& value, const Arguments& arguments, Budget& budget) {
  std::vector<std::pair<Value, Value>> keyed;
  for (const Value& item : iterate(value, budget))
    keyed.emplace_back(
        key_of(item, arguments.get(2, "attribute"), arguments.flag(1, "case_sensitive"), budget), item);
  const bool reverse = arguments.flag(0, "reverse");
  std::stable_sort(keyed.begin(), keyed.end(), [&](const auto& a, const auto& b) {
    return compare(reverse ? b.first : a.first, reverse ? a.first : b.first, budget) < 0;
  });
  Items out;
  for (auto& one : keyed) out.push_back(std::move(one.second));
  return Value::items(std::move(out), budget);
}

Value sorted_entries(const Value& value, const Arguments& arguments, Budget& budget) {
  if (value.kind != Value::kDict) budget.refuse("dictsort needs a dict");
  Items pairs = iterate(call_method(value, "items", {}, budget), budget);
  const bool by_value =
      arguments.get(1, "by") != nullptr && equal(*arguments.get(1, "by"), Value::text("value"), budget);
  Arguments how;
  how.named = {{"attribute", Value::integer_of(by_value ? 1 : 0)},
               {"case_sensitive", Value::boolean(arguments.flag(0, "case_sensitive"))},
               {"reverse", Value::boolean(arguments.flag(2, "reverse"))}};
  return sorted(Value::items(std::move(pairs), budget), how, budget);
}

Value unique(const Value& value, const Arguments& arguments, Budget& budget) {
  Items keys, out;
  for (const Value& item : iterate(value, budget)) {
    Value key = key_of(item, arguments.get(1, "attribute"), arguments.flag(0, "case_sensitive"), budget);
    if (std::any_of(keys.begin(), keys.end(), [&](const Value& k) { return equal(k, key, budget); }))
      continue;
    keys.push_back(std::move(key));
    out.push_back(item);
  }
  return Value::items(std::move(out), budget, Value::kGenerator);
}

// Text backwards; of anything else what goes through it from its end, once.
Value reversed(const Value& value, Budget& budget) {
  if (value.kind == Value::kString)
    return slice(value, Value::none(), Value::none(), Value::integer_of(-1), budget);
  if (value.kind == Value::kUndefined) budget.refuse(fmt::format("'{}' is undefined", value.str()));
  Items items = iterate(value, budget);
  std::reverse(items.begin(), items.end());
  return Value::items(std::move(items), budget,
                      value.kind == Value::kGenerator ? Value::kList : Value::kGenerator);
}

// Words begin behind white space, '-' and what opens a bracket.
std::string titled(const std::string& text, Budget& budget) {
  std::string out;
  size_t bytes = 0;
  for (size_t at = 0, begin = 0; at <= text.size(); at += bytes) {
    const bool ends = at == text.size();
    const char32_t c = ends ? U' ' : character_at(text, at, &bytes);
    if (!ends && !is_python_space(c) && std::u32string_view(U"-({[<").find(c) == std::u32string_view::npos)
      continue;
    out += call_method(Value::text(text.substr(begin, at - begin)), "capitalize", {}, budget).str();
    if (ends) break;
    out += text.substr(at, bytes);
    begin = at + bytes;
  }
  return out;
}

Value joined(const Value& value, const Arguments& arguments, Budget& budget) {
  const Value* by = arguments.get(0, "d");
  const std::string separator = by != nullptr ? to_text(*by, budget) : "";
  const Value* attribute = arguments.get(1, "attribute");
  std::string out;
  bool begun = false;
  for (const Value& item : iterate(value, budget)) {
    budget.bytes(separator.size());
    if (begun) out += separator;
    begun = true;
    out += to_text(attribute != nullptr ? path_of(item, *attribute, budget) : item, budget);
  }
  return Value::text(std::move(out));
}

Value indented(const Value& value, const Arguments& arguments, Budget& budget) {
  const Value* width = arguments.get(0, "width");
  std::string margin(4, ' ');
  if (width != nullptr)
    margin = width->kind == Value::kString
                 ? width->str()
                 : std::string(static_cast<size_t>(std::clamp<int64_t>(width->integer, 0, 1024)), ' ');
  const bool first = arguments.flag(1, "first"), blank = arguments.flag(2, "blank");
  // The line break that is added keeps a last line that is empty, as Jinja does.
  const Value lines =
      call_method(Value::text(to_text(value, budget) + "\n"), "splitlines", Arguments{}, budget);
  std::string out;
  bool begun = false;
  for (const Value& line : *lines.list) {
    budget.bytes(margin.size() + line.str().size() + 1);
    if (begun) out += '\n';
    if (!begun ? first : (blank || !line.str().empty())) out += margin;
    out += line.str();
    begun = true;
  }
  return value.markup ? Value::markup_of(std::move(out)) : Value::text(std::move(out));
}

Value whole(const Value& value, const Arguments& arguments, Budget& budget) {
  const Value* other = arguments.get(0, "default");
  const Value* base = arguments.get(1, "base");
  const bool decimal = base == nullptr || equal(*base, Value::integer_of(10), budget);
  if (value.is_big()) return value;
  if (value.kind == Value::kFloat && std::fabs(value.number) < 9e18)
    return Value::integer_of(static_cast<int64_t>(value.number));
  if (value.is_number()) return Value::integer_of(value.integer);
  if (value.kind == Value::kString) {
    const std::string text = strip(value.str(), "", true, true);
    const size_t sign = !text.empty() && (text[0] == '-' || text[0] == '+') ? 1 : 0;
    if (!decimal) {
      int64_t number = 0;
      size_t first = sign;
      if (base->kind != Value::kInt || base->integer < 2 || base->integer > 36)
        budget.refuse("int takes a base from 2 to 36");
      if (base->integer == 16 && (text.compare(first, 2, "0x") == 0 || text.compare(first, 2, "0X") == 0))
        first += 2;
      const auto [end, error] = std::from_chars(text.data() + first, text.data() + text.size(), number,
                                                static_cast<int>(base->integer));
      if (error == std::errc() && end == text.data() + text.size())
        return Value::integer_of(text[0] == '-' ? -number : number);
      return other != nullptr ? *other : Value::integer_of(0);
    }
    if (text.size() > sign && text.size() <= 4300 &&
        text.find_first_not_of("0123456789", sign) == std::string::npos)
      return Value::whole(text);
    double real = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), real);
    if (error == std::errc() && end == text.data() + text.size() && std::fabs(real) < 9e18)
      return Value::integer_of(static_cast<int64_t>(real));
  }
  return other != nullptr ? *other : Value::integer_of(0);
}

Value real(const Value& value, const Arguments& arguments) {
  const Value* other = arguments.get(0, "default");
  if (value.is_number()) return Value::real(value.as_double());
  if (value.kind == Value::kString) {
    const std::string text = strip(value.str(), "", true, true);
    double number = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    if (error == std::errc() && end == text.data() + text.size()) return Value::real(number);
  }
  return other != nullptr ? *other : Value::real(0);
}

JsonStyle json_style(const Arguments& arguments, Budget& budget) {
  JsonStyle style;
  const Value* indent = arguments.get(1, "indent");
  if (indent != nullptr && indent->kind != Value::kNone) {
    style.lines = true;
    style.item_separator.resize(1);  // the comma alone
    if (indent->kind == Value::kString)
      style.indent = indent->str();
    else if (indent->kind == Value::kInt)
      style.indent.assign(static_cast<size_t>(std::clamp<int64_t>(indent->integer, 0, 64)), ' ');
    else
      budget.refuse("tojson: indent is a number or a str");
  }
  const Value* separators = arguments.get(2, "separators");
  if (separators != nullptr && separators->kind != Value::kNone) {
    if (!separators->is_list() || separators->list->size() != 2 ||
        (*separators->list)[0].kind != Value::kString || (*separators->list)[1].kind != Value::kString)
      budget.refuse("tojson: separators are two texts");
    style.item_separator = (*separators->list)[0].str();
    style.key_separator = (*separators->list)[1].str();
  }
  style.ascii = arguments.flag(0, "ensure_ascii");
  style.sorted = arguments.flag(3, "sort_keys");
  return style;
}

// What each filter takes, in order.
void check_filter(const std::string& name, const Arguments& arguments, Budget& budget) {
  using Names = std::vector<std::string_view>;
  static const std::map<std::string_view, Names> kTakes = {
      {"default", {"default_value", "boolean"}},
      {"d", {"default_value", "boolean"}},
      {"tojson", {"ensure_ascii", "indent", "separators", "sort_keys"}},
      {"trim", {"chars"}},
      {"replace", {"s", "new", "count"}},
      {"join", {"d", "attribute"}},
      {"sort", {"reverse", "case_sensitive", "attribute"}},
      {"dictsort", {"case_sensitive", "by", "reverse"}},
      {"unique", {"case_sensitive", "attribute"}},
      {"indent", {"width", "first", "blank"}},
      {"int", {"default", "base"}},
      {"float", {"default"}},
      {"sum", {"attribute", "start"}},
      {"min", {"case_sensitive", "attribute"}},
      {"max", {"case_sensitive", "attribute"}},
      {"round", {"precision", "method"}},
      {"groupby", {"attribute", "default", "case_sensitive"}},
      {"batch", {"linecount", "fill_with"}},
      {"slice", {"slices", "fill_with"}},
      {"attr", {"name"}},
      {"center", {"width"}},
  };
  static const std::set<std::string_view> kAny = {"select",     "reject", "selectattr",
                                                  "rejectattr", "map",    "format"};
  if (kAny.contains(name)) return;
  static const std::set<std::string_view> kNone = {
      "length", "count", "string", "safe",    "upper", "lower", "title",  "capitalize",  "first",
      "last",   "list",  "items",  "reverse", "abs",   "e",     "escape", "forceescape", "wordcount"};
  const auto found = kTakes.find(name);
  if (found == kTakes.end() && !kNone.contains(name))
    budget.refuse(fmt::format("there is no filter '{}'", name));
  arguments.check(name, found == kTakes.end() ? Names{} : found->second, budget);
}

}  // namespace

Value apply_filter(const std::string& name, const Value& value, const Arguments& arguments, Budget& budget) {
  budget.steps();
  check_filter(name, arguments, budget);
  if (name == "default" || name == "d") {
    const Value* other = arguments.get(0, "default_value");
    const bool missing = value.kind == Value::kUndefined || (arguments.flag(1, "boolean") && !value.truth());
    return !missing ? value : other != nullptr ? *other : Value::text("");
  }
  if (name == "tojson") return Value::text(to_json(value, json_style(arguments, budget), budget));
  if (name == "trim") {
    const Value* set = arguments.get(0, "chars");
    Value text = soft_text(value, budget);
    Value result = Value::text(strip(text.str(), set != nullptr ? to_text(*set, budget) : "", true, true));
    result.markup = text.markup;
    return result;
  }
  if (name == "length" || name == "count") {
    if (value.kind == Value::kString) {
      budget.steps(value.str().size() / 16);
      return Value::integer_of(static_cast<int64_t>(characters(value.str()).size()) - 1);
    }
    if (value.kind == Value::kGenerator) budget.refuse("a generator has no length: put '| list' before it");
    return Value::integer_of(static_cast<int64_t>(iterate(value, budget).size()));
  }
  if (name == "string") return soft_text(value, budget);
  if (name == "safe") return Value::markup_of(to_text(value, budget));
  if (name == "replace") {
    Arguments texts = arguments;
    const Value* from = arguments.get(0, "s");
    const Value* to = arguments.get(1, "new");
    if (from == nullptr || to == nullptr) budget.refuse("replace needs two texts");
    texts.named.clear();
    texts.positional = {Value::text(to_text(*from, budget)), Value::text(to_text(*to, budget))};
    if (const Value* count = arguments.get(2, "count")) texts.positional.push_back(*count);
    return call_method(Value::text(to_text(value, budget)), name, texts, budget);
  }
  if (name == "title") return Value::text(titled(to_text(value, budget), budget));
  if (name == "upper" || name == "lower" || name == "capitalize")
    return call_method(soft_text(value, budget), name, arguments, budget);
  if (name == "join") return joined(value, arguments, budget);
  if (name == "first" || name == "last") {
    if (name == "last" && value.kind == Value::kGenerator) budget.refuse("a generator has no last item");
    const Items items = iterate(value, budget);
    if (items.empty()) return Value::undefined(name);
    return name == "first" ? items.front() : items.back();
  }
  if (name == "list") return Value::items(iterate(value, budget), budget);
  if (name == "items") {
    if (value.kind == Value::kUndefined) return Value::items({}, budget, Value::kGenerator);
    if (value.kind != Value::kDict) budget.refuse("items needs a dict");
    return Value::items(iterate(call_method(value, name, arguments, budget), budget), budget,
                        Value::kGenerator);
  }
  if (name == "select" || name == "reject" || name == "selectattr" || name == "rejectattr")
    return chosen(name, value, arguments, budget);
  if (const std::optional<Value> grouped = group_filter(name, value, arguments, budget)) return *grouped;
  if (name == "map") return map_items(value, arguments, budget);
  if (name == "sort") return sorted(value, arguments, budget);
  if (name == "dictsort") return sorted_entries(value, arguments, budget);
  if (name == "unique") return unique(value, arguments, budget);
  if (name == "reverse") return reversed(value, budget);
  if (name == "indent") return indented(value, arguments, budget);
  if (name == "int") return whole(value, arguments, budget);
  if (name == "float") return real(value, arguments);
  if (name == "abs") {
    if (!value.is_number()) budget.refuse("abs needs a number");
    if (value.kind == Value::kFloat) return Value::real(std::fabs(value.number));
    if (value.kind == Value::kBool) return Value::integer_of(value.integer);
    return value.integer < 0 ? binary("-", Value::integer_of(0), value, budget) : value;
  }
  budget.refuse(fmt::format("there is no filter '{}'", name));
}

bool apply_test(const std::string& name, const Value& value, const Arguments& arguments, Budget& budget) {
  budget.steps();
  const auto argument = [&]() -> const Value& {
    if (arguments.positional.empty()) budget.refuse(fmt::format("the test '{}' needs an argument", name));
    return arguments.positional[0];
  };
  static const std::set<std::string_view> kOne = {"eq", "equalto", "sameas",      "ne", "lt", "lessthan",
                                                  "le", "gt",      "greaterthan", "ge", "in", "divisibleby",
                                                  "==", "!=",      "<",           "<=", ">",  ">="};
  if (!arguments.named.empty() || arguments.positional.size() > (kOne.contains(name) ? 1U : 0U))
    budget.refuse(fmt::format("the test '{}' takes no such arguments", name));
  if (name == "defined") return value.kind != Value::kUndefined;
  if (name == "undefined") return value.kind == Value::kUndefined;
  if (name == "none") return value.kind == Value::kNone;
  if (name == "string") return value.kind == Value::kString;
  if (name == "mapping") return value.kind == Value::kDict;
  if (name == "number") return value.is_number();
  if (name == "integer") return value.kind == Value::kInt;
  if (name == "float") return value.kind == Value::kFloat;
  if (name == "boolean") return value.kind == Value::kBool;
  if (name == "true") return value.kind == Value::kBool && value.integer != 0;
  if (name == "false") return value.kind == Value::kBool && value.integer == 0;
  if (name == "callable") return value.kind == Value::kFunction;
  if (name == "iterable" && (value.kind == Value::kView || value.kind == Value::kGenerator)) return true;
  if (name == "iterable" || name == "sequence")
    return value.is_list() || value.kind == Value::kString || value.kind == Value::kDict ||
           value.kind == Value::kUndefined;
  if (name == "eq" || name == "equalto" || name == "==") return equal(value, argument(), budget);
  if (name == "sameas") return value.kind == argument().kind && equal(value, argument(), budget);
  if (name == "ne" || name == "!=") return !equal(value, argument(), budget);
  if (name == "lt" || name == "<" || name == "lessthan") return compare(value, argument(), budget) < 0;
  if (name == "le" || name == "<=") return compare(value, argument(), budget) <= 0;
  if (name == "gt" || name == ">" || name == "greaterthan") return compare(value, argument(), budget) > 0;
  if (name == "ge" || name == ">=") return compare(value, argument(), budget) >= 0;
  if (name == "in") return contains(argument(), value, budget);
  if (name == "filter" || name == "test") budget.refuse(fmt::format("the test '{}' is not supported", name));
  if (name == "escaped") return value.markup;
  const auto remainder = [&](int64_t by) {
    return binary("%", value, Value::integer_of(by), budget).integer;
  };
  if (name == "odd") return remainder(2) == 1;
  if (name == "even") return remainder(2) == 0;
  if (name == "divisibleby") return !binary("%", value, argument(), budget).truth();
  if (name == "lower" || name == "upper")
    return call_method(Value::text(to_text(value, budget)), std::string("is").append(name), {}, budget)
        .truth();
  budget.refuse(fmt::format("there is no test '{}'", name));
}

}  // namespace nfloat::chat
