// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_TOKENIZER_REGEX_H_
#define NFLOAT_TOKENIZER_REGEX_H_

#include <cstddef>
#include <string>
#include <string_view>

#include "base/expression.h"

namespace nfloat {

// A compiled expression of a tokenizer file. The files are written for Oniguruma's Ruby syntax and its
// Unicode classes; the expression is rewritten for PCRE2, which compiles it to machine code where it can.
class Regex {
 public:
  // Throws kUnsupported naming `where` when the expression does not compile.
  Regex(std::string_view expression, const std::string& where);

  // The first match at or after `start` of `subject`, which must be valid UTF-8. False when there is none.
  // Throws kUnsupported when the match takes more than a bounded number of steps.
  bool find(std::string_view subject, size_t start, Match* match) const;

 private:
  std::string where_;
  Expression expression_;
};

// The expression as PCRE2 (UTF, UCP, MULTILINE) understands it. Throws kUnsupported for what has no
// equivalent: intersections and negated sets inside a character set.
std::string oniguruma_to_pcre2(std::string_view expression, const std::string& where);

}  // namespace nfloat

#endif  // NFLOAT_TOKENIZER_REGEX_H_
