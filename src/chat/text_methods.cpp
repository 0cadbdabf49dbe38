// SPDX-License-Identifier: Apache-2.0
#include <utf8proc.h>

#include <algorithm>
#include <array>

#include "base/fail.h"
#include "chat/builtins.h"

namespace nfloat::chat {
namespace {

const std::string& text_of(const Value* value, const char* what, Budget& budget) {
  if (value == nullptr || value->kind != Value::kString) budget.refuse(fmt::format("{} needs a str", what));
  return value->str();
}

// A character in the other case, which may be several: a small letter whose folded form is (U+00DF folds to
// "ss"), and of capitals U+0130.
std::vector<utf8proc_int32_t> cased(utf8proc_int32_t code, bool upper) {
  constexpr utf8proc_int32_t kDottedI = 0x130;
  const utf8proc_category_t kind = utf8proc_category(code);
  if (upper ? kind == UTF8PROC_CATEGORY_LL || kind == UTF8PROC_CATEGORY_LT : code == kDottedI) {
    std::array<utf8proc_int32_t, 8> folded{};
    int boundary = 0;
    const auto count =
        utf8proc_decompose_char(code, folded.data(), std::ssize(folded), UTF8PROC_CASEFOLD, &boundary);
    if (count > 1 && count <= std::ssize(folded)) {
      std::vector<utf8proc_int32_t> result(folded.begin(), folded.begin() + count);
      if (upper) std::transform(result.begin(), result.end(), result.begin(), utf8proc_toupper);
      return result;
    }
  }
  return {upper ? utf8proc_toupper(code) : utf8proc_tolower(code)};
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
    for (const utf8proc_int32_t changed : cased(code, upper)) {
      std::array<utf8proc_uint8_t, 4> bytes{};
      const auto written = utf8proc_encode_char(changed, bytes.data());
      out.append(reinterpret_cast<const char*>(bytes.data()), static_cast<size_t>(written));
    }
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
    const auto go = [&](bool spaces) {
      size_t bytes = 0;
      for (; at < all.size() && is_python_space(character_at(all, at, &bytes)) == spaces; at += bytes) {
      }
    };
    for (go(true); at < all.size(); go(true), --most) {
      const size_t begin = at;
      if (most == 0) {
        put(all.substr(at));
        break;
      }
      go(false);
      put(all.substr(begin, at - begin));
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

Value split_from_right(const std::string& text, const Value* by, const Value* most, Budget& budget) {
  const Items all = *split(text, by, -1, budget).list;
  const int64_t limit = most != nullptr && most->kind == Value::kInt ? most->integer : -1;
  if (limit < 0 || static_cast<size_t>(limit) + 1 >= all.size()) return Value::items(all, budget);
  if (by == nullptr || by->kind != Value::kString)
    budget.refuse("rsplit with a count needs a separator here");
  const size_t joined = all.size() - static_cast<size_t>(limit);
  std::string first = all[0].str();
  for (size_t i = 1; i < joined; ++i) first += by->str() + all[i].str();
  Items parts{Value::text(std::move(first))};
  parts.insert(parts.end(), all.begin() + static_cast<std::ptrdiff_t>(joined), all.end());
  return Value::items(std::move(parts), budget);
}

Value padded(const std::string& text, const std::string& name, const Arguments& arguments, Budget& budget) {
  const Value* width = arguments.get(0, "width");
  if (width == nullptr || width->kind != Value::kInt) budget.refuse(name + " needs a width");
  const Value* given = arguments.get(1, "fillchar");
  const std::string fill = name == "zfill"    ? "0"
                           : given != nullptr ? text_of(given, name.c_str(), budget)
                                              : " ";
  if (characters(fill).size() != 2) budget.refuse(name + " fills with one character");
  const int64_t lacking = width->integer - static_cast<int64_t>(characters(text).size()) + 1;
  if (lacking <= 0) return Value::text(text);
  budget.bytes(static_cast<uint64_t>(lacking) * fill.size());
  // Where the halves differ Python puts the longer one left if the width is odd.
  const int64_t left = name == "ljust"    ? 0
                       : name == "center" ? lacking / 2 + (lacking & width->integer & 1)
                                          : lacking;
  std::string out;
  const size_t sign = name == "zfill" && !text.empty() && (text[0] == '-' || text[0] == '+') ? 1 : 0;
  out = text.substr(0, sign);
  for (int64_t i = 0; i < left; ++i) out += fill;
  out += text.substr(sign);
  for (int64_t i = left; i < lacking; ++i) out += fill;
  return Value::text(std::move(out));
}

bool of_letters(const std::string& text, bool digits) {
  for (size_t i = 0; i < text.size();) {
    utf8proc_int32_t code = 0;
    const auto length = utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(text.data()) + i,
                                         static_cast<utf8proc_ssize_t>(text.size() - i), &code);
    if (length <= 0) return false;
    const utf8proc_category_t kind = utf8proc_category(code);
    const bool letter = kind >= UTF8PROC_CATEGORY_LU && kind <= UTF8PROC_CATEGORY_LO;
    const bool number = kind >= UTF8PROC_CATEGORY_ND && kind <= UTF8PROC_CATEGORY_NO;
    if (!letter && !(digits && number)) return false;
    i += static_cast<size_t>(length);
  }
  return !text.empty();
}

}  // namespace

Value string_method(const std::string& text, const std::string& name, const Arguments& arguments,
                    Budget& budget) {
  budget.bytes(text.size());
  if (name == "format") return Value::text(formatted(text, arguments, budget));
  if (name == "split" || name == "rsplit")
    arguments.check(name, {"sep", "maxsplit"}, budget);
  else if (name == "replace")
    arguments.check(name, {"old", "new", "count"}, budget);
  else if (name == "splitlines")
    arguments.check(name, {"keepends"}, budget);
  else if (name == "ljust" || name == "rjust" || name == "center")
    arguments.check(name, {"", ""}, budget);
  else
    arguments.check(name, {""}, budget);
  const Value* first = arguments.get(0, "sep");
  if (name == "strip" || name == "lstrip" || name == "rstrip") {
    const bool given = first != nullptr && first->kind == Value::kString;
    return Value::text(strip(text, given ? first->str() : "", name != "rstrip", name != "lstrip"));
  }
  if (name == "removeprefix" || name == "removesuffix") {
    const std::string& piece = text_of(first, name.c_str(), budget);
    const bool front = name == "removeprefix";
    if (front ? !text.starts_with(piece) : !text.ends_with(piece)) return Value::text(text);
    return Value::text(front ? text.substr(piece.size()) : text.substr(0, text.size() - piece.size()));
  }
  if (name == "rsplit") return split_from_right(text, first, arguments.get(1, "maxsplit"), budget);
  if (name == "partition" || name == "rpartition") {
    const std::string& piece = text_of(first, name.c_str(), budget);
    if (piece.empty()) budget.refuse(name + " needs a separator that is not empty");
    const size_t found = name == "partition" ? text.find(piece) : text.rfind(piece);
    Items parts{Value::text(text), Value::text(""), Value::text("")};
    if (found != std::string::npos)
      parts = {Value::text(text.substr(0, found)), first[0], Value::text(text.substr(found + piece.size()))};
    else if (name == "rpartition")
      std::swap(parts[0], parts[2]);
    return Value::items(std::move(parts), budget, Value::kTuple);
  }
  if (name == "ljust" || name == "rjust" || name == "center" || name == "zfill")
    return padded(text, name, arguments, budget);
  if (name == "isspace") return Value::boolean(!text.empty() && strip(text, "", true, true).empty());
  if (name == "isupper" || name == "islower") {
    const bool upper = name == "isupper";
    return Value::boolean(mapped(text, upper, upper, false) == text &&
                          mapped(text, !upper, !upper, false) != text);
  }
  if (name == "isalpha" || name == "isalnum") return Value::boolean(of_letters(text, name == "isalnum"));
  if (name == "casefold") return Value::text(mapped(text, false, false, false));
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
  if (name == "find" || name == "rfind" || name == "index") {
    const std::string& piece = text_of(first, name.c_str(), budget);
    const size_t found = name == "rfind" ? text.rfind(piece) : text.find(piece);
    if (found == std::string::npos && name == "index") budget.refuse("index: the text is not there");
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
  if (name == "isdigit" || name == "isdecimal" || name == "isnumeric")
    return Value::boolean(!text.empty() && text.find_first_not_of("0123456789") == std::string::npos);
  if (name == "splitlines") {
    Items lines;
    const Value* kept = arguments.get(0, "keepends");
    const size_t ends = kept != nullptr && kept->truth() ? 1 : 0;
    for (size_t at = 0, begin = 0, bytes = 0; at < text.size();) {
      const char32_t c = character_at(text, at, &bytes);
      const size_t end = at;
      at += bytes;
      const bool line_end =
          (c >= 0x0a && c <= 0x0d) || (c >= 0x1c && c <= 0x1e) || c == 0x85 || c == 0x2028 || c == 0x2029;
      if (!line_end && at < text.size()) continue;
      if (c == '\r' && at < text.size() && text[at] == '\n') ++at;
      budget.steps();
      lines.push_back(Value::text(text.substr(begin, (line_end && ends == 0 ? end : at) - begin)));
      begin = at;
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

bool is_method(const Value& object, const std::string& name) {
  static const std::vector<std::string> kOfText = {
      "strip",     "lstrip",     "rstrip",    "upper",      "lower",        "capitalize",
      "title",     "startswith", "endswith",  "split",      "rsplit",       "replace",
      "find",      "rfind",      "index",     "count",      "isdigit",      "isdecimal",
      "isnumeric", "isspace",    "isupper",   "islower",    "isalpha",      "isalnum",
      "casefold",  "splitlines", "join",      "format",     "ljust",        "rjust",
      "center",    "zfill",      "partition", "rpartition", "removeprefix", "removesuffix"};
  static const std::vector<std::string> kOfDict = {"items", "keys", "values", "get", "copy"};
  static const std::vector<std::string> kOfList = {"index", "count"};
  const auto in = [&](const std::vector<std::string>& all) {
    return std::find(all.begin(), all.end(), name) != all.end();
  };
  if (object.kind == Value::kString) return in(kOfText);
  return (object.kind == Value::kDict && in(kOfDict)) || (object.is_list() && in(kOfList));
}

Value list_method(const Value& list, const std::string& name, const Arguments& arguments, Budget& budget) {
  arguments.check(name, {"value"}, budget);
  const Value* wanted = arguments.get(0, "value");
  if (wanted == nullptr) budget.refuse(name + " needs a value");
  int64_t count = 0;
  for (size_t i = 0; i < list.list->size(); ++i) {
    if (!equal((*list.list)[i], *wanted, budget)) continue;
    if (name == "index") return Value::integer_of(static_cast<int64_t>(i));
    ++count;
  }
  if (name == "index") budget.refuse("index: the value is not in the list");
  return Value::integer_of(count);
}

}  // namespace nfloat::chat
