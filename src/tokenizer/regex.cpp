// SPDX-License-Identifier: Apache-2.0
#include "tokenizer/regex.h"

#include "base/fail.h"

namespace nfloat {
namespace {

Expression compiled(std::string_view expression, const std::string& where) {
  const std::string pattern = oniguruma_to_pcre2(expression, where);
  try {
    return {pattern, Expression::Text::kUtf8};
  } catch (const ExpressionError& error) {
    fail(ErrorCode::kUnsupported, "{}: the expression does not compile: {} of {}", where, error.what(),
         pattern.substr(0, 200));
  }
}

}  // namespace

Regex::Regex(std::string_view expression, const std::string& where)
    : where_(where), expression_(compiled(expression, where)) {}

bool Regex::find(std::string_view subject, size_t start, Match* match) const {
  try {
    return expression_.find(subject, start, match);
  } catch (const ExpressionError& error) {
    fail(ErrorCode::kUnsupported, "{}: matching the expression at byte {} of a text of {} failed: {}", where_,
         start, subject.size(), error.what());
  }
}

}  // namespace nfloat
