// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <charconv>

#include "base/fail.h"
#include "chat/syntax.h"

namespace nfloat::chat {
namespace {

bool is_space(char c) {
  return c == ' ' || (c >= '\t' && c <= '\r');
}
bool is_digit(char c) {
  return c >= '0' && c <= '9';
}
bool is_name(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || is_digit(c) ||
         (static_cast<unsigned char>(c) & 0x80U) != 0;
}

class Lexer {
 public:
  Lexer(std::string text, const std::string& source) : text_(std::move(text)), source_(source) {}

  std::vector<Token> run() {
    while (at_ < text_.size()) data();
    add(Token::kFinish, "");
    return std::move(tokens_);
  }

 private:
  [[noreturn]] void refuse(const std::string& what) const {
    fail(ErrorCode::kMalformedFile, "{}, line {}: {}", source_, line_, what);
  }
  void add(Token::Kind kind, std::string text) { tokens_.push_back({kind, std::move(text), line_}); }
  void advance(size_t to) {
    line_ += static_cast<int>(std::count(text_.begin() + static_cast<std::ptrdiff_t>(at_),
                                         text_.begin() + static_cast<std::ptrdiff_t>(to), '\n'));
    at_ = to;
  }
  char peek(size_t offset) const { return at_ + offset < text_.size() ? text_[at_ + offset] : '\0'; }

  // The text up to the next tag, and the tag.
  void data() {
    size_t open = at_;
    while (true) {
      open = text_.find('{', open);
      if (open == std::string::npos || open + 1 >= text_.size()) {
        open = text_.size();
        break;
      }
      if (text_[open + 1] == '{' || text_[open + 1] == '%' || text_[open + 1] == '#') break;
      ++open;
    }
    std::string piece = text_.substr(at_, open - at_);
    const bool at_line_start = at_ == 0 || text_[at_ - 1] == '\n';
    if (open < text_.size()) {
      const char sign = open + 2 < text_.size() ? text_[open + 2] : '\0';
      if (sign == '-') {
        while (!piece.empty() && is_space(piece.back())) piece.pop_back();
      } else if (sign != '+' && text_[open + 1] != '{') {
        const size_t newline = piece.rfind('\n');
        if (newline != std::string::npos || at_line_start) {
          const size_t begin = newline == std::string::npos ? 0 : newline + 1;
          if (std::all_of(piece.begin() + static_cast<std::ptrdiff_t>(begin), piece.end(), is_space))
            piece.erase(begin);
        }
      }
    }
    if (!piece.empty()) add(Token::kData, std::move(piece));
    advance(open);
    if (at_ == text_.size()) return;
    const char kind = text_[at_ + 1];
    const char sign = peek(2);
    advance(at_ + 2 + (sign == '-' || sign == '+' ? 1 : 0));
    if (kind == '#')
      comment();
    else
      tag(kind == '%');
  }

  void comment() {
    const size_t end = text_.find("#}", at_);
    if (end == std::string::npos) refuse("a comment is not closed");
    const char sign = end > at_ ? text_[end - 1] : '\0';
    advance(end + 2);
    after(sign, true);
  }

  // What a closed tag takes with it from the text behind.
  void after(char sign, bool block) {
    if (sign == '-') {
      size_t end = at_;
      while (end < text_.size() && is_space(text_[end])) ++end;
      advance(end);
    } else if (sign != '+' && block && peek(0) == '\n') {
      advance(at_ + 1);
    }
  }

  void tag(bool block) {
    add(block ? Token::kBlock : Token::kPrint, "");
    const size_t first = tokens_.size();
    std::string closing;  // brackets that wait for their ends
    while (true) {
      while (at_ < text_.size() && is_space(text_[at_])) advance(at_ + 1);
      if (at_ >= text_.size()) refuse("a tag is not closed");
      const char c = text_[at_];
      const size_t skip = c == '-' || c == '+' ? 1 : 0;
      if (closing.empty() && peek(skip) == (block ? '%' : '}') && peek(skip + 1) == '}') {
        advance(at_ + skip + 2);
        add(Token::kEnd, "");
        const bool raw = block && tokens_.size() == first + 2 && tokens_[first].text == "raw";
        after(skip == 1 ? c : '\0', block && !raw);
        if (raw) verbatim(first);
        return;
      }
      one(closing);
    }
  }

  // Everything up to {% endraw %}, which is removed.
  void verbatim(size_t first) {
    for (size_t end = at_; (end = text_.find("{%", end)) != std::string::npos; ++end) {
      size_t word = end + 2;
      const bool left = word < text_.size() && text_[word] == '-';
      if (left || (word < text_.size() && text_[word] == '+')) ++word;
      while (word < text_.size() && is_space(text_[word])) ++word;
      if (text_.compare(word, 6, "endraw") != 0) continue;
      const size_t close = text_.find("%}", word);
      if (close == std::string::npos) break;
      std::string piece = text_.substr(at_, end - at_);
      while (left && !piece.empty() && is_space(piece.back())) piece.pop_back();
      tokens_.resize(first - 1);
      add(Token::kData, std::move(piece));
      const char sign = text_[close - 1];
      advance(close + 2);
      after(sign, true);
      return;
    }
    refuse("raw is not closed");
  }

  void one(std::string& closing) {
    const char c = text_[at_];
    size_t end = at_;
    const char base = c == '0' ? static_cast<char>(peek(1) | 0x20) : '\0';
    if (base == 'x' || base == 'o' || base == 'b') {
      while (end < text_.size() && is_name(text_[end])) ++end;
      add(Token::kInt, decimal(text_.substr(at_ + 2, end - at_ - 2), base == 'x' ? 16 : base == 'o' ? 8 : 2));
      advance(end);
    } else if (is_digit(c)) {
      bool real = false;
      while (end < text_.size() && (is_digit(text_[end]) || text_[end] == '_')) ++end;
      if (end + 1 < text_.size() && text_[end] == '.' && is_digit(text_[end + 1])) {
        real = true;
        for (++end; end < text_.size() && is_digit(text_[end]);) ++end;
      }
      if (end < text_.size() && (text_[end] == 'e' || text_[end] == 'E')) {
        size_t digits = end + 1;
        if (digits < text_.size() && (text_[digits] == '+' || text_[digits] == '-')) ++digits;
        if (digits < text_.size() && is_digit(text_[digits])) {
          real = true;
          for (end = digits; end < text_.size() && is_digit(text_[end]);) ++end;
        }
      }
      std::string number = text_.substr(at_, end - at_);
      std::erase(number, '_');
      add(real ? Token::kFloat : Token::kInt, std::move(number));
      advance(end);
    } else if (is_name(c)) {
      while (end < text_.size() && is_name(text_[end])) ++end;
      add(Token::kName, text_.substr(at_, end - at_));
      advance(end);
    } else if (c == '"' || c == '\'') {
      quoted(c);
    } else {
      symbol(closing);
    }
  }

  // The decimal digits of a whole number of at most 63 bits in another base.
  std::string decimal(std::string digits, int base) const {
    std::erase(digits, '_');
    int64_t value = 0;
    const char* last = digits.data() + digits.size();
    const auto [end, error] = std::from_chars(digits.data(), last, value, base);
    if (error != std::errc() || end != last || value < 0)
      refuse(fmt::format("'{}' is not a number of base {} and 63 bits", digits, base));
    return std::to_string(value);
  }

  void symbol(std::string& closing) {
    static constexpr std::string_view kTwo[] = {"==", "!=", "<=", ">=", "**", "//"};
    const char c = text_[at_];
    for (const std::string_view two : kTwo) {
      if (text_.compare(at_, 2, two) == 0) {
        add(Token::kSymbol, std::string(two));
        return advance(at_ + 2);
      }
    }
    if (std::string_view("()[]{}<>+-*/%~|.,:=").find(c) == std::string_view::npos)
      refuse(fmt::format("unexpected character '{}'", c));
    if (c == '(' || c == '[' || c == '{') {
      closing += c == '(' ? ')' : c == '[' ? ']' : '}';
    } else if (c == ')' || c == ']' || c == '}') {
      if (closing.empty() || closing.back() != c) refuse(fmt::format("unexpected '{}'", c));
      closing.pop_back();
    }
    add(Token::kSymbol, std::string(1, c));
    advance(at_ + 1);
  }

  void quoted(char quote) {
    std::string out;
    size_t end = at_ + 1;
    for (; end < text_.size() && text_[end] != quote; ++end) {
      if (text_[end] != '\\' || end + 1 >= text_.size()) {
        out += text_[end];
        continue;
      }
      const char c = text_[++end];
      static constexpr std::string_view kFrom = "nrtbfva0", kTo{"\n\r\t\b\f\v\a\0", 8};
      const size_t known = kFrom.find(c);
      if (c == 'u' || c == 'x') {
        end = code_point(end, c == 'u' ? 4 : 2, out);
      } else if (known != std::string_view::npos) {
        out += kTo[known];
      } else if (c == '\\' || c == '\'' || c == '"') {
        out += c;
      } else if (c != '\n') {
        out += {'\\', c};
      }
    }
    if (end >= text_.size()) refuse("a string is not closed");
    add(Token::kString, std::move(out));
    advance(end + 1);
  }

  // \uXXXX or \xXX; returns the place of its last digit.
  size_t code_point(size_t at, size_t digits, std::string& out) const {
    uint32_t code = 0;
    for (size_t i = 1; i <= digits; ++i) {
      const char c = at + i < text_.size() ? text_[at + i] : '\0';
      const std::string_view hex = "0123456789abcdef";
      const size_t digit = hex.find(static_cast<char>(c >= 'A' && c <= 'F' ? c + 32 : c));
      if (c == '\0' || digit == std::string_view::npos) refuse("an escape in a string lacks digits");
      code = code * 16 + static_cast<uint32_t>(digit);
    }
    const auto put = [&](uint32_t byte) { out += static_cast<char>(byte); };
    if (code < 0x80) {
      put(code);
    } else if (code < 0x800) {
      put(0xc0U | code >> 6U);
      put(0x80U | (code & 0x3fU));
    } else {
      put(0xe0U | code >> 12U);
      put(0x80U | (code >> 6U & 0x3fU));
      put(0x80U | (code & 0x3fU));
    }
    return at + digits;
  }

  std::string text_;
  const std::string& source_;
  size_t at_ = 0;
  int line_ = 1;
  std::vector<Token> tokens_;
};

}  // namespace

std::vector<Token> lex(std::string_view text, const std::string& source) {
  constexpr size_t kMost = size_t{4} << 20;
  if (text.size() > kMost)
    fail(ErrorCode::kMalformedFile, "{}: {} bytes, a template has at most {}", source, text.size(), kMost);
  std::string clean;
  clean.reserve(text.size());
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\r') {
      clean += '\n';
      if (i + 1 < text.size() && text[i + 1] == '\n') ++i;
    } else {
      clean += text[i];
    }
  }
  if (clean.ends_with('\n')) clean.pop_back();
  return Lexer(std::move(clean), source).run();
}

}  // namespace nfloat::chat
