// SPDX-License-Identifier: Apache-2.0
// The embedded model's tokenizer against ids that an independent implementation computed.
#include "support/paths.h"
#include "tokenizer_files.h"

namespace nfloat {
namespace {

using Ids = std::vector<int32_t>;

const Tokenizer& embedded() {
  static const Tokenizer tokenizer = Tokenizer::load(testing::source_path("/models/nfloat-tiny"));
  return tokenizer;
}

TEST(EmbeddedTokenizer, GivesTheIdsOfAnIndependentImplementation) {
  const Json golden =
      Json::parse(read_file(testing::source_path("/tests/golden/tokenizer/nfloat_tiny.json")));
  ASSERT_GE(golden["cases"].size(), 80u);
  for (const Json& entry : golden["cases"]) {
    const auto text = entry[0].get<std::string>();
    const auto expected = entry[1].get<Ids>();
    EXPECT_EQ(embedded().encode(text, false), expected) << text;
    EXPECT_EQ(embedded().decode(expected), text);
    Ids with_bos{0};
    with_bos.insert(with_bos.end(), expected.begin(), expected.end());
    EXPECT_EQ(embedded().encode(text), with_bos) << text;
  }
}

TEST(EmbeddedTokenizer, KnowsItsTokens) {
  EXPECT_EQ(embedded().vocab_size(), 4096);
  EXPECT_EQ(embedded().bos_id(), 0);
  EXPECT_EQ(embedded().eos_id(), 1);
  EXPECT_TRUE(embedded().is_special(0));
  EXPECT_FALSE(embedded().is_special(2));
  EXPECT_FALSE(embedded().is_special(-1));
  EXPECT_EQ(embedded().token_text(0), "<|begin_of_text|>");
  EXPECT_EQ(embedded().token_id("Ġthe"), embedded().encode(" the", false).at(0));
  EXPECT_EQ(embedded().token_bytes(embedded().encode(" the", false).at(0)), " the");
  EXPECT_EQ(embedded().token_id("no such token"), std::nullopt);
}

TEST(EmbeddedTokenizer, RoundTripsItsStories) {
  const std::string text = read_file(testing::source_path("/models/nfloat-tiny/stories.txt"));
  ASSERT_GT(text.size(), 10'000u);
  const Ids ids = embedded().encode(text, false);
  EXPECT_LT(ids.size(), text.size() / 3);
  EXPECT_EQ(embedded().decode(ids), text);
}

TEST(EmbeddedTokenizer, KeepsSpecialTokensOutWhenAsked) {
  const std::string text = "a<|end_of_text|>b";
  const Ids parsed = embedded().encode(text, EncodeOptions{false, true});
  EXPECT_EQ(parsed.at(1), 1);
  EXPECT_EQ(embedded().decode(parsed, true), "ab");
  EXPECT_EQ(embedded().decode(parsed, false), text);
  const Ids plain = embedded().encode(text, EncodeOptions{false, false});
  EXPECT_EQ(std::count(plain.begin(), plain.end(), 1), 0);
  EXPECT_EQ(embedded().decode(plain, true), text);
}

TEST(EmbeddedTokenizer, ReplacesBytesThatAreNoText) {
  EXPECT_EQ(embedded().encode("a\xFFz\xE2\x82", false), embedded().encode("a\uFFFDz\uFFFD", false));
  EXPECT_EQ(embedded().decode(embedded().encode(std::string("\xC0\xAF", 2), false)), "\uFFFD\uFFFD");
}

TEST(EmbeddedTokenizer, NamesIdsOutsideTheVocabulary) {
  for (const int32_t id : {-1, 4096, INT32_MAX, INT32_MIN}) {
    try {
      embedded().decode(Ids{5, id});
      ADD_FAILURE() << id << " was decoded";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
      EXPECT_NE(std::string(error.what()).find(std::to_string(id)), std::string::npos) << error.what();
    }
  }
}

TEST(Tokenizer, NamesAFolderWithoutOne) {
  EXPECT_THROW(Tokenizer::load(testing::source_path("/tests")), Error);
  EXPECT_THROW(Tokenizer::load(testing::source_path("/nowhere")), Error);
}

}  // namespace
}  // namespace nfloat
