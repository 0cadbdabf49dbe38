// SPDX-License-Identifier: Apache-2.0
#include "grammar/regex.h"

#include <algorithm>

#include "base/fail.h"

namespace nfloat::grammar {
namespace {

constexpr int kDeepestGroup = 64;
constexpr int32_t kMostRepeats = 10000;
constexpr uint32_t kLast = 0x10ffff;

Characters normalized(Characters set) {
  std::sort(set.begin(), set.end());
  Characters result;
  for (const auto& [low, high] : set) {
    if (!result.empty() && low <= result.back().second + 1)
      result.back().second = std::max(result.back().second, high);
    else
      result.emplace_back(low, high);
  }
  return result;
}

Characters inverted(const Characters& set) {
  Characters result;
  uint32_t from = 0;
  for (const auto& [low, high] : normalized(set)) {
    if (low > from) result.emplace_back(from, low - 1);
    from = high + 1;
  }
  if (from <= kLast) result.emplace_back(from, kLast);
  return result;
}

class Parser {
 public:
  Parser(Builder& builder, std::string_view text, Spelling spelling, const std::string& place)
      : builder_(builder), text_(text), spelling_(spelling), place_(place) {}

  Piece parse(bool whole) {
    const bool begins = take('^');
    const Piece body = alternatives(0);
    if (at_ != text_.size()) bad("a parenthesis too many");
    if (whole || (begins && ended_)) return body;
    if (alternates_ && (begins || ended_)) unsupported("^ or $ beside alternatives without a group");
    std::vector<Piece> pieces;
    if (!begins) pieces.push_back(anything());
    pieces.push_back(body);
    if (!ended_) pieces.push_back(anything());
    return builder_.sequence(pieces);
  }

 private:
  [[noreturn]] void bad(const char* what) const {
    fail(ErrorCode::kInvalidArgument, "{}: the expression has {} at character {}", place_, what, at_);
  }
  [[noreturn]] void unsupported(const std::string& what) const {
    fail(ErrorCode::kUnsupported, "{}: the expression has {}, which is not supported", place_, what);
  }
  bool more() const noexcept { return at_ < text_.size(); }
  char peek() const noexcept { return more() ? text_[at_] : '\0'; }
  bool take(char c) {
    if (!more() || text_[at_] != c) return false;
    ++at_;
    return true;
  }
  Piece anything() { return builder_.repeat(builder_.characters(any_character(), spelling_), 0, -1); }

  Piece alternatives(int depth) {
    if (depth > kDeepestGroup) unsupported("groups in one another too deep");
    std::vector<Piece> all{sequence(depth)};
    while (take('|')) {
      if (depth == 0) alternates_ = true;
      all.push_back(sequence(depth));
    }
    return all.size() == 1 ? all[0] : builder_.either(all);
  }
  Piece sequence(int depth) {
    std::vector<Piece> pieces;
    while (more() && peek() != '|' && peek() != ')') {
      if (peek() == '$') {
        if (depth > 0 || at_ + 1 != text_.size()) unsupported("$ before its end");
        ++at_;
        ended_ = true;
        break;
      }
      pieces.push_back(repeated(depth));
    }
    return builder_.sequence(pieces);
  }
  Piece repeated(int depth) {
    const Piece one = atom(depth);
    int32_t least = 1, most = 1;
    if (take('*')) {
      least = 0;
      most = -1;
    } else if (take('+')) {
      most = -1;
    } else if (take('?')) {
      least = 0;
    } else if (peek() == '{') {
      ++at_;
      least = count();
      most = least;
      if (take(',')) most = peek() == '}' ? -1 : count();
      if (!take('}') || (most >= 0 && most < least)) bad("a repetition that makes no sense");
    } else {
      return one;
    }
    take('?');  // which of several matches is taken makes no difference
    if (more() && (peek() == '*' || peek() == '+' || peek() == '{')) bad("a repetition of a repetition");
    return builder_.repeat(one, least, most);
  }
  int32_t count() {
    int32_t value = 0;
    const size_t begin = at_;
    while (more() && peek() >= '0' && peek() <= '9' && value <= kMostRepeats)
      value = value * 10 + (text_[at_++] - '0');
    if (at_ == begin) bad("a repetition without a number");
    if (value > kMostRepeats) unsupported("a repetition of more than 10000");
    return value;
  }
  Piece atom(int depth) {
    switch (peek()) {
      case '(': {
        ++at_;
        if (take('?') && !take(':')) unsupported("a group with (?");
        const Piece body = alternatives(depth + 1);
        if (!take(')')) bad("a group without an end");
        return body;
      }
      case '[':
        ++at_;
        return builder_.characters(bracket(), spelling_);
      case '.':
        ++at_;
        return builder_.characters(inverted({{'\n', '\n'}, {'\r', '\r'}}), spelling_);
      case '\\':
        ++at_;
        return builder_.characters(escape(), spelling_);
      case '^':
        unsupported("^ behind its beginning");
      case '*':
      case '+':
      case '?':
      case '{':
        bad("a repetition of nothing");
      default: {
        const uint32_t c = character();
        return builder_.characters({{c, c}}, spelling_);
      }
    }
  }
  uint32_t character() {
    const auto byte = [&](size_t i) {
      return static_cast<uint32_t>(static_cast<unsigned char>(text_[at_ + i]));
    };
    const uint32_t first = byte(0);
    const size_t count = first < 0x80 ? 1 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
    if (at_ + count > text_.size()) bad("a character that is broken off");
    uint32_t c = count == 1 ? first : first & (0xffu >> (count + 1));
    for (size_t i = 1; i < count; ++i) c = c << 6 | (byte(i) & 0x3f);
    at_ += count;
    return c;
  }
  uint32_t hexadecimal(size_t length) {
    uint32_t value = 0;
    for (size_t i = 0; i < length; ++i, ++at_) {
      const char c = peek();
      const int digit = c >= '0' && c <= '9'   ? c - '0'
                        : c >= 'a' && c <= 'f' ? c - 'a' + 10
                        : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                               : -1;
      if (digit < 0) bad("an escape without its digits");
      value = value * 16 + static_cast<uint32_t>(digit);
    }
    return value;
  }
  Characters escape() {
    if (!more()) bad("a backslash without a character");
    static const Characters kDigits{{'0', '9'}}, kWord{{'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}},
        kSpace{{'\t', '\r'}, {' ', ' '}};
    const char c = peek();
    const auto one = [](uint32_t value) { return Characters{{value, value}}; };
    ++at_;
    switch (c) {
      case 'd':
        return kDigits;
      case 'D':
        return inverted(kDigits);
      case 'w':
        return kWord;
      case 'W':
        return inverted(kWord);
      case 's':
        return kSpace;
      case 'S':
        return inverted(kSpace);
      case 'n':
        return one('\n');
      case 'r':
        return one('\r');
      case 't':
        return one('\t');
      case 'f':
        return one('\f');
      case 'v':
        return one('\v');
      case 'x':
        return one(hexadecimal(2));
      case 'u':
        return one(hexadecimal(4));
      default:
        break;
    }
    if ((c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'))
      unsupported(std::string("\\") + c);
    --at_;
    return one(character());
  }
  Characters bracket() {
    const bool negative = take('^');
    Characters set;
    while (more() && peek() != ']') {
      const Characters low = take('\\') ? escape() : one_character();
      if (peek() == '-' && at_ + 1 < text_.size() && text_[at_ + 1] != ']') {
        ++at_;
        const Characters high = take('\\') ? escape() : one_character();
        if (low.size() != 1 || high.size() != 1 || low[0].first != low[0].second ||
            low[0].first > high[0].first)
          bad("a range that makes no sense");
        set.emplace_back(low[0].first, high[0].second);
      } else {
        set.insert(set.end(), low.begin(), low.end());
      }
    }
    if (!take(']')) bad("a class without an end");
    return negative ? inverted(set) : normalized(set);
  }
  Characters one_character() {
    const uint32_t c = character();
    return {{c, c}};
  }

  Builder& builder_;
  std::string_view text_;
  Spelling spelling_;
  const std::string& place_;
  size_t at_ = 0;
  bool ended_ = false, alternates_ = false;
};

}  // namespace

Piece regex(Builder& builder, std::string_view expression, Spelling spelling, bool whole,
            const std::string& place) {
  return Parser(builder, expression, spelling, place).parse(whole);
}

}  // namespace nfloat::grammar
