// SPDX-License-Identifier: Apache-2.0
// llama.cpp's blocks of four bits by feedback, and what its importance matrices are made of.
#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "calibrate/gguf_coding.h"
#include "calibrate/matrix.h"
#include "engine/linear_id.h"
#include "nfloat/calibrate.h"
#include "nfloat/error.h"
#include "nfloat/imatrix.h"
#include "unit/model/random_model.h"

namespace nfloat {
namespace {

constexpr GgufType kTypes[] = {GgufType::kQ4_0, GgufType::kIQ4_NL};

std::vector<float> gaussian(int64_t count, uint32_t seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = .02f * normal(generator);
  return values;
}

// Of inputs with a part in common.
std::vector<float> hessian_of(int64_t columns) {
  std::vector<float> hessian(static_cast<size_t>(columns * columns));
  for (int64_t i = 0; i < columns; ++i)
    for (int64_t j = 0; j < columns; ++j)
      hessian[static_cast<size_t>(i * columns + j)] =
          static_cast<float>((1 + i % 3) * (1 + j % 3)) * (i == j ? 2.0f : 1.0f);
  return hessian;
}

std::vector<float> decoded(const QuantizedTensor& tensor) {
  std::vector<float> values(static_cast<size_t>(tensor.elements()));
  dequantize_blockwise(tensor, DType::kF32, std::as_writable_bytes(std::span(values)), 1);
  return values;
}

TEST(GgufCoding, BlocksAreThoseOfTheType) {
  std::vector<float> weights = gaussian(3 * 96, 1);
  std::fill_n(weights.begin() + 32, 32, 0.0f);
  for (const GgufType type : kTypes) {
    std::vector<std::byte> expected(weights.size() / 32 * 18);
    encode_gguf(type, weights, expected);
    const QuantizedTensor tensor = gguf_rounded(type, weights, 3, 96, 2);
    EXPECT_EQ(gguf_blocks(tensor, type), expected);
    std::vector<float> values(weights.size());
    decode_gguf(type, expected, values);
    const std::vector<float> own = decoded(tensor);
    for (size_t i = 0; i < own.size(); ++i) EXPECT_NEAR(own[i], values[i], 1e-6 * std::fabs(values[i]));
  }
  EXPECT_THROW(gguf_codebook(GgufType::kQ8_0), Error);
  EXPECT_THROW(gguf_codebook(GgufType::kMXFP4), Error);
  EXPECT_THROW(gguf_blocks(gguf_rounded(GgufType::kQ4_0, weights, 3, 96, 1), GgufType::kIQ4_NL), Error);
}

TEST(GgufCoding, FeedbackLosesLessThanRounding) {
  for (const GgufType type : kTypes)
    for (const auto& [rows, columns] : {std::pair{5, 96}, std::pair{64, 64}, std::pair{1, 32}}) {
      std::vector<float> weights = gaussian(rows * columns, 2);
      if (rows > 1) std::fill_n(weights.begin() + columns, 32, 0.0f);
      const HessianFactor factor = factorize(hessian_of(columns), columns, 100000, 1);
      CalibratedOptions options;
      options.codebook = gguf_codebook(type);
      options.block_size = kGgufBlock;
      options.gguf = type;
      options.threads = 1;
      const CalibratedMatrix one = calibrate_matrix(weights, rows, factor, options);
      EXPECT_FALSE(one.kept_plain);
      EXPECT_LT(one.loss, .8 * one.plain_loss);
      options.threads = 2;
      const CalibratedMatrix two = calibrate_matrix(weights, rows, factor, options);
      const std::vector<std::byte> blocks = gguf_blocks(one.tensor, type);
      EXPECT_EQ(blocks, gguf_blocks(two.tensor, type));
      // What llama.cpp reads is what was judged: scales are float16 already.
      std::vector<float> values(weights.size());
      decode_gguf(type, blocks, values);
      const std::vector<float> own = decoded(one.tensor);
      for (size_t i = 0; i < own.size(); ++i) EXPECT_NEAR(own[i], values[i], 1e-6 * std::fabs(values[i]));
    }
}

constexpr const char* kConfig = R"({"model_type": "llama", "hidden_size": 64, "intermediate_size": 96,
  "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 61,
  "max_position_embeddings": 200, "rms_norm_eps": 1e-5})";

class GgufModel : public ::testing::Test {
 protected:
  GgufModel() {
    std::mt19937 generator(3);
    for (auto& window : windows_)
      for (int i = 0; i < 50; ++i) window.push_back(static_cast<int32_t>(generator() % 61));
  }
  const testing::RandomModel random_{kConfig};
  std::vector<std::vector<int32_t>> windows_ = std::vector<std::vector<int32_t>>(20);
};

TEST_F(GgufModel, BothLevelsCodeEveryMatrixOfWholeBlocks) {
  const auto checkpoint = std::make_shared<const Checkpoint>(random_.folder.path());
  for (const GgufType type : kTypes)
    for (const int level : {1, 2, 3}) {
      CalibrationOptions options;
      options.gguf = type;
      options.level = level;
      options.threads = 2;
      if (level == 3) {
        EXPECT_THROW(calibrate(checkpoint, random_.config, windows_, {}, options), Error);
        continue;
      }
      const Calibration found = calibrate(checkpoint, random_.config, windows_, {}, options);
      EXPECT_EQ(found.tensors.size(), 14u);
      EXPECT_LT(found.report.loss, found.report.plain_loss);
      for (const auto& [name, tensor] : found.tensors)
        EXPECT_EQ(gguf_blocks(tensor, type).size(), static_cast<size_t>(tensor.elements() / 32 * 18)) << name;
    }
}

// The squares that an observer of a plain pass sees.
class Squares : public LinearObserver {
 public:
  void input(const LinearId&, const ActivationRows&) override {}
  void output(const LinearId& id, const ActivationRows& x, float*, int64_t) override {
    std::vector<double>& own = sums[{id.layer, id.role}];
    own.resize(static_cast<size_t>(x.width));
    for (int64_t row = 0; row < x.rows; ++row)
      for (int64_t j = 0; j < x.width; ++j)
        own[static_cast<size_t>(j)] += std::pow(double{x.data[row * x.stride + j]}, 2);
  }
  std::map<std::pair<int64_t, LinearRole>, std::vector<double>> sums;
};

TEST_F(GgufModel, ImportanceIsTheSumOfSquares) {
  const auto checkpoint = std::make_shared<const Checkpoint>(random_.folder.path());
  ImportanceOptions options;
  options.threads = 2;
  const ImportanceMatrix found = measure_importance(checkpoint, random_.config, windows_, options);
  EXPECT_EQ(found.tensors.size(), 14u);
  EXPECT_EQ(found.chunks, 20u);
  EXPECT_EQ(found.chunk_tokens, 50u);
  const auto squares = std::make_shared<Squares>();
  ModelOptions precise;
  precise.precision = Precision::kF32;
  const Model model = Model::load(random_.folder.path(), precise);
  SessionOptions session;
  session.adapters = squares;
  for (const std::vector<int32_t>& window : windows_) {
    Session one(model, session);
    one.prefill(window);
  }
  const std::pair<const char*, LinearRole> names[] = {{"attn_q", LinearRole::kQueryKeyValue},
                                                      {"attn_output", LinearRole::kOutput},
                                                      {"ffn_up", LinearRole::kGateUp},
                                                      {"ffn_down", LinearRole::kDown}};
  for (int64_t layer = 0; layer < 2; ++layer)
    for (const auto& [name, role] : names) {
      const ColumnImportance& own = found.tensors.at("blk." + std::to_string(layer) + "." + name + ".weight");
      const std::vector<double>& expected = squares->sums.at({layer, role});
      ASSERT_EQ(own.sums.size(), expected.size());
      EXPECT_EQ(own.counts, std::vector<float>{1000});
      for (size_t j = 0; j < expected.size(); ++j)
        EXPECT_NEAR(own.sums[j], expected[j], 1e-4 * expected[j] + 1e-9) << name << j;
    }
}

}  // namespace
}  // namespace nfloat
