// SPDX-License-Identifier: Apache-2.0
#include "tokenizer/pre_tokenizer.h"

#include "tokenizer_files.h"

namespace nfloat {
namespace {

using Texts = std::vector<std::string>;

Texts pieces_of(const Json& json, const std::string& text, bool at_start = true) {
  const std::string source = "test.json";
  Pieces pieces;
  pieces.text = text;
  pieces.ranges = {{0, text.size()}};
  pieces.at_text_start = at_start;
  make_pre_tokenizer(JsonAt(json, source), false)->run(pieces);
  Texts texts;
  for (const Match& range : pieces.ranges) texts.emplace_back(pieces.at(range));
  return texts;
}

Json split(const std::string& behavior, bool invert = false) {
  return {{"type", "Split"}, {"pattern", {{"String", "-"}}}, {"behavior", behavior}, {"invert", invert}};
}

// The examples of the Rust library's documentation of SplitDelimiterBehavior.
TEST(PreTokenizer, SplitsWithEveryBehaviour) {
  const std::string text = "the-final--countdown";
  EXPECT_EQ(pieces_of(split("Removed"), text), (Texts{"the", "final", "countdown"}));
  EXPECT_EQ(pieces_of(split("Isolated"), text), (Texts{"the", "-", "final", "-", "-", "countdown"}));
  EXPECT_EQ(pieces_of(split("MergedWithPrevious"), text), (Texts{"the-", "final-", "-", "countdown"}));
  EXPECT_EQ(pieces_of(split("MergedWithNext"), text), (Texts{"the", "-final", "-", "-countdown"}));
  EXPECT_EQ(pieces_of(split("Contiguous"), text), (Texts{"the", "-", "final", "--", "countdown"}));
  EXPECT_EQ(pieces_of(split("merged_with_next"), "-a"), (Texts{"-a"}));
  EXPECT_EQ(pieces_of(split("Removed", true), text), (Texts{"-", "-", "-"}));
}

TEST(PreTokenizer, SplitsAtEmptyMatchesToo) {
  Json json = split("Isolated");
  json["pattern"] = {{"Regex", "(?=\\d)"}};
  EXPECT_EQ(pieces_of(json, "a1é2"), (Texts{"a", "1é", "2"}));
}

TEST(PreTokenizer, CutsWordsAsGpt2Does) {
  const Json json = {{"type", "ByteLevel"}, {"add_prefix_space", false}};
  EXPECT_EQ(pieces_of(json, "I'll  go, 12!\n"), (Texts{"I", "'ll", "Ġ", "Ġgo", ",", "Ġ12", "!", "Ċ"}));
  EXPECT_EQ(pieces_of({{"type", "ByteLevel"}, {"add_prefix_space", true}}, "a é"), (Texts{"Ġa", "ĠÃ©"}));
  EXPECT_EQ(pieces_of({{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}}, "a b"),
            (Texts{"aĠb"}));
}

TEST(PreTokenizer, KnowsAllNumbers) {
  EXPECT_EQ(pieces_of({{"type", "Digits"}, {"individual_digits", true}}, "a12½٣"),
            (Texts{"a", "1", "2", "½", "٣"}));
  EXPECT_EQ(pieces_of({{"type", "Digits"}, {"individual_digits", false}}, "a12½b"), (Texts{"a", "12½", "b"}));
}

TEST(PreTokenizer, MarksSpaces) {
  Json json = {{"type", "Metaspace"}, {"replacement", "▁"}, {"prepend_scheme", "always"}};
  EXPECT_EQ(pieces_of(json, "a b  c"), (Texts{"▁a", "▁b", "▁", "▁c"}));
  EXPECT_EQ(pieces_of(json, " a"), (Texts{"▁a"}));
  json["split"] = false;
  EXPECT_EQ(pieces_of(json, "a b"), (Texts{"▁a▁b"}));
  json["prepend_scheme"] = "first";
  EXPECT_EQ(pieces_of(json, "a"), (Texts{"▁a"}));
  EXPECT_EQ(pieces_of(json, "a", false), (Texts{"a"}));
  json["prepend_scheme"] = "never";
  EXPECT_EQ(pieces_of(json, "a b"), (Texts{"a▁b"}));
  EXPECT_EQ(pieces_of({{"type", "Metaspace"}, {"replacement", "▁"}, {"add_prefix_space", false}}, "a"),
            (Texts{"a"}));
}

TEST(PreTokenizer, CutsAtSpacesAndPunctuation) {
  EXPECT_EQ(pieces_of({{"type", "Whitespace"}}, "Hey man!! ok"), (Texts{"Hey", "man", "!!", "ok"}));
  EXPECT_EQ(pieces_of({{"type", "Whitespace"}}, "a\u200Db\u0301ⓐ🅰_1☺x"),
            (Texts{"a\u200Db\u0301ⓐ🅰_1", "☺", "x"}));
  EXPECT_EQ(pieces_of({{"type", "WhitespaceSplit"}}, " a\u3000b! "), (Texts{"a", "b!"}));
  EXPECT_EQ(pieces_of({{"type", "Punctuation"}}, "a!?。b"), (Texts{"a", "!", "?", "。", "b"}));
  EXPECT_EQ(pieces_of({{"type", "Punctuation"}, {"behavior", "Contiguous"}}, "a!?b"),
            (Texts{"a", "!?", "b"}));
  EXPECT_EQ(pieces_of({{"type", "BertPreTokenizer"}}, "a b!c"), (Texts{"a", "b", "!", "c"}));
  EXPECT_EQ(pieces_of({{"type", "CharDelimiterSplit"}, {"delimiter", "é"}}, "aébé"), (Texts{"a", "b"}));
  EXPECT_EQ(pieces_of({{"type", "FixedLength"}, {"length", 2}}, "aébcd"), (Texts{"aé", "bc", "d"}));
}

// The examples of the Rust library, and what its code does where they are silent.
TEST(PreTokenizer, CutsWhereTheScriptChanges) {
  const Json json = {{"type", "UnicodeScripts"}};
  EXPECT_EQ(pieces_of(json, "どこで生れ。Yes"), (Texts{"どこで生れ", "。", "Yes"}));
  EXPECT_EQ(pieces_of(json, "Apples are りんご 林檎"), (Texts{"Apples are ", "りんご 林檎"}));
  EXPECT_EQ(pieces_of(json, "  a1 мир!ー"), (Texts{"a", "1 ", "мир", "!", "ー"}));
  EXPECT_EQ(pieces_of(json, "e\u0301"), (Texts{"e", "\u0301"}));  // a mark's script is Inherited
  EXPECT_EQ(pieces_of(json, "ꓐ 𐊀"), (Texts{"ꓐ ", "𐊀"}));
}

TEST(PreTokenizer, RunsInSequence) {
  const Json json = {
      {"type", "Sequence"},
      {"pretokenizers", {{{"type", "WhitespaceSplit"}}, {{"type", "Digits"}, {"individual_digits", true}}}}};
  EXPECT_EQ(pieces_of(json, "ab 12"), (Texts{"ab", "1", "2"}));
}

}  // namespace
}  // namespace nfloat
