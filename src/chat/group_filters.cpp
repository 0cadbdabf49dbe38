// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>

#include "base/fail.h"
#include "chat/builtins.h"

namespace nfloat::chat {
namespace {

int64_t count_of(const Arguments& arguments, size_t place, const char* name, Budget& budget) {
  const Value* value = arguments.get(place, name);
  if (value == nullptr || value->kind != Value::kInt || value->integer < 1 || value->integer > 1'000'000)
    budget.refuse(fmt::format("{} is a number from 1 to 1000000", name));
  return value->integer;
}

Value summed(const Value& value, const Arguments& arguments, Budget& budget) {
  const Value* attribute = arguments.get(0, "attribute");
  const Value* start = arguments.get(1, "start");
  Value total = start != nullptr ? *start : Value::integer_of(0);
  const bool by = attribute != nullptr && attribute->kind != Value::kNone;
  for (const Value& item : iterate(value, budget))
    total = binary("+", total, by ? path_of(item, *attribute, budget) : item, budget);
  return total;
}

Value extreme(const std::string& name, const Value& value, const Arguments& arguments, Budget& budget) {
  const Value* attribute = arguments.get(1, "attribute");
  const bool sensitive = arguments.flag(0, "case_sensitive");
  Value best = Value::undefined("the " + name + " of nothing"), best_key;
  for (const Value& item : iterate(value, budget)) {
    Value key = key_of(item, attribute, sensitive, budget);
    if (best_key.kind != Value::kUndefined) {
      const int order = compare(key, best_key, budget);
      if (name == "min" ? order >= 0 : order <= 0) continue;
    }
    best = item;
    best_key = std::move(key);
  }
  return best;
}

Value rounded(const Value& value, const Arguments& arguments, Budget& budget) {
  const Value* digits = arguments.get(0, "precision");
  const Value* method = arguments.get(1, "method");
  const std::string how = method != nullptr ? to_text(*method, budget) : "common";
  if (!value.is_number()) budget.refuse("round needs a number");
  const int64_t places = digits != nullptr ? digits->integer : 0;
  if (places < -300 || places > 300) budget.refuse("round takes a precision of at most 300 digits");
  if (how == "common") {
    // Correctly rounded decimal digits, as Python's round.
    if (value.kind != Value::kFloat && places >= 0)
      return value.kind == Value::kBool ? Value::integer_of(value.integer) : value;
    if (value.kind == Value::kFloat && places >= 0)
      return Value::real(std::stod(fmt::format("{:.{}f}", value.number, places)));
  } else if (how != "ceil" && how != "floor") {
    budget.refuse(fmt::format("round has no method '{}'", how));
  }
  const double scale = std::pow(10.0, static_cast<double>(places)), scaled = value.as_double() * scale;
  const double whole = how == "ceil"    ? std::ceil(scaled)
                       : how == "floor" ? std::floor(scaled)
                                        : std::nearbyint(scaled);
  const double result = whole / scale;
  return value.kind == Value::kFloat || how != "common"
             ? Value::real(result)
             : Value::integer_of(static_cast<int64_t>(std::clamp(result, -9e18, 9e18)));
}

Value groups(const Value& value, const Arguments& arguments, Budget& budget) {
  const Value* attribute = arguments.get(0, "attribute");
  const Value* otherwise = arguments.get(1, "default");
  if (attribute == nullptr) budget.refuse("groupby needs the name of an attribute");
  const bool sensitive = arguments.flag(2, "case_sensitive");
  struct Keyed {
    Value key, shown, item;
  };
  std::vector<Keyed> all;
  for (const Value& item : iterate(value, budget)) {
    Value shown = path_of(item, *attribute, budget);
    if (shown.kind == Value::kUndefined && otherwise != nullptr) shown = *otherwise;
    all.push_back({key_of(shown, nullptr, sensitive, budget), shown, item});
  }
  std::stable_sort(all.begin(), all.end(),
                   [&](const Keyed& a, const Keyed& b) { return compare(a.key, b.key, budget) < 0; });
  Items out;
  for (size_t i = 0; i < all.size();) {
    Items members;
    const size_t first = i;
    while (i < all.size() && equal(all[i].key, all[first].key, budget)) members.push_back(all[i++].item);
    Value group =
        Value::items({all[first].shown, Value::items(std::move(members), budget)}, budget, Value::kTuple);
    group.string = std::make_shared<const std::string>("group");
    out.push_back(std::move(group));
  }
  return Value::items(std::move(out), budget);
}

Value batches(const Value& value, const Arguments& arguments, Budget& budget) {
  const auto size = static_cast<size_t>(count_of(arguments, 0, "linecount", budget));
  const Value* fill = arguments.get(1, "fill_with");
  const Items items = iterate(value, budget);
  Items out;
  for (size_t i = 0; i < items.size(); i += size) {
    Items part(items.begin() + static_cast<std::ptrdiff_t>(i),
               items.begin() + static_cast<std::ptrdiff_t>(std::min(i + size, items.size())));
    budget.steps(size);
    if (fill != nullptr && fill->kind != Value::kNone) part.resize(size, *fill);
    out.push_back(Value::items(std::move(part), budget));
  }
  return Value::items(std::move(out), budget, Value::kGenerator);
}

Value slices(const Value& value, const Arguments& arguments, Budget& budget) {
  const auto count = static_cast<size_t>(count_of(arguments, 0, "slices", budget));
  const Value* fill = arguments.get(1, "fill_with");
  const Items items = iterate(value, budget);
  const size_t each = items.size() / count, longer = items.size() % count;
  Items out;
  size_t at = 0;
  for (size_t i = 0; i < count; ++i) {
    const size_t end = at + each + (i < longer ? 1 : 0);
    Items part(items.begin() + static_cast<std::ptrdiff_t>(at),
               items.begin() + static_cast<std::ptrdiff_t>(end));
    if (fill != nullptr && fill->kind != Value::kNone && i >= longer) part.push_back(*fill);
    out.push_back(Value::items(std::move(part), budget));
    at = end;
  }
  return Value::items(std::move(out), budget, Value::kGenerator);
}

}  // namespace

std::optional<Value> group_filter(const std::string& name, const Value& value, const Arguments& arguments,
                                  Budget& budget) {
  if (name == "sum") return summed(value, arguments, budget);
  if (name == "min" || name == "max") return extreme(name, value, arguments, budget);
  if (name == "round") return rounded(value, arguments, budget);
  if (name == "groupby") return groups(value, arguments, budget);
  if (name == "batch") return batches(value, arguments, budget);
  if (name == "slice") return slices(value, arguments, budget);
  if (name == "e" || name == "escape") return escaped(value, budget);
  if (name == "forceescape") return escaped(Value::text(to_text(value, budget)), budget);
  if (name == "attr") {
    const Value* attribute = arguments.get(0, "name");
    if (attribute == nullptr) budget.refuse("attr needs a name");
    // Attributes of Python's objects, not items of dicts.
    if (is_method(value, to_text(*attribute, budget)))
      budget.refuse(fmt::format("attr: methods ('{}') are not taken by name", to_text(*attribute, budget)));
    if (value.kind == Value::kNamespace) return attribute_of(value, to_text(*attribute, budget), budget);
    return Value::undefined(to_text(*attribute, budget));
  }
  if (name == "wordcount") {
    const Value words = call_method(Value::text(to_text(value, budget)), "split", {}, budget);
    return Value::integer_of(static_cast<int64_t>(words.list->size()));
  }
  if (name == "center") {
    Arguments width;
    const Value* given = arguments.get(0, "width");
    width.positional.push_back(given != nullptr ? *given : Value::integer_of(80));
    return call_method(soft_text(value, budget), name, width, budget);
  }
  if (name == "format") {
    if (!arguments.named.empty()) budget.refuse("format takes no keywords here");
    return binary("%", soft_text(value, budget), Value::items(arguments.positional, budget, Value::kTuple),
                  budget);
  }
  return std::nullopt;
}

}  // namespace nfloat::chat
