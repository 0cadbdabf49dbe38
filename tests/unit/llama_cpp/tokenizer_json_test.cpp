// SPDX-License-Identifier: Apache-2.0
#include "llama_cpp/tokenizer_json.h"

#include <gtest/gtest.h>

#include <functional>
#include <vector>

#include "llama_cpp/pre_tokenizers.h"
#include "llama_cpp/tokenizer.h"
#include "nfloat/error.h"
#include "support/files.h"

namespace nfloat {
namespace {

// Each kind of pre-tokenizer, written to tokenizer.json and read again.
TEST(TokenizerJson, PreTokenizersComeBack) {
  for (const char* name : {"gpt-2", "smollm", "llama-bpe", "qwen2", "gpt-4o", "tekken", "deepseek-v3",
                           "deepseek-llm", "falcon", "viking"}) {
    const GgufPreTokenizer& kind = *find_gguf_pre_tokenizer(name);
    std::vector<std::string> expressions;
    bool digits = false;
    ASSERT_TRUE(read_pre_tokenizer(pre_tokenizer_json(kind), expressions, digits)) << name;
    const GgufPreTokenizer* found = match_gguf_pre_tokenizer(expressions, digits, kind.whole_words);
    ASSERT_NE(found, nullptr) << name;
    EXPECT_EQ(found->name, name);
  }
}

TEST(TokenizerJson, OtherStepsAreNotTaken) {
  std::vector<std::string> expressions;
  bool digits = false;
  EXPECT_FALSE(read_pre_tokenizer(Json{{"type", "Whitespace"}}, expressions, digits));
  Json steps = pre_tokenizer_json(*find_gguf_pre_tokenizer("qwen2"));
  steps["pretokenizers"][0]["behavior"] = "Removed";
  EXPECT_FALSE(read_pre_tokenizer(steps, expressions, digits));
}

TEST(TokenizerJson, WordsKeepTheirPlaces) {
  const Json json = Json::parse(
      R"({"model": {"type": "BPE", "ignore_merges": false, "vocab": {"a": 0, "b": 1, "ab": 2, "far": 9},
                    "merges": ["a b"]},
          "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "use_regex": true},
          "added_tokens": [{"id": 3, "content": "<s>", "special": true}, {"id": 4, "content": "x▁y"}]})");
  GgufWords words(6);
  std::string why;
  ASSERT_TRUE(read_tokenizer_json(json, words, why)) << why;
  EXPECT_EQ(words.pre, "gpt-2");
  EXPECT_EQ(words.texts, (std::vector<std::string>{"a", "b", "ab", "<s>", "x y", "[PAD5]"}));
  EXPECT_EQ(words.types[2], GgufTokenType::kNormal);
  EXPECT_EQ(words.types[3], GgufTokenType::kControl);
  EXPECT_EQ(words.types[4], GgufTokenType::kUserDefined);
  EXPECT_EQ(words.types[5], GgufTokenType::kUnused);
  EXPECT_EQ(words.merges, std::vector<std::string>{"a b"});
  Json unigram = json;
  unigram["model"]["type"] = "Unigram";
  EXPECT_FALSE(read_tokenizer_json(unigram, words, why));
  EXPECT_NE(why.find("Unigram"), std::string::npos);
}

class GgufTokenizer : public testing::TemporaryFolder {
 protected:
  // tokenizer.json of a file with the words "a" and "b", or the sentence why there is none.
  std::string json_or_error(const std::function<void(GgufMetadata&)>& edit) const {
    GgufMetadata metadata;
    metadata.text("tokenizer.ggml.model", "gpt2");
    metadata.texts("tokenizer.ggml.tokens", std::vector<std::string>{"a", "b"});
    edit(metadata);
    GgufWriter writer(path("model.gguf"), metadata, {{"t", GgufType::kF32, Shape({1})}});
    writer.write(0, 0, std::vector<std::byte>(sizeof(float)));
    writer.commit();
    try {
      return huggingface_tokenizer(GgufFile(path("model.gguf"))).at("tokenizer.json");
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kMalformedFile) << error.what();
      return error.what();
    }
  }
};

TEST_F(GgufTokenizer, MergesMayBeNoneButNotMissing) {
  const std::string none =
      json_or_error([](GgufMetadata& m) { m.texts("tokenizer.ggml.merges", std::vector<std::string>()); });
  EXPECT_NE(none.find("\"merges\":[]"), std::string::npos) << none;
  const std::string missing = json_or_error([](GgufMetadata&) {});
  EXPECT_NE(missing.find("model.gguf: no \"tokenizer.ggml.merges\""), std::string::npos) << missing;
}

TEST(TokenizerModel, PiecesThenAddedTokens) {
  GgufPieces pieces;
  pieces.texts = {"<unk>", "▁a"};
  pieces.types = {GgufTokenType::kUnknown, GgufTokenType::kNormal};
  pieces.scores = {0, -1};
  const Json config = Json::parse(
      R"({"added_tokens_decoder": {"1": {"content": "no", "special": true}, "2": {"content": "<end>", "special": true}},
          "bos_token": {"content": "<s>"}, "eos_token": "</s>"})");
  const GgufWords words = words_of_pieces(pieces, config, 4);
  EXPECT_EQ(words.kind, "llama");
  EXPECT_EQ(words.texts, (std::vector<std::string>{"<unk>", "▁a", "<end>", "[PAD3]"}));
  EXPECT_EQ(words.scores[1], -1);
  EXPECT_EQ(special_text(config, "bos_token"), "<s>");
  EXPECT_EQ(special_text(config, "eos_token"), "</s>");
  EXPECT_EQ(special_text(config, "unk_token"), "");
}

}  // namespace
}  // namespace nfloat
