// SPDX-License-Identifier: Apache-2.0
#include "tokenizer/normalizer.h"

#include "tokenizer/unicode_forms.h"
#include "tokenizer_files.h"

namespace nfloat {
namespace {

std::string normalized(const Json& json, std::string text) {
  const std::string source = "test.json";
  make_normalizer(JsonAt(json, source))->apply(text);
  return text;
}

Json kind(const std::string& type) {
  return {{"type", type}};
}

// Values from the Unicode standard annex 15 and NormalizationTest.txt.
TEST(Normalizer, WritesUnicodeNormalForms) {
  EXPECT_EQ(normalized(kind("NFC"), "e\u0301 A\u030A"), "\u00E9 \u00C5");
  EXPECT_EQ(normalized(kind("NFD"), "\u00E9\u1E9B\u0323"), "e\u0301\u017F\u0323\u0307");
  EXPECT_EQ(normalized(kind("NFC"), "\u1E9B\u0323"), "\u1E9B\u0323");
  EXPECT_EQ(normalized(kind("NFKC"), "\u1E9B\u0323 \uFB01 \u2460"), "\u1E69 fi 1");
  EXPECT_EQ(normalized(kind("NFKD"), "\u1E9B\u0323"), "s\u0323\u0307");
  EXPECT_EQ(normalized(kind("NFC"), "\u212B \u2126 \u0958"), "\u00C5 \u03A9 \u0915\u093C");
  EXPECT_EQ(normalized(kind("NFC"), "\u1112\u1161\u11AB"), "\uD55C");
  EXPECT_EQ(normalized(kind("NFD"), "\uD55C"), "\u1112\u1161\u11AB");
  EXPECT_EQ(normalized(kind("NFC"), "q\u0307\u0323"), "q\u0323\u0307");
  EXPECT_EQ(normalized(kind("NFKC"), "plain"), "plain");
}

TEST(Normalizer, SortsLongRunsOfMarksInBoundedTime) {
  std::string text = "a";
  for (int i = 0; i < 200'000; ++i) text += "\u0301\u0323";
  normalize(text, NormalForm::kNfd);
  EXPECT_EQ(text.substr(0, 5), "a\u0323\u0323");
  EXPECT_EQ(text.substr(text.size() - 2), "\u0301");
}

TEST(Normalizer, ChangesCharacters) {
  EXPECT_EQ(normalized(kind("Lowercase"), "ÀB\u0130Σ"), "àbi\u0307σ");
  EXPECT_EQ(normalized(kind("StripAccents"), "e\u0301x"), "ex");
  EXPECT_EQ(normalized({{"type", "Strip"}, {"strip_left", true}, {"strip_right", true}}, " \u3000a b\n"),
            "a b");
  EXPECT_EQ(normalized({{"type", "Strip"}, {"strip_left", true}, {"strip_right", false}}, "  a "), "a ");
  EXPECT_EQ(normalized({{"type", "Strip"}, {"strip_left", true}, {"strip_right", true}}, "   "), "");
  EXPECT_EQ(normalized({{"type", "Prepend"}, {"prepend", "_"}}, "a"), "_a");
  EXPECT_EQ(normalized({{"type", "Prepend"}, {"prepend", "_"}}, ""), "");
  EXPECT_EQ(normalized(kind("Nmt"), "a\u0001\tb\u200Bc"), "a b c");
  EXPECT_EQ(normalized(kind("ByteLevel"), "a é"), "aĠÃ©");
  EXPECT_EQ(normalized(kind("BertNormalizer"), "Éa\t中\u0000"), "ea  中 ");
  EXPECT_EQ(normalized(kind("BertNormalizer"), "a\u000Bb\u0085c\u00A0d\r"), "abc d ");
}

TEST(Normalizer, ReplacesPatterns) {
  const auto replace = [](const Json& pattern, const char* content) {
    return Json{{"type", "Replace"}, {"pattern", pattern}, {"content", content}};
  };
  EXPECT_EQ(normalized(replace({{"String", ".a"}}, "-"), ".aba.a"), "-ba-");
  EXPECT_EQ(normalized(replace({{"Regex", " {2,}"}}, " "), "a   b c"), "a b c");
  EXPECT_EQ(normalized(replace({{"Regex", "x*"}}, "-"), "axb"), "-a-b-");
  EXPECT_EQ(normalized({{"type", "Sequence"}, {"normalizers", {kind("NFD"), kind("StripAccents")}}}, "é"),
            "e");
}

TEST(Normalizer, RefusesToGrowWithoutBound) {
  Json twice = {{"type", "Replace"}, {"pattern", {{"String", "a"}}}, {"content", "aaaaaaaaaaaaaaaa"}};
  Json sequence = {{"type", "Sequence"}, {"normalizers", Json::array()}};
  for (int i = 0; i < 30; ++i) sequence["normalizers"].push_back(twice);
  EXPECT_THROW(normalized(sequence, std::string(1000, 'a')), Error);
}

}  // namespace
}  // namespace nfloat
