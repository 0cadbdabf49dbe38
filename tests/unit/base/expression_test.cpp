// SPDX-License-Identifier: Apache-2.0
#include "base/expression.h"

#include <gtest/gtest.h>

#include <string>

namespace nfloat {
namespace {

constexpr auto kBytes = Expression::Text::kBytes;

std::string first_match(const std::string& pattern, const std::string& subject,
                        Expression::Text text = kBytes) {
  Match match{};
  if (!Expression(pattern, text).find(subject, 0, &match)) return "(none)";
  return subject.substr(match.begin, match.end - match.begin);
}

TEST(Expression, FindsTheFirstMatch) {
  EXPECT_EQ(first_match(R"(layers\.(1|2)\d*\.)", "model.layers.0.x.layers.17.y"), "layers.17.");
  EXPECT_EQ(first_match("^lm_head$", "lm_head"), "lm_head");
  EXPECT_EQ(first_match("^lm_head$", "lm_head\n"), "(none)");
  EXPECT_EQ(first_match("a*", "baa"), "");
  EXPECT_EQ(first_match("x", ""), "(none)");
  Match match{};
  EXPECT_TRUE(Expression("a", kBytes).find("abca", 1, &match));
  EXPECT_EQ(match.begin, 3U);
}

TEST(Expression, MatchesTheBeginningOnly) {
  const Expression expression("model\\.(embed|norm)", kBytes);
  EXPECT_TRUE(expression.matches_beginning("model.norm.weight"));
  EXPECT_FALSE(expression.matches_beginning("language.model.norm"));
}

TEST(Expression, TakesBytesThatAreNotUtf8) {
  EXPECT_EQ(first_match("b.", "a\xff\xfe b\xff"), "b\xff");
  EXPECT_EQ(first_match(R"(\w+)", "\xc3\xa9"), "(none)");
  EXPECT_EQ(first_match(R"(\w+)", "\xc3\xa9", Expression::Text::kUtf8), "\xc3\xa9");
}

TEST(Expression, SaysWhereItIsWrong) {
  for (const char* pattern : {"(", "a**b)", "[z-a]", "a{2,1}", "(*UTF)x", "\\C"}) {
    try {
      Expression(pattern, kBytes);
      ADD_FAILURE() << pattern;
    } catch (const ExpressionError& error) {
      EXPECT_NE(std::string(error.what()).find("(at "), std::string::npos) << error.what();
    }
  }
}

TEST(Expression, GivesUpAfterABoundedNumberOfSteps) {
  const Expression expression("(a+)+$", kBytes);
  Match match{};
  EXPECT_THROW(expression.find(std::string(60, 'a') + "b", 0, &match), ExpressionError);
  EXPECT_THROW(expression.matches_beginning(std::string(60, 'a') + "b"), ExpressionError);
  EXPECT_TRUE(expression.find(std::string(60, 'a'), 0, &match));
}

}  // namespace
}  // namespace nfloat
