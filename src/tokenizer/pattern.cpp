// SPDX-License-Identifier: Apache-2.0
#include "tokenizer/pattern.h"

#include "base/interruption.h"
#include "tokenizer/utf8.h"

namespace nfloat {

Pattern::Pattern(const JsonAt& json) {
  const JsonAt literal = json["String"];
  const JsonAt regex = json["Regex"];
  if (literal.present()) {
    literal_ = literal.text();
    if (literal_.empty()) literal.wrong("a text that is not empty");
  } else if (regex.present()) {
    regex_.emplace(regex.text(), regex.where());
  } else {
    json.unsupported("a pattern that is neither String nor Regex");
  }
}

bool Pattern::find(std::string_view subject, size_t start, Match* match) const {
  if (regex_) return regex_->find(subject, start, match);
  const size_t at = subject.find(literal_, start);
  if (at == std::string_view::npos) return false;
  *match = {at, at + literal_.size()};
  return true;
}

std::string replace_all(std::string_view text, const Pattern& pattern, std::string_view content) {
  constexpr size_t kMaxGrowth = 16;
  constexpr size_t kFreeBytes = 1 << 20;
  const size_t most = kFreeBytes + kMaxGrowth * text.size();
  std::string out;
  size_t copied = 0;
  Match match{};
  Looks looks;
  for (size_t at = 0; at <= text.size() && !text.empty() && pattern.find(text, at, &match);) {
    looks.step();
    const bool empty = match.begin == match.end;
    if (!empty || match.begin != copied || copied == 0) {  // no empty match right behind another match
      out.append(text, copied, match.begin - copied);
      out += content;
      copied = match.end;
    }
    // After an empty match the search goes on behind the next character.
    at = match.end;
    if (empty) at += at < text.size() ? next_char(text, at).bytes : 1;
    if (out.size() > most)
      fail(ErrorCode::kUnsupported, "replacing patterns turns {} bytes into more than {}", text.size(), most);
  }
  out.append(text, copied, text.size() - copied);
  return out;
}

}  // namespace nfloat
