// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>

#include "base/fail.h"
#include "base/json.h"
#include "chat/value.h"

namespace nfloat::chat {
namespace {

// The code point at text[at], which goes on to its end; a byte that is not UTF-8 stands for itself.
uint32_t code_point(const std::string& text, size_t& at) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned lead = byte(at);
  const size_t more = lead >= 0xf0 ? 3 : lead >= 0xe0 ? 2 : lead >= 0xc0 ? 1 : 0;
  if (more == 0 || at + more >= text.size()) return byte(at++);
  uint32_t code = lead & (0x3fU >> more);
  for (size_t i = 1; i <= more; ++i) code = code << 6U | (byte(at + i) & 0x3fU);
  at += more + 1;
  return code;
}

std::string quoted(const std::string& text, bool ascii) {
  std::string out = "\"";
  for (size_t i = 0; i < text.size();) {
    const char c = text[i];
    const auto byte = static_cast<unsigned char>(c);
    static constexpr std::string_view kFrom = "\n\r\t\b\f\"\\", kTo = "nrtbf\"\\";
    const size_t known = kFrom.find(c);
    if (known != std::string_view::npos) {
      out += {'\\', kTo[known]};
      ++i;
    } else if (byte < 0x20) {
      out += fmt::format("\\u{:04x}", byte);
      ++i;
    } else if (byte < 0x80 || !ascii) {
      out += c;
      ++i;
    } else {
      const uint32_t code = code_point(text, i);
      if (code < 0x10000)
        out += fmt::format("\\u{:04x}", code);
      else
        out += fmt::format("\\u{:04x}\\u{:04x}", 0xd7c0U + (code >> 10U), 0xdc00U + (code & 0x3ffU));
    }
  }
  return out + '"';
}

class Writer {
 public:
  Writer(const JsonStyle& style, Budget& budget) : style_(style), budget_(budget) {}

  std::string take() { return std::move(out_); }
  void write(const Value& value, size_t level) {
    budget_.steps();
    const bool list = value.is_list();
    if (value.kind == Value::kList && value.string != nullptr)
      budget_.refuse("a range is not JSON serializable");
    if (!list && value.kind != Value::kDict) return put(scalar(value));
    const size_t count = list ? value.list->size() : value.dict->size();
    put(list ? "[" : "{");
    std::vector<const std::pair<Value, Value>*> entries;
    if (!list)
      for (const auto& entry : *value.dict) entries.push_back(&entry);
    if (style_.sorted)
      std::stable_sort(entries.begin(), entries.end(),
                       [&](auto* a, auto* b) { return compare(a->first, b->first, budget_) < 0; });
    for (size_t i = 0; i < count; ++i) {
      if (i > 0) put(style_.item_separator);
      line(level + 1);
      if (!list) put(key(entries[i]->first) + style_.key_separator);
      write(list ? (*value.list)[i] : entries[i]->second, level + 1);
    }
    if (count > 0) line(level);
    put(list ? "]" : "}");
  }

 private:
  void put(std::string_view piece) {
    budget_.bytes(piece.size() + 1);
    out_ += piece;
  }
  void line(size_t level) {
    if (!style_.lines) return;
    put("\n");
    for (size_t i = 0; i < level; ++i) put(style_.indent);
  }
  std::string scalar(const Value& value) {
    if (value.kind == Value::kString) return quoted(value.str(), style_.ascii);
    if (value.kind == Value::kNone) return "null";
    if (value.kind == Value::kBool) return value.integer != 0 ? "true" : "false";
    if (value.kind == Value::kFloat && std::isnan(value.number)) return "NaN";
    if (value.kind == Value::kFloat && std::isinf(value.number))
      return value.number < 0 ? "-Infinity" : "Infinity";
    if (value.is_number()) return to_text(value, budget_);
    budget_.refuse(fmt::format("{} is not JSON serializable", kind_name(value)));
  }
  std::string key(const Value& value) {
    if (value.kind == Value::kString) return scalar(value);
    if (value.is_number() || value.kind == Value::kNone) return quoted(scalar(value), false);
    budget_.refuse(fmt::format("{} cannot be a key in JSON", kind_name(value)));
  }

  const JsonStyle& style_;
  Budget& budget_;
  std::string out_;
};

// Of a text that Json::parse took.
class Reader {
 public:
  Reader(std::string_view text, Budget& budget) : text_(text), budget_(budget) {}

  Value value() {
    space();
    const char first = text_[at_];
    if (first == '{') {
      Pairs pairs;
      for (++at_; more('}');) {
        const Value key = value();
        more('\0');
        put(pairs, key, value(), budget_);
      }
      return Value::pairs(std::move(pairs), budget_);
    }
    if (first == '[') {
      Items items;
      for (++at_; more(']');) items.push_back(value());
      return Value::items(std::move(items), budget_);
    }
    const size_t begin = at_;
    if (first == '"') {
      while (text_[++at_] != '"')
        if (text_[at_] == '\\') ++at_;
      ++at_;
      return Value::text(Json::parse(text_.substr(begin, at_ - begin)).text());
    }
    at_ = std::min(text_.find_first_of(" \t\r\n,:]}", at_), text_.size());
    const std::string_view token = text_.substr(begin, at_ - begin);
    if (token == "null") return Value::none();
    if (token == "true" || token == "false") return Value::boolean(token == "true");
    if (token.find_first_not_of("-0123456789") != std::string_view::npos)
      return Value::real(Json::parse(token).get<double>());
    if (token.size() > kMostDigits) budget_.refuse("a whole number has more than 4300 digits");
    return Value::whole(token);
  }

 private:
  static constexpr size_t kMostDigits = 4300;
  void space() { at_ = std::min(text_.find_first_not_of(" \t\r\n", at_), text_.size()); }
  // Passes a comma or colon; false, past it, at the end of a list or object.
  bool more(char end) {
    space();
    if (text_[at_] == ',' || text_[at_] == ':') ++at_;
    space();
    if (text_[at_] != end) return true;
    ++at_;
    return false;
  }

  std::string_view text_;
  Budget& budget_;
  size_t at_ = 0;
};

}  // namespace

std::string to_json(const Value& value, const JsonStyle& style, Budget& budget) {
  Writer writer(style, budget);
  writer.write(value, 0);
  return writer.take();
}

Value from_json(std::string_view text, const std::string& source, Budget& budget) {
  // A byte order mark is of the encoding, not of the text.
  if (text.starts_with("\xef\xbb\xbf")) text.remove_prefix(3);
  parse_json(text, source);
  return Reader(text, budget).value();
}

}  // namespace nfloat::chat
