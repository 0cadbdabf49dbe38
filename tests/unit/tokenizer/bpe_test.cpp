// SPDX-License-Identifier: Apache-2.0
#include <random>
#include <set>

#include "reference/bpe.h"
#include "tokenizer/merges.h"
#include "tokenizer_files.h"

namespace nfloat {
namespace {

using Ids = std::vector<int32_t>;

// Random rules over a small alphabet, each made of tokens that exist; long enough words use the queue. With
// few rules, words end at visible spaces.
TEST(Bpe, MergesAsTheDefinitionDoes) {
  std::mt19937 random(7);
  const auto below = [&](size_t bound) { return static_cast<size_t>(random() % bound); };
  for (int round = 0; round < 120; ++round) {
    std::vector<std::string> tokens{"a", "b", "c", round % 2 == 0 ? "d" : "▁"};
    std::set<std::string> known(tokens.begin(), tokens.end());
    std::vector<std::pair<std::string, std::string>> rules;
    std::vector<std::string> merges;
    for (int i = round % 3 == 0 ? 40 : 6; i > 0; --i) {
      const std::string left = tokens[below(tokens.size())], right = tokens[below(tokens.size())];
      if (!known.insert(left + right).second) continue;
      tokens.push_back(left + right);
      rules.emplace_back(left, right);
      merges.push_back(left + " " + right);
    }
    const Tokenizer tokenizer = load(bpe_file(tokens, merges));
    for (const size_t length : {size_t{1}, size_t{2}, size_t{17}, size_t{40}, size_t{41}, size_t{300}}) {
      std::vector<std::string> symbols;
      std::string word;
      for (size_t i = 0; i < length; ++i) symbols.push_back(tokens[below(4)]), word += symbols.back();
      std::vector<std::string> found;
      for (const int32_t id : tokenizer.encode(word, false)) found.emplace_back(tokenizer.token_text(id));
      EXPECT_EQ(found, reference::byte_pair_encode(symbols, rules)) << word;
    }
  }
}

TEST(Bpe, CutsAMegabyteWordInBoundedTime) {
  const Tokenizer tokenizer = load(bpe_file({"a", "aa", "aaaa", "b"}, {"a a", "aa aa"}));
  const Ids ids = tokenizer.encode(std::string((1 << 20) + 3, 'a'), false);
  ASSERT_EQ(ids.size(), (1u << 18) + 2);
  EXPECT_EQ(ids.front(), 2);
  EXPECT_EQ(ids.back(), 0);
}

TEST(Bpe, TakesMergesAsPairsToo) {
  Json file = bpe_file({"a", " ", "a "}, {});
  file["model"]["merges"] = Json::array({Json::array({"a", " "})});
  EXPECT_EQ(load(file).encode("a a", false), (Ids{2, 0}));
}

TEST(Bpe, IgnoresMergesForWholeTokens) {
  Json file = bpe_file({"a", "b", "c", "ab", "bc", "abc"}, {"b c", "a b"});
  EXPECT_EQ(load(file).encode("abc", false), (Ids{0, 4}));
  file["model"]["ignore_merges"] = true;
  EXPECT_EQ(load(file).encode("abc", false), (Ids{5}));
}

TEST(Bpe, FusesUnknownCharactersOnlyWhenAsked) {
  Json file = bpe_file({"a", "?"}, {});
  EXPECT_EQ(load(file).encode("axya", false), (Ids{0, 0}));
  file["model"]["unk_token"] = "?";
  EXPECT_EQ(load(file).encode("axya", false), (Ids{0, 1, 1, 0}));
  file["model"]["fuse_unk"] = true;
  EXPECT_EQ(load(file).encode("axya", false), (Ids{0, 1, 0}));
}

TEST(Bpe, MarksWordEndsAndContinuations) {
  Json file = bpe_file({"a", "b</w>", "ab</w>", "b", "##b", "ab"}, {});
  file["model"]["end_of_word_suffix"] = "</w>";
  file["model"]["merges"] = {"a b</w>"};
  file["decoder"] = {{"type", "BPEDecoder"}, {"suffix", "</w>"}};
  file["pre_tokenizer"] = {{"type", "WhitespaceSplit"}};
  const Tokenizer tokenizer = load(file);
  EXPECT_EQ(tokenizer.encode("ab ab", false), (Ids{2, 2}));
  EXPECT_EQ(tokenizer.decode(Ids{2, 2}), "ab ab");

  file = bpe_file({"a", "##b", "ab"}, {"a ##b"});
  file["model"]["continuing_subword_prefix"] = "##";
  EXPECT_EQ(load(file).encode("ab", false), (Ids{2}));
}

TEST(Bpe, SpellsUnknownCharactersInBytes) {
  const Tokenizer tokenizer = load(llama_like_file());
  const Ids ids = tokenizer.encode("hello é\n");
  EXPECT_EQ(ids,
            (Ids{1, *tokenizer.token_id("▁hello"), *tokenizer.token_id("▁"), 3 + 0xC3, 3 + 0xA9, 3 + 0x0A}));
  EXPECT_EQ(tokenizer.decode(ids, true), "hello é\n");
  EXPECT_EQ(tokenizer.bos_id(), 1);
}

TEST(Merges, KeepTheLaterRankOfAPair) {
  Merges merges;
  merges.add(1, 2, {0, 10});
  merges.add(2, 3, {1, 11});
  merges.add(1, 2, {2, 10});
  std::vector<int32_t> tokens{1, 2, 3};
  merges.apply(tokens);
  EXPECT_EQ(tokens, (std::vector<int32_t>{1, 11}));
}

}  // namespace
}  // namespace nfloat
