// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include "random_model.h"

namespace nfloat {
namespace {

using testing::largest_difference;
using testing::RandomModel;
using testing::root_mean_square;

struct Case {
  const char* name;
  const char* config;
};

// Small models with everything that the families can have: head counts, odd sizes, biases, windows, RoPE
// kinds.
constexpr Case kCases[] = {
    {"LlamaGrouped",
     R"({"model_type": "llama", "hidden_size": 48, "intermediate_size": 72, "num_hidden_layers": 2,
      "num_attention_heads": 6, "num_key_value_heads": 2, "vocab_size": 61, "max_position_embeddings": 300,
      "rms_norm_eps": 1e-5, "tie_word_embeddings": true})"},
    {"LlamaOddSizes",
     R"({"model_type": "llama", "hidden_size": 50, "intermediate_size": 37, "num_hidden_layers": 1,
      "num_attention_heads": 5, "num_key_value_heads": 5, "vocab_size": 19, "max_position_embeddings": 300,
      "rms_norm_eps": 1e-6, "head_dim": 6})"},
    {"LlamaWideGroup",
     R"({"model_type": "llama", "hidden_size": 40, "intermediate_size": 24, "num_hidden_layers": 1,
      "num_attention_heads": 20, "num_key_value_heads": 1, "vocab_size": 33, "max_position_embeddings": 300,
      "head_dim": 18})"},
    {"LlamaBiases",
     R"({"model_type": "llama", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
      "num_attention_heads": 4, "vocab_size": 40, "max_position_embeddings": 300, "attention_bias": true,
      "mlp_bias": true})"},
    {"Llama3Rope",
     R"({"model_type": "llama", "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2,
      "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 40, "max_position_embeddings": 300,
      "rope_theta": 500.0, "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
      "high_freq_factor": 4.0, "original_max_position_embeddings": 64}})"},
    {"LinearRope",
     R"({"model_type": "llama", "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1,
      "num_attention_heads": 2, "vocab_size": 40, "max_position_embeddings": 300,
      "rope_scaling": {"type": "linear", "factor": 4.0}})"},
    {"DynamicRope",
     R"({"model_type": "llama", "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1,
      "num_attention_heads": 2, "vocab_size": 40, "max_position_embeddings": 150,
      "rope_scaling": {"rope_type": "dynamic", "factor": 2.0}})"},
    {"MistralWindow",
     R"({"model_type": "mistral", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
      "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 40, "max_position_embeddings": 300,
      "sliding_window": 23})"},
};

class Families : public ::testing::TestWithParam<Case> {};

constexpr int64_t kTokens = 300;  // more than two attention blocks

// Float32 throughout, so the difference is rounding: some 2^-24 a term, over sums of up to 300 terms and few
// layers.
constexpr double kTolerance = 2e-5;

// Takes the tokens in by pieces of the given sizes (the last repeats) and compares the logits of every token.
void expect_oracle(const RandomModel& random, const std::vector<size_t>& pieces, KvCacheType type,
                   double tolerance) {
  const std::vector<int32_t> tokens = random.tokens(kTokens);
  const auto expected = random.oracle(tokens, kTokens);
  const Model model = Model::load(random.folder.path());
  Session session(model, {.context = kTokens, .kv_cache = type, .precision = Precision::kF32});
  size_t done = 0, piece = 0;
  while (done < tokens.size()) {
    const size_t count = std::min(pieces[std::min(piece++, pieces.size() - 1)], tokens.size() - done);
    const BatchEntry entry{&session, std::span(tokens).subspan(done, count)};
    forward_batch({&entry, 1}, [&](size_t, int64_t index, std::span<const float> logits) {
      const auto& right = expected[done + static_cast<size_t>(index)];
      ASSERT_LE(largest_difference(logits, right), tolerance * root_mean_square(right))
          << "token " << done + static_cast<size_t>(index);
    });
    if (::testing::Test::HasFatalFailure()) return;
    done += count;
    ASSERT_LE(largest_difference(session.logits(), expected[done - 1]),
              tolerance * root_mean_square(expected[done - 1]));
  }
}

TEST_P(Families, OnePiece) {
  expect_oracle(RandomModel(GetParam().config), {kTokens}, KvCacheType::kF32, kTolerance);
}
TEST_P(Families, InPieces) {
  expect_oracle(RandomModel(GetParam().config), {1, 7, 130, 16, 33}, KvCacheType::kF32, kTolerance);
}
TEST_P(Families, TokenByToken) {
  expect_oracle(RandomModel(GetParam().config), {1}, KvCacheType::kF32, kTolerance);
}

// A half has 11 bits, an int8 of one head's row 7: errors of keys and values average over positions.
TEST_P(Families, HalfCache) {
  expect_oracle(RandomModel(GetParam().config), {9, 1, 77}, KvCacheType::kF16, 3e-2);
}
TEST_P(Families, ByteCache) {
  expect_oracle(RandomModel(GetParam().config), {9, 1, 77}, KvCacheType::kInt8, 0.25);
}

// A whole layer that the configuration does not count is no other part of the model.
TEST(CheckedTensors, LayersThatTheConfigurationDoesNotCountAreNamed) {
  const RandomModel random(kCases[0].config);
  const std::string path = random.folder.path() + "/config.json";
  std::string config = testing::read_file(path);
  const std::string two = "\"num_hidden_layers\": 2";
  ASSERT_NE(config.find(two), std::string::npos);
  config.replace(config.find(two), two.size(), "\"num_hidden_layers\": 1");
  testing::write_file(path, config);
  EXPECT_NFLOAT_ERROR(Model::load(random.folder.path()), ErrorCode::kMalformedFile,
                      "llama of 1 layer does not have: model.layers.1.");
}

void add_vector(const RandomModel& random, const std::string& name) {
  const std::string file = random.folder.path() + "/model.safetensors";
  std::vector<testing::RawTensor> tensors;
  {
    const Checkpoint checkpoint(file);
    for (const TensorInfo& info : checkpoint.tensors()) {
      const auto bytes = checkpoint.view(info).bytes;
      tensors.push_back({info.name, "F32", info.shape.dims(),
                         std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size())});
    }
  }
  tensors.push_back({name, "F32", {4}, std::string(4 * sizeof(float), '\0')});
  testing::write_safetensors(file, tensors);
}

// What stands beside a weight that the model reads belongs to the computation; what stands in modules of its
// own (heads for other tasks), buffers and the copy of a tied head do not.
TEST(CheckedTensors, PartsOfModulesThatAreReadAreNamedWhenTheyAreNot) {
  ASSERT_FALSE(RandomModel(kCases[1].config).config.tied_head);
  for (const char* name : {"lm_head.bias", "model.norm.bias", "model.embed_tokens.scale"}) {
    const RandomModel random(kCases[1].config);
    add_vector(random, name);
    EXPECT_NFLOAT_ERROR(Model::load(random.folder.path()), ErrorCode::kMalformedFile,
                        std::string("does not have: ") + name);
  }
  const RandomModel tied(kCases[0].config);
  ASSERT_TRUE(tied.config.tied_head);
  for (const char* name : {"lm_head.weight", "score.weight", "model.rotary_emb.inv_freq"})
    add_vector(tied, name);
  Model::load(tied.folder.path());
  add_vector(tied, "lm_head.bias");
  EXPECT_NFLOAT_ERROR(Model::load(tied.folder.path()), ErrorCode::kMalformedFile,
                      "does not have: lm_head.bias");
}

INSTANTIATE_TEST_SUITE_P(Every, Families, ::testing::ValuesIn(kCases),
                         [](const auto& one) { return std::string(one.param.name); });

}  // namespace
}  // namespace nfloat
