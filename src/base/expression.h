// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_BASE_EXPRESSION_H_
#define NFLOAT_BASE_EXPRESSION_H_

#include <cstddef>
#include <memory>
#include <stdexcept>
#include <string_view>

namespace nfloat {

struct Match {
  size_t begin;
  size_t end;
};

// Why an expression was not compiled, or gave up; the caller adds whose expression it is.
struct ExpressionError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// A regular expression in PCRE2's syntax that matches within a bounded number of steps. Copies share what was
// compiled; any number of threads may use one object.
class Expression {
 public:
  enum class Text {
    kBytes,  // any bytes; classes are ASCII's
    kUtf8,   // valid UTF-8; classes are Unicode's, ^ and $ match at lines
  };
  // Throws ExpressionError with the place in the pattern.
  Expression(std::string_view pattern, Text text);

  // The first match at or after `start`; false when there is none. Throws ExpressionError when that takes
  // more than 200000 steps and 32 for each byte.
  bool find(std::string_view subject, size_t start, Match* match) const;
  // Whether a match begins with the subject.
  bool matches_beginning(std::string_view subject) const;

 private:
  bool run(std::string_view subject, size_t start, bool anchored, Match* match) const;

  std::shared_ptr<void> code_;
};

}  // namespace nfloat

#endif  // NFLOAT_BASE_EXPRESSION_H_
