// SPDX-License-Identifier: Apache-2.0
#include <map>
#include <vector>

#include "base/fail.h"
#include "tokenizer/regex.h"

namespace nfloat {
namespace {

// Oniguruma's shorthands as members of a set; PCRE2's own differ at U+180E, U+0085 and for \w, \h.
const std::map<char, std::string_view> kMembers = {
    {'s', R"(\x09-\x0d\x{85}\p{Z})"},
    {'w', R"(\p{Alphabetic}\p{M}\p{Nd}\p{Pc})"},
    {'d', R"(\p{Nd})"},
    {'h', "0-9A-Fa-f"},
};

class Rewriter {
 public:
  Rewriter(std::string_view in, const std::string& where) : in_(in), where_(where) {}

  std::string run() {
    while (at_ < in_.size()) step();
    return std::move(out_);
  }

 private:
  static constexpr size_t kNoAtom = static_cast<size_t>(-1);

  char peek(size_t ahead = 0) const { return at_ + ahead < in_.size() ? in_[at_ + ahead] : '\0'; }

  void step() {
    const char c = peek();
    switch (c) {
      case '\\':
        atom_ = out_.size();
        escape(false);
        return;
      case '[':
        atom_ = out_.size();
        ++at_;
        set(0);
        return;
      case '(':
        groups_.push_back(out_.size());
        out_ += c;
        ++at_;
        atom_ = kNoAtom;
        return;
      case ')':
        if (!groups_.empty()) {
          atom_ = groups_.back();
          groups_.pop_back();
        }
        out_ += c;
        ++at_;
        return;
      case '{':
        counted_repeat();
        return;
      case '*':
      case '+':
      case '?':
        out_ += c;
        ++at_;
        return;
      default:
        atom_ = c == '|' ? kNoAtom : out_.size();
        out_ += c;
        ++at_;
        while (at_ < in_.size() && (static_cast<unsigned char>(in_[at_]) & 0xC0) == 0x80) out_ += in_[at_++];
    }
  }

  // In Ruby's syntax "{1,3}+" repeats the repeat; in PCRE2 it would be possessive.
  void counted_repeat() {
    const size_t close = in_.find('}', at_);
    const std::string_view body =
        close == std::string_view::npos ? std::string_view() : in_.substr(at_ + 1, close - at_ - 1);
    const bool counts = !body.empty() && body.find_first_not_of("0123456789,") == std::string_view::npos;
    if (!counts || atom_ == kNoAtom) {
      atom_ = out_.size();
      out_ += R"(\{)";
      ++at_;
      return;
    }
    out_ += '{';
    if (body.front() == ',') out_ += '0';
    out_ += body;
    out_ += '}';
    at_ = close + 1;
    if (peek() != '+') return;
    out_.insert(atom_, "(?:");
    out_ += ")+";
    ++at_;
  }

  // One escape, at the backslash. Inside a set the shorthands are members, outside they are sets.
  void escape(bool in_set) {
    const char c = peek(1);
    const bool lower = kMembers.contains(c);
    const bool upper = c >= 'A' && c <= 'Z' && kMembers.contains(static_cast<char>(c - 'A' + 'a'));
    if (lower || (upper && !in_set)) {
      const std::string_view members = kMembers.at(lower ? c : static_cast<char>(c - 'A' + 'a'));
      if (!in_set) out_ += upper ? "[^" : "[";
      out_ += members;
      if (!in_set) out_ += ']';
      at_ += 2;
    } else if (upper && c == 'D') {
      out_ += R"(\P{Nd})";
      at_ += 2;
    } else if (upper && c != 'S') {
      unsupported("\\W and \\H inside a character set");
    } else if (c == 'u' && at_ + 6 <= in_.size()) {
      out_ += R"(\x{)";
      out_ += in_.substr(at_ + 2, 4);
      out_ += '}';
      at_ += 6;
    } else if ((c == 'p' || c == 'P' || c == 'x') && peek(2) == '{') {
      const size_t close = in_.find('}', at_);
      const size_t end = close == std::string_view::npos ? in_.size() : close + 1;
      out_ += in_.substr(at_, end - at_);
      at_ = end;
    } else {
      out_ += '\\';
      ++at_;
      if (at_ < in_.size()) out_ += in_[at_++];
    }
  }

  // A set after its opening bracket. A plain set inside a set is a union: its members are written out.
  void set(int depth) {
    constexpr int kMaxSetDepth = 16;
    if (depth > kMaxSetDepth) unsupported("character sets nested this deep");
    if (depth == 0) out_ += '[';
    if (peek() == '^') {
      if (depth > 0) unsupported("a negated character set inside a character set");
      out_ += '^';
      ++at_;
    }
    for (bool first = true;; first = false) {
      if (at_ >= in_.size()) unsupported("a character set without its closing bracket");
      const char c = peek();
      if (c == ']' && !first) break;
      if (c == '\\') {
        escape(true);
      } else if (c == '&' && peek(1) == '&') {
        unsupported("an intersection of character sets");
      } else if (c == '[' && peek(1) == ':') {
        const size_t close = in_.find(":]", at_);
        if (close == std::string_view::npos) unsupported("a POSIX class without its end");
        out_ += in_.substr(at_, close + 2 - at_);
        at_ = close + 2;
      } else if (c == '[') {
        ++at_;
        set(depth + 1);
      } else {
        if (c == ']') out_ += '\\';
        out_ += c;
        ++at_;
      }
    }
    ++at_;
    if (depth == 0) out_ += ']';
  }

  [[noreturn]] void unsupported(std::string_view what) const {
    fail(ErrorCode::kUnsupported, "{}: the expression has {}, which is not supported (at byte {})", where_,
         what, at_);
  }

  std::string_view in_;
  const std::string& where_;
  size_t at_ = 0;
  std::string out_;
  size_t atom_ = kNoAtom;  // where the last atom begins in out_
  std::vector<size_t> groups_;
};

}  // namespace

std::string oniguruma_to_pcre2(std::string_view expression, const std::string& where) {
  return Rewriter(expression, where).run();
}

}  // namespace nfloat
