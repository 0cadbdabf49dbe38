// SPDX-License-Identifier: Apache-2.0
// Files beside a tokenizer: flags of the classes that make their own post-processor, added tokens.
#include <filesystem>
#include <fstream>

#include "support/paths.h"
#include "tokenizer_files.h"

namespace nfloat {
namespace {

namespace fs = std::filesystem;
using Ids = std::vector<int32_t>;

class Beside : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ =
        fs::path(::testing::TempDir()) /
        (std::string("nfloat-beside-") + ::testing::UnitTest::GetInstance()->current_test_info()->name());
    fs::create_directories(folder_);
    fs::copy_file(testing::source_path("/models/nfloat-tiny/tokenizer.json"), folder_ / "tokenizer.json",
                  fs::copy_options::overwrite_existing);
  }
  void TearDown() override { fs::remove_all(folder_); }
  Tokenizer with(const std::string& config, const std::string& added = "{}") {
    std::ofstream(folder_ / "tokenizer_config.json") << config;
    std::ofstream(folder_ / "added_tokens.json") << added;
    return Tokenizer::load(folder_.string());
  }
  fs::path folder_;
};

std::string flags(const std::string& name, const std::string& more) {
  return R"({"tokenizer_class": ")" + name +
         R"(", "bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>")" + more + "}";
}

TEST_F(Beside, LlamaMakesItsPostProcessorFromTheFlags) {
  const Tokenizer plain = with("{}");
  const Ids bare = plain.encode("the sea", false);
  const int32_t bos = *plain.token_id("<|begin_of_text|>"), eos = *plain.token_id("<|end_of_text|>");
  const auto around = [&](bool first, bool last) {
    Ids ids = bare;
    if (first) ids.insert(ids.begin(), bos);
    if (last) ids.push_back(eos);
    return ids;
  };
  for (const char* name : {"GemmaTokenizer", "CodeLlamaTokenizerFast", "LlamaTokenizer"}) {
    EXPECT_EQ(with(flags(name, R"(, "add_eos_token": true)")).encode("the sea"), around(true, true));
    EXPECT_EQ(with(flags(name, R"(, "add_bos_token": false, "add_eos_token": true)")).encode("the sea"),
              around(false, true));
  }
  // Other classes keep what tokenizer.json has.
  EXPECT_EQ(with(flags("PreTrainedTokenizerFast", R"(, "add_bos_token": false)")).encode("the sea"),
            plain.encode("the sea"));
}

TEST_F(Beside, SpecialTokensMapMakesTokensSpecial) {
  const Tokenizer plain = with("{}");
  int32_t id = 1000;  // a word of the vocabulary, which is no added token
  while (plain.is_special(id) || plain.token_text(id).find("\xC4") != std::string_view::npos) ++id;
  const std::string word(plain.token_text(id));
  std::ofstream(folder_ / "special_tokens_map.json")
      << R"({"bos_token": {"content": "<|end_of_text|>"}, "additional_special_tokens": [")" << word
      << R"(", "<not a token>"]})";
  const Tokenizer tokenizer = with("{}");
  EXPECT_FALSE(plain.is_special(id));
  EXPECT_TRUE(tokenizer.is_special(id)) << word;
  EXPECT_EQ(tokenizer.encode("x" + word + "x", false)[1], id);
  EXPECT_EQ(tokenizer.bos_id(), tokenizer.token_id("<|end_of_text|>"));
  // tokenizer_config.json says it again.
  EXPECT_EQ(with(flags("PreTrainedTokenizerFast", "")).bos_id(), plain.token_id("<|begin_of_text|>"));
}

TEST_F(Beside, TokensOfBothFilesAreAdded) {
  const Tokenizer tokenizer =
      with(R"({"added_tokens_decoder": {"5001": {"content": "<tool>", "special": true},
               "0": {"content": "<|begin_of_text|>", "special": true}}})",
           R"({"<mark>": 5000})");
  EXPECT_EQ(tokenizer.encode("<mark><tool>", false), (Ids{5000, 5001}));
  EXPECT_TRUE(tokenizer.is_special(5001));
  EXPECT_FALSE(tokenizer.is_special(5000));
  EXPECT_EQ(tokenizer.decode(Ids{5000, 5001}, true), "<mark>");
  EXPECT_EQ(tokenizer.vocab_size(), 5002);
  EXPECT_THROW(with(R"({"added_tokens_decoder": {"x": {"content": "<tool>"}}})"), Error);
}

}  // namespace
}  // namespace nfloat
