// SPDX-License-Identifier: Apache-2.0
#include "tokenizer/regex.h"

#include "tokenizer_files.h"

namespace nfloat {
namespace {

std::string first_match(const std::string& expression, const std::string& subject) {
  Match match{};
  if (!Regex(expression, "test").find(subject, 0, &match)) return "(none)";
  return subject.substr(match.begin, match.end - match.begin);
}

TEST(Regex, HasTheClassesOfTheFormatsOwnLibrary) {
  EXPECT_EQ(first_match("\\s+", "a\u0085\u00A0\u3000\t b"), "\u0085\u00A0\u3000\t ");
  EXPECT_EQ(first_match("\\s", "\u180E\uFEFF\u200B"), "(none)");
  EXPECT_EQ(first_match("[^\\s]+", "\u180Ea b"), "\u180Ea");
  EXPECT_EQ(first_match("\\w+", "-a\u0301_٣-"), "a\u0301_٣");
  EXPECT_EQ(first_match("\\d+", "½٣3"), "٣3");
  EXPECT_EQ(first_match("\\h+", "xBe9"), "Be9");
  EXPECT_EQ(first_match("\\p{Han}+", "a漢字"), "漢字");
  EXPECT_EQ(first_match("[\\u4e00-\\u9fa5]+", "a漢"), "漢");
  EXPECT_EQ(first_match("\\S+", "\u0085ab c"), "ab");
}

TEST(Regex, HasTheSyntaxOfTheFormatsOwnLibrary) {
  EXPECT_EQ(first_match("[a[bc]]+", "xabcd"), "abc");
  EXPECT_EQ(first_match(" ?[^(\\s|[.,!?])]+", "ab|c"), "ab");  // Bloom's
  EXPECT_EQ(first_match("\\p{N}{1,3}+", "12345"), "12345");    // a repeat of a repeat, not possessive
  EXPECT_EQ(first_match("(a|b){1,2}+c", "ababc"), "ababc");
  EXPECT_EQ(first_match("x{,2}", "xxx"), "xx");
  EXPECT_EQ(first_match("a{b", "a{b"), "a{b");
  EXPECT_EQ(first_match("(?i:'s|'LL)", "'S"), "'S");
  EXPECT_EQ(first_match("b$", "ab\nc"), "b");
  EXPECT_EQ(first_match("[]a]+", "]a"), "]a");
}

TEST(Regex, RefusesWhatItCannotSay) {
  for (const char* expression : {"[a&&b]", "[a[^b]]", "[a", "(", "[\\W]", "a**(?<=b*)", "\\C"}) {
    try {
      Regex(expression, "place");
      ADD_FAILURE() << expression;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kUnsupported) << error.what();
      EXPECT_NE(std::string(error.what()).find("place"), std::string::npos) << error.what();
    }
  }
}

TEST(Regex, StopsExpressionsThatExplode) {
  const Regex regex("(a+)+$", "place");
  Match match{};
  try {
    regex.find(std::string(60, 'a') + "b", 0, &match);
    ADD_FAILURE() << "found a match";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kUnsupported);
    EXPECT_NE(std::string(error.what()).find("limit"), std::string::npos) << error.what();
  }
}

TEST(Regex, MatchesAMegabyteRun) {
  const std::string spaces(1 << 20, ' ');
  const Regex regex("\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+", "place");
  Match match{};
  ASSERT_TRUE(regex.find(spaces + "x", 0, &match));
  EXPECT_EQ(match.end, spaces.size() - 1);
}

}  // namespace
}  // namespace nfloat
