// SPDX-License-Identifier: Apache-2.0
#include "chat/builtins.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <ctime>

#include "base/fail.h"

namespace nfloat::chat {
void Arguments::check(const std::string& of, const std::vector<std::string_view>& names,
                      Budget& budget) const {
  if (positional.size() > names.size())
    budget.refuse(fmt::format("{} takes at most {} arguments, not {}", of, names.size(), positional.size()));
  for (const auto& entry : named) {
    const auto place = std::find(names.begin(), names.end(), entry.first);
    if (place == names.end()) budget.refuse(fmt::format("{} has no argument '{}'", of, entry.first));
    if (static_cast<size_t>(place - names.begin()) < positional.size())
      budget.refuse(fmt::format("{} has two values for '{}'", of, entry.first));
  }
}

bool Arguments::flag(size_t place, std::string_view name) const {
  const Value* value = get(place, name);
  return value != nullptr && value->truth();
}

const Value* Arguments::get(size_t place, std::string_view name) const {
  if (place < positional.size()) return &positional[place];
  for (const auto& entry : named)
    if (entry.first == name) return &entry.second;
  return nullptr;
}

Value call_method(const Value& object, const std::string& name, const Arguments& arguments, Budget& budget) {
  if (object.kind == Value::kString && object.markup) return markup_method(object, name, arguments, budget);
  if (object.kind == Value::kString) return string_method(object.str(), name, arguments, budget);
  if (object.is_list()) return list_method(object, name, arguments, budget);
  if (name == "copy") return object;
  if (name == "get") {
    arguments.check("get", {"key", "default"}, budget);
    const Value* key = arguments.get(0, "key");
    if (key == nullptr) budget.refuse("get needs a key");
    const Value* found = find(*object.dict, *key, budget);
    if (found != nullptr) return *found;
    const Value* other = arguments.get(1, "default");
    return other != nullptr ? *other : Value::none();
  }
  arguments.check(name, {}, budget);
  Items items;
  for (const auto& entry : *object.dict) {
    if (name == "values")
      items.push_back(entry.second);
    else if (name == "keys")
      items.push_back(entry.first);
    else
      items.push_back(Value::items({entry.first, entry.second}, budget, Value::kTuple));
  }
  Value view = Value::items(std::move(items), budget, Value::kView);
  view.string = std::make_shared<const std::string>("dict_" + name);
  return view;
}

Value loop_value(const Items& items, int64_t at, int64_t depth, const Value& changed, Budget& budget) {
  const auto count = static_cast<int64_t>(items.size());
  Entries about{{"index", Value::integer_of(at + 1)},
                {"index0", Value::integer_of(at)},
                {"first", Value::boolean(at == 0)},
                {"last", Value::boolean(at + 1 == count)},
                {"length", Value::integer_of(count)},
                {"revindex", Value::integer_of(count - at)},
                {"revindex0", Value::integer_of(count - at - 1)},
                {"depth", Value::integer_of(depth + 1)},
                {"depth0", Value::integer_of(depth)}};
  Value cycle = Value::function("cycle");
  cycle.integer = at;
  about.emplace_back("cycle", std::move(cycle));
  about.emplace_back("changed", changed);
  if (at > 0) about.emplace_back("previtem", items[static_cast<size_t>(at - 1)]);
  if (at + 1 < count) about.emplace_back("nextitem", items[static_cast<size_t>(at + 1)]);
  return Value::entries(std::move(about), budget);
}

namespace {
Value dict_of(const Arguments& arguments, Budget& budget) {
  Pairs pairs;
  for (const Value& from : arguments.positional) {
    if (from.kind == Value::kDict) {
      pairs = *from.dict;
      continue;
    }
    for (const Value& pair : iterate(from, budget)) {
      const Items two = iterate(pair, budget);
      if (two.size() != 2) budget.refuse("dict needs pairs of key and value");
      put(pairs, two[0], two[1], budget);
    }
  }
  for (const auto& [name, value] : arguments.named) put(pairs, Value::text(name), value, budget);
  return Value::pairs(std::move(pairs), budget);
}
}  // namespace

Value call_function(const Value& function, const Arguments& arguments, Budget& budget) {
  const std::string& name = function.str();
  if (name == "raise_exception" && arguments.positional.size() == 1)
    budget.refuse("the template says: " +
                  (arguments.positional.empty() ? std::string() : to_text(arguments.positional[0], budget)));
  if (name == "dict") return dict_of(arguments, budget);
  if (name == "cycle") {
    if (arguments.positional.empty()) budget.refuse("cycle needs values");
    return arguments.positional[static_cast<size_t>(function.integer) % arguments.positional.size()];
  }
  if (name == "range") {
    if (!arguments.named.empty()) budget.refuse("range takes no keywords");
    int64_t part[3] = {0, 0, 1};
    const size_t count = arguments.positional.size();
    if (count < 1 || count > 3) budget.refuse("range takes 1 to 3 numbers");
    for (size_t i = 0; i < count; ++i) {
      if (arguments.positional[i].kind != Value::kInt) budget.refuse("range takes whole numbers");
      part[count == 1 ? 1 : i] = arguments.positional[i].integer;
    }
    if (part[2] == 0) budget.refuse("the step of range is 0");
    Items items;
    for (int64_t i = part[0]; part[2] > 0 ? i < part[1] : i > part[1];) {
      budget.steps();
      items.push_back(Value::integer_of(i));
      if (__builtin_add_overflow(i, part[2], &i)) break;
    }
    Value all = Value::items(std::move(items), budget);
    all.string = std::make_shared<const std::string>(
        part[2] == 1 ? fmt::format("range({}, {})", part[0], part[1])
                     : fmt::format("range({}, {}, {})", part[0], part[1], part[2]));
    return all;
  }
  if (name != "strftime_now") budget.refuse(fmt::format("'{}' cannot be called this way", name));
  arguments.check(name, {"format"}, budget);
  const Value* given = arguments.get(0, "format");
  if (given == nullptr || given->kind != Value::kString) budget.refuse("strftime_now needs a str");
  const std::string& format = given->str();
  if (format.size() > 256) budget.refuse("the format of strftime_now is longer than 256 bytes");
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  ::localtime_r(&now, &parts);
  std::array<char, 4096> text{};
  const size_t length = std::strftime(text.data(), text.size(), format.c_str(), &parts);
  return Value::text(std::string(text.data(), length));
}

Value binary(const std::string& sign, const Value& a, const Value& b, Budget& budget) {
  if (sign == "~") {
    std::string text = to_text(a, budget) + to_text(b, budget);
    budget.bytes(text.size());
    return Value::text(std::move(text));
  }
  if (sign == "+" && a.kind == Value::kString && b.kind == Value::kString) {
    budget.bytes(a.str().size() + b.str().size());
    if (a.markup || b.markup) return Value::markup_of(escaped(a, budget).str() + escaped(b, budget).str());
    return Value::text(a.str() + b.str());
  }
  if (sign == "+" && a.is_list() && a.kind == b.kind) {
    Items items = iterate(a, budget);
    const Items more = iterate(b, budget);
    items.insert(items.end(), more.begin(), more.end());
    return Value::items(std::move(items), budget, a.kind);
  }
  if (sign == "%" && a.kind == Value::kString) {
    Items values = b.kind == Value::kTuple ? *b.list : Items{b};
    if (!a.markup) return Value::text(percent(a.str(), values, budget));
    for (Value& value : values)
      if (!value.is_number()) value = escaped(value, budget);
    return Value::markup_of(percent(a.str(), values, budget));
  }
  if (sign == "*" && a.kind == Value::kInt && (b.kind == Value::kString || b.is_list()))
    return binary(sign, b, a, budget);
  if (sign == "*" && a.is_list() && b.kind == Value::kInt) {
    Items items;
    for (int64_t i = 0; i < b.integer && !a.list->empty(); ++i) {
      budget.steps(a.list->size());
      items.insert(items.end(), a.list->begin(), a.list->end());
    }
    return Value::items(std::move(items), budget, a.kind);
  }
  if (sign == "*" && a.kind == Value::kString && b.kind == Value::kInt) {
    std::string text;
    for (int64_t i = 0; i < b.integer; ++i) {
      budget.bytes(a.str().size() + 1);
      budget.steps();
      text += a.str();
    }
    return a.markup ? Value::markup_of(std::move(text)) : Value::text(std::move(text));
  }
  if (a.kind == Value::kUndefined || b.kind == Value::kUndefined)
    budget.refuse(fmt::format("'{}' is undefined", a.kind == Value::kUndefined ? a.str() : b.str()));
  if (!a.is_number() || !b.is_number())
    budget.refuse(fmt::format("'{}' does not go between {} and {}", sign, kind_name(a), kind_name(b)));
  const bool real =
      a.kind == Value::kFloat || b.kind == Value::kFloat || sign == "/" || (sign == "**" && b.integer < 0);
  if (real) {
    const double x = a.as_double(), y = b.as_double();
    if ((sign == "/" || sign == "//" || sign == "%") && !(y < 0) && !(y > 0))
      budget.refuse("division by zero");
    if (sign == "+") return Value::real(x + y);
    if (sign == "-") return Value::real(x - y);
    if (sign == "*") return Value::real(x * y);
    if (sign == "/") return Value::real(x / y);
    if (sign == "//") return Value::real(std::floor(x / y));
    if (sign == "%") return Value::real(x - y * std::floor(x / y));
    return Value::real(std::pow(x, y));
  }
  return whole_binary(sign, a, b, budget);
}

Value attribute_of(const Value& object, const std::string& name, Budget& budget) {
  const Value* found = nullptr;
  if (is_method(object, name)) return Value::function(name + "()");
  if (object.kind == Value::kDict) found = find(*object.dict, Value::text(name), budget);
  if (object.kind == Value::kNamespace) found = find(*object.names, name, budget);
  if (object.kind == Value::kUndefined) budget.refuse(fmt::format("'{}' is undefined", object.str()));
  if (object.kind == Value::kTuple && object.string != nullptr && (name == "grouper" || name == "list"))
    return (*object.list)[name == "list" ? 1 : 0];
  if (object.kind == Value::kFunction && object.macro != nullptr)
    budget.refuse(fmt::format("attributes of macros ('{}') are not known here", name));
  return found != nullptr ? *found : Value::undefined(name);
}

Value item_of(const Value& object, const Value& index, Budget& budget) {
  if (object.kind == Value::kDict)
    if (const Value* found = find(*object.dict, index, budget)) return *found;
  if (index.kind == Value::kString) return attribute_of(object, index.str(), budget);
  if (object.kind == Value::kUndefined) budget.refuse(fmt::format("'{}' is undefined", object.str()));
  if (index.kind != Value::kInt && index.kind != Value::kBool) return Value::undefined("item");
  const auto at = [&](size_t count) {
    const int64_t place = index.integer < 0 ? index.integer + static_cast<int64_t>(count) : index.integer;
    return place < 0 || place >= static_cast<int64_t>(count) ? count : static_cast<size_t>(place);
  };
  if (object.is_list()) {
    const size_t place = at(object.list->size());
    if (place < object.list->size()) return (*object.list)[place];
  } else if (object.kind == Value::kString) {
    budget.steps(1 + object.str().size() / 16);
    const std::vector<size_t> offsets = characters(object.str());
    const size_t place = at(offsets.size() - 1);
    if (place + 1 < offsets.size()) {
      Value one = Value::text(object.str().substr(offsets[place], offsets[place + 1] - offsets[place]));
      one.markup = object.markup;
      return one;
    }
  }
  return Value::undefined(fmt::format("item {}", index.integer));
}

Value slice(const Value& object, const Value& from, const Value& to, const Value& step, Budget& budget) {
  if (object.kind != Value::kString && !object.is_list())
    budget.refuse(fmt::format("{} has no slices", kind_name(object)));
  const Items items = iterate(object, budget);
  const auto count = static_cast<int64_t>(items.size());
  const int64_t stride = step.kind == Value::kInt ? std::clamp(step.integer, -count - 1, count + 1) : 1;
  if (stride == 0) budget.refuse("the step of a slice is 0");
  const auto bound = [&](const Value& value, int64_t otherwise) {
    if (value.kind != Value::kInt) return otherwise;
    const int64_t place = value.integer < 0 ? std::max(value.integer, -count - 1) + count : value.integer;
    return stride > 0 ? std::clamp<int64_t>(place, 0, count) : std::clamp<int64_t>(place, -1, count - 1);
  };
  const int64_t end = bound(to, stride > 0 ? count : -1);
  Items kept;
  for (int64_t i = bound(from, stride > 0 ? 0 : count - 1); stride > 0 ? i < end : i > end; i += stride)
    kept.push_back(items[static_cast<size_t>(i)]);
  if (object.is_list()) return Value::items(std::move(kept), budget, object.kind);
  std::string text;
  for (const Value& one : kept) text += one.str();
  budget.bytes(text.size());
  return object.markup ? Value::markup_of(std::move(text)) : Value::text(std::move(text));
}

}  // namespace nfloat::chat
