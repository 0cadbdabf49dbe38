// SPDX-License-Identifier: Apache-2.0
// A GGUF file seen as the folder that its model would be.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <fstream>
#include <vector>

#include "nfloat/checkpoint.h"
#include "nfloat/error.h"
#include "unit/gguf/gguf_bytes.h"

namespace nfloat {
namespace {

using testing::GgufBytes;

constexpr uint32_t kF32 = 0, kQ4_0 = 2, kIq4Xs = 23;

std::string write_model(const GgufBytes& made) {
  std::string path = ::testing::TempDir() + "nfloat-weights-" + std::to_string(::getpid()) + ".gguf";
  std::ofstream(path, std::ios::binary) << made.bytes;
  return path;
}

GgufBytes start_llama(uint64_t tensors, uint32_t width = 32) {
  GgufBytes made;
  made.start(tensors, 9).string("general.architecture", "llama");
  made.integer("llama.embedding_length", width).integer("llama.feed_forward_length", 8);
  made.integer("llama.block_count", 1).integer("llama.attention.head_count", 2);
  made.integer("llama.attention.head_count_kv", 1).integer("llama.attention.key_length", 4);
  made.integer("llama.context_length", 64).integer("llama.vocab_size", 3);
  return made;
}

TEST(GgufWeights, NamesOrderAndConfiguration) {
  GgufBytes made = start_llama(2);
  made.tensor("token_embd.weight", {32, 3}, kF32, 0);
  made.tensor("blk.0.attn_q.weight", {32, 8}, kF32, 384);
  made.data(0);
  for (int i = 0; i < 3 * 32; ++i) made.put(static_cast<float>(i));
  for (int i = 0; i < 8 * 32; ++i) made.put(static_cast<float>(i));
  const std::string path = write_model(made);
  const Checkpoint checkpoint(path);
  EXPECT_TRUE(checkpoint.is_gguf());
  EXPECT_NE(checkpoint.text_file("config.json").find("\"num_key_value_heads\": 1"), std::string::npos);
  EXPECT_NE(checkpoint.text_file("config.json").find("\"head_dim\": 4"), std::string::npos);
  // Heads of 4 rows: stored neighbours 0 and 1 are a pair, which the folder keeps half a head apart.
  const TensorView query = checkpoint.view("model.layers.0.self_attn.q_proj.weight");
  const int64_t stored[] = {0, 2, 1, 3, 4, 6, 5, 7};
  for (int64_t row = 0; row < 8; ++row) {
    float first;
    std::memcpy(&first, query.bytes.data() + row * 32 * 4, sizeof first);
    EXPECT_EQ(first, static_cast<float>(32 * stored[row])) << row;
  }
  const TensorView table = checkpoint.view("model.embed_tokens.weight");
  EXPECT_EQ(table.shape, (Shape{3, 32}));
  std::remove(path.c_str());
}

TEST(GgufWeights, CodesGoAsTheyAre) {
  GgufBytes made = start_llama(2);
  made.tensor("token_embd.weight", {32, 3}, kF32, 0);
  made.tensor("blk.0.ffn_up.weight", {32, 8}, kQ4_0, 384);
  made.data(384);
  for (int row = 0; row < 8; ++row) {
    made.put<uint16_t>(0x3800);  // 0.5
    for (int i = 0; i < 16; ++i) made.put(static_cast<uint8_t>((i + row) % 16 | (15 - i) << 4));
  }
  const std::string path = write_model(made);
  const std::string name = "model.layers.0.mlp.up_proj.weight";
  const Checkpoint decoded(path, {.decoded = DType::kF32});
  const TensorView plain = decoded.view(name);
  std::vector<float> values(8 * 32);
  ASSERT_EQ(plain.bytes.size(), values.size() * 4);
  std::memcpy(values.data(), plain.bytes.data(), plain.bytes.size());
  EXPECT_EQ(values[0], -4.0f);
  EXPECT_EQ(values[16], 3.5f);
  EXPECT_EQ(values[33], -3.0f);

  const Checkpoint packed(path, {.decoded = DType::kBF16, .packed = true});
  ASSERT_TRUE(packed.is_quantized(name));
  EXPECT_EQ(packed.weight_shape(name), (Shape{8, 32}));
  EXPECT_FALSE(packed.is_quantized("model.embed_tokens.weight"));
  const QuantizedView view = packed.quantized(name);
  const auto* levels = static_cast<const float*>(view.quant_map.data());
  const auto* scales = static_cast<const float*>(view.absmax.data());
  const auto* codes = static_cast<const uint8_t*>(view.codes.data());
  for (size_t i = 0; i < values.size(); ++i) {
    const uint8_t pair = codes[i / 2];
    EXPECT_EQ(levels[i % 2 == 0 ? pair >> 4 : pair & 15] * scales[i / 32], values[i]) << i;
  }
  std::remove(path.c_str());
}

// Eight scales of a super-block become those of its blocks: the packed values are the decoded ones.
TEST(GgufWeights, CodesOfSuperBlocksGoAsTheyAre) {
  GgufBytes made = start_llama(2, 512);
  made.tensor("token_embd.weight", {512, 3}, kF32, 0);
  made.tensor("blk.0.ffn_up.weight", {512, 8}, kIq4Xs, 6144);
  made.data(6144);
  for (int block = 0; block < 16; ++block) {
    made.put<uint16_t>(static_cast<uint16_t>(0x3800 + block * 64));
    for (int i = 0; i < 134; ++i) made.put(static_cast<uint8_t>(i * 37 + block * 11));
  }
  const std::string path = write_model(made);
  const std::string name = "model.layers.0.mlp.up_proj.weight";
  const Checkpoint decoded(path, {.decoded = DType::kF32});
  const TensorView plain = decoded.view(name);
  std::vector<float> values(8 * 512);
  ASSERT_EQ(plain.bytes.size(), values.size() * 4);
  std::memcpy(values.data(), plain.bytes.data(), plain.bytes.size());
  const Checkpoint packed(path, {.decoded = DType::kBF16, .packed = true});
  ASSERT_TRUE(packed.is_quantized(name));
  const QuantizedView view = packed.quantized(name);
  EXPECT_EQ(view.block_size, 32);
  const auto* levels = static_cast<const float*>(view.quant_map.data());
  const auto* scales = static_cast<const float*>(view.absmax.data());
  const auto* codes = static_cast<const uint8_t*>(view.codes.data());
  for (size_t i = 0; i < values.size(); ++i) {
    const uint8_t pair = codes[i / 2];
    EXPECT_EQ(levels[i % 2 == 0 ? pair >> 4 : pair & 15] * scales[i / 32], values[i]) << i;
  }
  std::remove(path.c_str());
}

TEST(GgufWeights, ForeignNamesAndHeadsThatDoNotDivide) {
  const auto error_of = [](const GgufBytes& made) {
    const std::string path = write_model(made);
    std::string text = "no error";
    try {
      const Checkpoint checkpoint(path);
    } catch (const Error& error) {
      text = error.what();
    }
    std::remove(path.c_str());
    return text;
  };
  GgufBytes foreign = start_llama(2);
  foreign.tensor("token_embd.weight", {32, 3}, kF32, 0).tensor("blk.0.ssm_in.weight", {32}, kF32, 384);
  EXPECT_NE(error_of(foreign.data(512)).find("'blk.0.ssm_in.weight' has no"), std::string::npos);
  GgufBytes uneven = start_llama(2);
  uneven.tensor("token_embd.weight", {32, 3}, kF32, 0).tensor("blk.0.attn_q.weight", {32, 7}, kF32, 384);
  EXPECT_NE(error_of(uneven.data(384 + 32 * 7 * 4)).find("2 heads do not divide"), std::string::npos);
}

}  // namespace
}  // namespace nfloat
