// SPDX-License-Identifier: Apache-2.0
#include "chat/builtins.h"

#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <ctime>

#include "base/fail.h"

namespace nfloat::chat {
namespace {

const std::string& text_of(const Value* value, const char* what, Budget& budget) {
  if (value == nullptr || value->kind != Value::kString) budget.refuse(fmt::format("{} needs a str", what));
  return value->str();
}

std::string mapped(const std::string& text, bool upper_first, bool upper_rest, bool each_word) {
  std::string out;
  bool first = true;
  for (size_t i = 0; i < text.size();) {
    utf8proc_int32_t code = 0;
    const auto length = utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(text.data()) + i,
                                         static_cast<utf8proc_ssize_t>(text.size() - i), &code);
    if (length <= 0) {
      out += text[i++];
      continue;
    }
    const bool upper = first ? upper_first : upper_rest;
    const utf8proc_int32_t changed = upper ? utf8proc_toupper(code) : utf8proc_tolower(code);
    std::array<utf8proc_uint8_t, 4> bytes{};
    const auto written = utf8proc_encode_char(changed, bytes.data());
    out.append(reinterpret_cast<const char*>(bytes.data()), static_cast<size_t>(written));
    const bool letter = utf8proc_toupper(code) != utf8proc_tolower(code);
    first = each_word && !letter;
    i += static_cast<size_t>(length);
  }
  return out;
}

Value replaced(const std::string& text, const std::string& from, const std::string& to, int64_t most,
               Budget& budget) {
  std::string out;
  budget.bytes(text.size());
  const auto put = [&](std::string_view piece) {
    budget.bytes(piece.size());
    out += piece;
  };
  size_t at = 0;
  while (most != 0 && at <= text.size()) {
    const size_t found = from.empty() ? at : text.find(from, at);
    if (found == std::string::npos) break;
    put(std::string_view(text).substr(at, found - at));
    put(to);
    budget.steps();
    --most;
    at = found + from.size();
    if (from.empty()) {
      if (at < text.size()) put(std::string_view(text).substr(at, 1));
      ++at;
    }
  }
  if (at < text.size()) put(std::string_view(text).substr(at));
  return Value::text(std::move(out));
}

Value split(const std::string& text, const Value* by, int64_t most, Budget& budget) {
  Items parts;
  budget.bytes(text.size());
  const auto put = [&](std::string_view part) {
    budget.steps();
    parts.push_back(Value::text(std::string(part)));
  };
  const std::string_view all = text;
  size_t at = 0;
  if (by != nullptr && by->kind == Value::kString) {
    if (by->str().empty()) budget.refuse("split needs a separator that is not empty");
    for (size_t found; most != 0 && (found = all.find(by->str(), at)) != std::string_view::npos; --most) {
      put(all.substr(at, found - at));
      at = found + by->str().size();
    }
    put(all.substr(at));
  } else {
    constexpr const char* kSpace = " \t\n\v\f\r";
    while ((at = all.find_first_not_of(kSpace, at)) != std::string_view::npos) {
      const size_t end = most == 0 ? std::string_view::npos : all.find_first_of(kSpace, at);
      if (end == std::string_view::npos) {
        put(strip(text.substr(at), "", false, true));
        break;
      }
      --most;
      put(all.substr(at, end - at));
      at = end;
    }
  }
  return Value::items(std::move(parts), budget);
}

bool starts_or_ends(const std::string& text, const Value* with, bool start, Budget& budget) {
  if (with != nullptr && with->kind == Value::kTuple)
    return std::any_of(with->list->begin(), with->list->end(),
                       [&](const Value& one) { return starts_or_ends(text, &one, start, budget); });
  const std::string& piece = text_of(with, start ? "startswith" : "endswith", budget);
  budget.steps(1 + piece.size() / 64);
  return start ? text.starts_with(piece) : text.ends_with(piece);
}

Value string_method(const std::string& text, const std::string& name, const Arguments& arguments,
                    Budget& budget) {
  const Value* first = arguments.get(0, "sep");
  budget.bytes(text.size());
  if (name == "strip" || name == "lstrip" || name == "rstrip") {
    const bool given = first != nullptr && first->kind == Value::kString;
    return Value::text(strip(text, given ? first->str() : "", name != "rstrip", name != "lstrip"));
  }
  if (name == "upper") return Value::text(mapped(text, true, true, false));
  if (name == "lower") return Value::text(mapped(text, false, false, false));
  if (name == "capitalize") return Value::text(mapped(text, true, false, false));
  if (name == "title") return Value::text(mapped(text, true, false, true));
  if (name == "startswith" || name == "endswith")
    return Value::boolean(starts_or_ends(text, first, name == "startswith", budget));
  const auto count = [&](const char* keyword, size_t place) {
    const Value* most = arguments.get(place, keyword);
    return most != nullptr && most->kind == Value::kInt ? most->integer : int64_t{-1};
  };
  if (name == "split") return split(text, first, count("maxsplit", 1), budget);
  if (name == "replace")
    return replaced(text, text_of(arguments.get(0, "old"), "replace", budget),
                    text_of(arguments.get(1, "new"), "replace", budget), count("count", 2), budget);
  if (name == "find") {
    const size_t found = text.find(text_of(first, "find", budget));
    if (found == std::string::npos) return Value::integer_of(-1);
    return Value::integer_of(static_cast<int64_t>(characters(text.substr(0, found)).size()) - 1);
  }
  if (name == "count") {
    const std::string& piece = text_of(first, "count", budget);
    int64_t found = 0;
    for (size_t at = 0; !piece.empty() && (at = text.find(piece, at)) != std::string::npos;
         at += piece.size())
      ++found;
    return Value::integer_of(found);
  }
  if (name == "isdigit")
    return Value::boolean(!text.empty() && text.find_first_not_of("0123456789") == std::string::npos);
  if (name == "splitlines") {
    Items lines;
    for (size_t at = 0; at < text.size();) {
      const size_t end = std::min(text.find('\n', at), text.size());
      lines.push_back(Value::text(text.substr(at, end - at)));
      at = end + 1;
    }
    return Value::items(std::move(lines), budget);
  }
  if (name != "join") budget.refuse(fmt::format("str has no method '{}'", name));
  std::string out;
  bool begun = false;
  for (const Value& item : iterate(first != nullptr ? *first : Value::none(), budget)) {
    const std::string& piece = text_of(&item, "join", budget);
    budget.bytes(piece.size() + text.size());
    if (begun) out += text;
    begun = true;
    out += piece;
  }
  return Value::text(std::move(out));
}

}  // namespace

const Value* Arguments::get(size_t place, std::string_view name) const {
  if (place < positional.size()) return &positional[place];
  for (const auto& entry : named)
    if (entry.first == name) return &entry.second;
  return nullptr;
}

bool is_method(const Value& object, const std::string& name) {
  static const std::vector<std::string> kOfText = {
      "strip",    "lstrip", "rstrip",  "upper", "lower", "capitalize", "title",      "startswith",
      "endswith", "split",  "replace", "find",  "count", "isdigit",    "splitlines", "join"};
  static const std::vector<std::string> kOfDict = {"items", "keys", "values", "get"};
  const auto in = [&](const std::vector<std::string>& all) {
    return std::find(all.begin(), all.end(), name) != all.end();
  };
  if (object.kind == Value::kString) return in(kOfText);
  return (object.kind == Value::kDict) && in(kOfDict);
}

Value call_method(const Value& object, const std::string& name, const Arguments& arguments, Budget& budget) {
  if (object.kind == Value::kString) return string_method(object.str(), name, arguments, budget);
  if (name == "get") {
    const Value* found = find(*object.dict, text_of(arguments.get(0, "key"), "get", budget), budget);
    if (found != nullptr) return *found;
    const Value* other = arguments.get(1, "default");
    return other != nullptr ? *other : Value::none();
  }
  Items items;
  for (const auto& entry : *object.dict) {
    if (name == "values")
      items.push_back(entry.second);
    else if (name == "keys")
      items.push_back(Value::text(entry.first));
    else
      items.push_back(Value::items({Value::text(entry.first), entry.second}, budget, Value::kTuple));
  }
  return Value::items(std::move(items), budget);
}

Value call_function(const std::string& name, const Arguments& arguments, Budget& budget) {
  if (name == "raise_exception")
    budget.refuse("the template says: " +
                  (arguments.positional.empty() ? std::string() : to_text(arguments.positional[0], budget)));
  if (name == "dict") return Value::entries(arguments.named, budget);
  if (name == "range") {
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
    return Value::items(std::move(items), budget);
  }
  // strftime_now
  const std::string& format =
      text_of(arguments.positional.empty() ? nullptr : &arguments.positional[0], "strftime_now", budget);
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
    return Value::text(a.str() + b.str());
  }
  if (sign == "+" && a.is_list() && a.kind == b.kind) {
    Items items = iterate(a, budget);
    const Items more = iterate(b, budget);
    items.insert(items.end(), more.begin(), more.end());
    return Value::items(std::move(items), budget, a.kind);
  }
  if (sign == "*" && a.kind == Value::kString && b.kind == Value::kInt) {
    std::string text;
    for (int64_t i = 0; i < b.integer; ++i) {
      budget.bytes(a.str().size() + 1);
      budget.steps();
      text += a.str();
    }
    return Value::text(std::move(text));
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
  const int64_t x = a.integer, y = b.integer;
  int64_t result = 0;
  bool over = false;
  if (sign == "+") {
    over = __builtin_add_overflow(x, y, &result);
  } else if (sign == "-") {
    over = __builtin_sub_overflow(x, y, &result);
  } else if (sign == "*") {
    over = __builtin_mul_overflow(x, y, &result);
  } else if (sign == "**") {
    result = 1;
    for (int64_t i = 0; i < y && !over; ++i) {
      budget.steps();
      over = __builtin_mul_overflow(result, x, &result);
    }
  } else {
    if (y == 0) budget.refuse("division by zero");
    if (y == -1) {
      over = sign == "//" && __builtin_sub_overflow(int64_t{0}, x, &result);
    } else {
      const int64_t rest = x % y;
      const bool round = rest != 0 && (rest < 0) != (y < 0);
      result = sign == "//" ? x / y - (round ? 1 : 0) : rest + (round ? y : 0);
    }
  }
  if (over) budget.refuse("a whole number beyond 64 bits");
  return Value::integer_of(result);
}

Value attribute_of(const Value& object, const std::string& name, Budget& budget) {
  const Value* found = nullptr;
  if (object.kind == Value::kDict) found = find(*object.dict, name, budget);
  if (object.kind == Value::kNamespace) found = find(*object.names, name, budget);
  if (object.kind == Value::kUndefined) budget.refuse(fmt::format("'{}' is undefined", object.str()));
  return found != nullptr ? *found : Value::undefined(name);
}

Value item_of(const Value& object, const Value& index, Budget& budget) {
  if (index.kind == Value::kString) return attribute_of(object, index.str(), budget);
  if (object.kind == Value::kUndefined) budget.refuse(fmt::format("'{}' is undefined", object.str()));
  if (index.kind != Value::kInt) return Value::undefined("item");
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
    if (place + 1 < offsets.size())
      return Value::text(object.str().substr(offsets[place], offsets[place + 1] - offsets[place]));
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
  return Value::text(std::move(text));
}

}  // namespace nfloat::chat
