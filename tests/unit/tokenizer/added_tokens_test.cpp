// SPDX-License-Identifier: Apache-2.0
#include "tokenizer_files.h"

namespace nfloat {
namespace {

using Ids = std::vector<int32_t>;

// Tokens a, b, space (ids 0 to 2) and one added token "<x>" (id 3) with these properties.
Tokenizer with_added(const Json& properties) {
  Json file = bpe_file({"a", "b", " "}, {});
  Json token = added_token(3, "<x>");
  for (const auto& [name, value] : properties.items()) token[name] = value;
  file["added_tokens"].push_back(token);
  return load(file);
}

TEST(AddedTokens, AreCutOutFirst) {
  const Tokenizer tokenizer = with_added({});
  EXPECT_EQ(tokenizer.encode("a<x>b<x><x>", false), (Ids{0, 3, 1, 3, 3}));
  EXPECT_EQ(tokenizer.encode(" <x> ", false), (Ids{2, 3, 2}));
  EXPECT_EQ(tokenizer.vocab_size(), 4);
  EXPECT_EQ(tokenizer.token_id("<x>"), 3);
}

TEST(AddedTokens, TakeSpacesAlong) {
  EXPECT_EQ(with_added({{"lstrip", true}}).encode("a  <x> b", false), (Ids{0, 3, 2, 1}));
  EXPECT_EQ(with_added({{"rstrip", true}}).encode("a <x>  b", false), (Ids{0, 2, 3, 1}));
  EXPECT_EQ(with_added({{"lstrip", true}, {"rstrip", true}}).encode(" <x> <x> ", false), (Ids{3, 3}));
}

TEST(AddedTokens, StandAloneWhenSingleWords) {
  const Tokenizer tokenizer = with_added({{"content", "ab"}, {"single_word", true}});
  EXPECT_EQ(tokenizer.encode("ab ab", false), (Ids{3, 2, 3}));
  EXPECT_EQ(tokenizer.encode("aba", false), (Ids{0, 1, 0}));
  EXPECT_EQ(tokenizer.encode("bab", false), (Ids{1, 0, 1}));
}

TEST(AddedTokens, TheLongestWins) {
  Json file = bpe_file({"a"}, {});
  file["added_tokens"] = {added_token(1, "<x"), added_token(2, "<x>"), added_token(3, "<x>>>")};
  EXPECT_EQ(load(file).encode("<x<x><x>>a<x>>>", false), (Ids{1, 2, 2, 0, 3}));  // a lone ">" has no token
}

TEST(AddedTokens, CanBeSoughtInTheNormalizedText) {
  Json file = bpe_file({"x"}, {});
  file["normalizer"] = {{"type", "Lowercase"}};
  Json token = added_token(1, "YES");
  token["normalized"] = true;
  token["special"] = false;
  file["added_tokens"] = {token, added_token(2, "NO")};
  EXPECT_EQ(load(file).encode("XyesYeSno", false), (Ids{0, 1, 1}));
  EXPECT_EQ(load(file).encode("XNO", false), (Ids{0, 2}));
}

TEST(AddedTokens, KeepTheIdThatTheModelGivesThem) {
  Json file = bpe_file({"a", "<x>"}, {});
  file["added_tokens"] = Json::array({added_token(7, "<x>")});
  EXPECT_EQ(load(file).encode("a<x>", false), (Ids{0, 1}));
}

TEST(PostProcessor, PutsItsTokensAround) {
  Json file = bpe_file({"a", "[CLS]", "[SEP]"}, {});
  file["post_processor"] = {{"type", "RobertaProcessing"}, {"cls", {"[CLS]", 1}}, {"sep", {"[SEP]", 2}}};
  EXPECT_EQ(load(file).encode("aa"), (Ids{1, 0, 0, 2}));
  EXPECT_EQ(load(file).encode("aa", false), (Ids{0, 0}));
  file["post_processor"] = {{"type", "Sequence"},
                            {"processors", {{{"type", "ByteLevel"}}, file["post_processor"]}}};
  EXPECT_EQ(load(file).encode(""), (Ids{1, 2}));
}

}  // namespace
}  // namespace nfloat
