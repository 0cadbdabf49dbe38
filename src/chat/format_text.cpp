// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <string_view>

#include "base/fail.h"
#include "chat/builtins.h"

namespace nfloat::chat {
namespace {

constexpr size_t kMostSpec = 16;  // characters of a format

// One value under a format of Python, which fmt reads alike but for ',' and '_'.
std::string field(const Value& value, const std::string& spec, Budget& budget) {
  if (spec.empty()) return to_text(value, budget);
  const auto digits = [](char c) { return c >= '0' && c <= '9'; };
  int run = 0;
  for (const char c : spec) {
    run = digits(c) ? run + 1 : 0;
    if (run > 3 || c == '{' || c == '}' || spec.size() > kMostSpec)
      budget.refuse(fmt::format("the format '{}' is not understood", spec));
  }
  try {
    const std::string format = "{:" + spec + "}";
    const bool as_real = std::string_view("eEfFgG").find(spec.back()) != std::string_view::npos;
    std::string text;
    if (value.kind == Value::kFloat || (value.is_number() && as_real && !value.is_big()))
      text = fmt::format(fmt::runtime(format), value.as_double());
    else if ((value.kind == Value::kInt || value.kind == Value::kBool) && !value.is_big())
      text = fmt::format(fmt::runtime(format), value.integer);
    else if (value.kind == Value::kString)
      text = fmt::format(fmt::runtime(format), value.str());
    else
      budget.refuse(fmt::format("{} has no format '{}'", kind_name(value), spec));
    budget.bytes(text.size());
    return text;
  } catch (const fmt::format_error&) {
    budget.refuse(fmt::format("the format '{}' is not one for {}", spec, kind_name(value)));
  }
}

}  // namespace

std::string formatted(const std::string& format, const Arguments& arguments, Budget& budget) {
  std::string out;
  size_t next = 0;
  for (size_t i = 0; i < format.size(); ++i) {
    const char c = format[i];
    if (c != '{' && c != '}') {
      out += c;
      continue;
    }
    if (i + 1 < format.size() && format[i + 1] == c) {
      out += c;
      ++i;
      continue;
    }
    const size_t end = format.find('}', i);
    if (c == '}' || end == std::string::npos) budget.refuse("format: a brace stands alone");
    std::string name = format.substr(i + 1, end - i - 1), spec;
    i = end;
    if (const size_t colon = name.find(':'); colon != std::string::npos) {
      spec = name.substr(colon + 1);
      name.resize(colon);
    }
    bool repr = false;
    if (name.ends_with("!r") || name.ends_with("!s")) {
      repr = name.ends_with("r");
      name.resize(name.size() - 2);
    }
    if (name.find_first_of(".[!{") != std::string::npos)
      budget.refuse(fmt::format("format: the field '{}' is not understood", name));
    const bool place = name.find_first_not_of("0123456789") == std::string::npos && name.size() < 4;
    const size_t at = !place ? SIZE_MAX : name.empty() ? next++ : std::stoul(name);
    const Value* value = arguments.get(at, name);
    if (value == nullptr) budget.refuse(fmt::format("format: there is no value for the field '{}'", name));
    out += field(repr ? Value::text(to_repr(*value, budget)) : *value, spec, budget);
  }
  budget.bytes(out.size());
  return out;
}

std::string percent(const std::string& format, const Items& values, Budget& budget) {
  std::string out;
  size_t next = 0;
  for (size_t i = 0; i < format.size(); ++i) {
    if (format[i] != '%') {
      out += format[i];
      continue;
    }
    const size_t begin = ++i;
    i = std::min(format.find_first_not_of("0123456789.-+", i), format.size());
    const char kind = i < format.size() ? format[i] : '\0';
    std::string spec = format.substr(begin, i - begin);
    if (kind == '%' && spec.empty()) {
      out += '%';
      continue;
    }
    if (std::string_view("sdirfeg").find(kind) == std::string_view::npos)
      budget.refuse(fmt::format("the format '%{}{}' is not understood", spec, kind));
    if (next == values.size()) budget.refuse("there are fewer values than fields in the format");
    Value value = values[next++];
    if (kind == 's' || kind == 'r')
      value = Value::text(kind == 's' ? to_text(value, budget) : to_repr(value, budget));
    else if (!value.is_number())
      budget.refuse(fmt::format("'%{}' needs a number, not {}", kind, kind_name(value)));
    if (spec.starts_with('-'))
      spec[0] = '<';
    else if (!spec.empty() && spec[0] != '.' && spec[0] != '0' && spec[0] != '+')
      spec = ">" + spec;
    if (kind == 'f' || kind == 'e' || kind == 'g')
      spec += kind;
    else if ((kind == 'd' || kind == 'i') && value.kind == Value::kFloat)
      value = Value::integer_of(static_cast<int64_t>(std::clamp(value.number, -9e18, 9e18)));
    else if ((kind == 'd' || kind == 'i') && value.kind == Value::kBool)
      value = Value::integer_of(value.integer);
    out += field(value, spec, budget);
  }
  if (next < values.size()) budget.refuse("there are more values than fields in the format");
  budget.bytes(out.size());
  return out;
}

}  // namespace nfloat::chat
