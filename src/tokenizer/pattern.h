// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_TOKENIZER_PATTERN_H_
#define NFLOAT_TOKENIZER_PATTERN_H_

#include <optional>
#include <string>
#include <string_view>

#include "tokenizer/json_at.h"
#include "tokenizer/regex.h"

namespace nfloat {

// What Replace and Split look for: {"String": "..."} literally, or {"Regex": "..."}.
class Pattern {
 public:
  explicit Pattern(const JsonAt& json);
  explicit Pattern(std::string literal) : literal_(std::move(literal)) {}

  // As Regex::find; a literal is never empty.
  bool find(std::string_view subject, size_t start, Match* match) const;

 private:
  std::string literal_;
  std::optional<Regex> regex_;
};

// Every match of `pattern` in `text` replaced by `content`. Throws kUnsupported when the result grows beyond
// any sensible text.
std::string replace_all(std::string_view text, const Pattern& pattern, std::string_view content);

}  // namespace nfloat

#endif  // NFLOAT_TOKENIZER_PATTERN_H_
