// SPDX-License-Identifier: Apache-2.0
// What each weight costs alone, and block sizes chosen by it.
#include <gtest/gtest.h>

#include <filesystem>
#include <random>

#include "evaluate/distribution.h"
#include "nfloat/budget.h"
#include "nfloat/calibrate.h"
#include "nfloat/error.h"
#include "unit/model/random_model.h"

namespace nfloat {
namespace {

using testing::RandomModel;

constexpr const char* kDense = R"({"model_type": "qwen3", "hidden_size": 128, "intermediate_size": 192,
  "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32,
  "vocab_size": 61, "max_position_embeddings": 200, "use_sliding_window": false, "sliding_window": null,
  "attention_bias": false})";
constexpr const char* kMixture = R"({"model_type": "mixtral", "hidden_size": 64, "intermediate_size": 64,
  "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": 61,
  "num_local_experts": 4, "num_experts_per_tok": 2, "max_position_embeddings": 200})";

class Budget : public ::testing::Test {
 protected:
  Budget() {
    std::mt19937 generator(3);
    for (auto& window : windows_)
      for (int i = 0; i < 40; ++i) window.push_back(static_cast<int32_t>(generator() % 61));
    quantize_.quantize.double_quantization = true;
    quantize_.quantize.scale = ScaleMethod::kSigned;
  }

  std::vector<WeightSensitivity> measure(const RandomModel& model, int threads = 2) const {
    SensitivityOptions options;
    options.threads = threads;
    return measure_sensitivity(std::make_shared<const Checkpoint>(model.folder.path()), model.config,
                               windows_, quantize_, options);
  }
  std::vector<float> logits(const RandomModel& random, const std::string& changed) const {
    ModelOptions options;
    options.precision = Precision::kF32;
    options.transform = [&](const std::string& name, std::span<float> weights, int64_t rows,
                            int64_t columns) {
      if (name != changed) return;
      const QuantizedTensor tensor = quantize_blockwise(
          {DType::kF32, {rows, columns}, std::as_bytes(weights)}, make_codebook("nf4"), quantize_.quantize);
      dequantize_blockwise(tensor, DType::kF32, std::as_writable_bytes(weights), 1);
    };
    const Model model = Model::load(random.folder.path(), options);
    std::vector<float> all;
    for (const std::vector<int32_t>& window : windows_) {
      const std::vector<std::span<const int32_t>> one{window};
      forward_sequences(model, one, {}, [&](size_t, int64_t, std::span<const float> row) {
        all.insert(all.end(), row.begin(), row.end());
      });
    }
    return all;
  }

  std::vector<std::vector<int32_t>> windows_ = std::vector<std::vector<int32_t>>(4);
  QuantizeCheckpointOptions quantize_;
};

TEST_F(Budget, MeasuresWhatAWeightCostsAlone) {
  const RandomModel random{kDense};
  const std::vector<WeightSensitivity> weights = measure(random);
  ASSERT_EQ(weights.size(), 14u);
  const std::vector<float> expected = logits(random, "");
  constexpr size_t kVocabulary = 61;
  for (const WeightSensitivity& weight : weights) {
    ASSERT_EQ(weight.names.size(), 1u);
    ASSERT_EQ(weight.choices.size(), 4u) << weight.names[0];
    const std::vector<float> found = logits(random, weight.names[0]);
    double sum = 0;
    for (size_t at = 0; at < found.size(); at += kVocabulary)
      sum += kl_divergence(std::span(expected).subspan(at, kVocabulary),
                           std::span(found).subspan(at, kVocabulary));
    const double mean = sum * kVocabulary / static_cast<double>(found.size());
    EXPECT_EQ(weight.choices[1].block_size, 64);
    EXPECT_NEAR(weight.choices[1].divergence, mean, 1e-3 * mean) << weight.names[0];
    EXPECT_GT(weight.choices[0].divergence, weight.choices[1].divergence);
    EXPECT_GT(weight.choices[1].divergence, weight.choices[2].divergence);
    EXPECT_EQ(weight.choices[3].divergence, 0);
    for (size_t i = 1; i < 4; ++i) EXPECT_GT(weight.choices[i].bytes, weight.choices[i - 1].bytes);
  }
  const std::vector<WeightSensitivity> again = measure(random, 1);
  for (size_t i = 0; i < weights.size(); ++i)
    for (size_t j = 0; j < 4; ++j)
      EXPECT_EQ(again[i].choices[j].divergence, weights[i].choices[j].divergence);
}

TEST_F(Budget, ExpertsOfALayerAreOneChoice) {
  const RandomModel random{kMixture};
  size_t experts = 0;
  for (const WeightSensitivity& weight : measure(random)) {
    if (weight.names[0].find("experts") == std::string::npos) continue;
    EXPECT_EQ(weight.names.size(), 4u);
    ++experts;
  }
  EXPECT_EQ(experts, 6u);
}

TEST_F(Budget, KeepsToEveryLimit) {
  const RandomModel random{kDense};
  const Checkpoint checkpoint(random.folder.path());
  const std::vector<WeightSensitivity> weights = measure(random);
  const auto choose = [&](const QuantizationLimit& limit) {
    return choose_block_sizes(checkpoint, weights, quantize_, limit);
  };
  double before = 1e30;
  for (const double bits : {4.65, 4.7, 4.8, 6.0, 12.0, 33.0}) {
    const BlockSizes found = choose({.bits = bits});
    EXPECT_LE(found.bits, bits);
    EXPECT_LE(found.divergence, before);
    before = found.divergence;
  }
  EXPECT_EQ(before, 0);  // all plain
  const double most = choose({.bits = 4.65}).divergence;
  double bits = 0;
  for (const double share : {1.1, .9, .5, .1}) {
    const BlockSizes found = choose({.divergence = share * most});
    EXPECT_LE(found.divergence, share * most);
    EXPECT_GE(found.bits, bits);
    bits = found.bits;
  }
  EXPECT_THROW(choose({.bits = 4.0}), Error);
  EXPECT_THROW(choose({.bytes = 1000}), Error);
  EXPECT_THROW(choose({}), Error);
  EXPECT_THROW(choose({.bytes = 100000000, .bits = 5}), Error);
}

// Against all combinations.
TEST_F(Budget, IsNearTheBestOfAll) {
  const RandomModel random{kDense};
  const Checkpoint checkpoint(random.folder.path());
  const std::vector<WeightSensitivity> all = measure(random);
  const std::span<const WeightSensitivity> few = std::span(all).first(5);
  int64_t parameters = 0;
  for (const WeightSensitivity& weight : few)
    parameters += checkpoint.find(weight.names[0])->shape.elements();
  for (const double bits : {4.9, 8.0, 14.0, 20.0}) {
    const auto most = static_cast<uint64_t>(bits * static_cast<double>(parameters) / 8);
    double best = 1e30;
    for (size_t code = 0; code < 1024; ++code) {
      uint64_t bytes = 0;
      double divergence = 0;
      for (size_t i = 0; i < few.size(); ++i) {
        const BlockChoice& choice = few[i].choices[code >> (2 * i) & 3];
        bytes += choice.bytes;
        divergence += choice.divergence;
      }
      if (bytes <= most) best = std::min(best, divergence);
    }
    const BlockSizes found = choose_block_sizes(checkpoint, few, quantize_, {.bits = bits});
    EXPECT_GE(found.divergence, best * (1 - 1e-9)) << bits;
    EXPECT_LE(found.divergence, 1.4 * best) << bits;
  }
}

TEST_F(Budget, TheFileHasWhatWasChosen) {
  const RandomModel random{kDense};
  const auto checkpoint = std::make_shared<const Checkpoint>(random.folder.path());
  QuantizeCheckpointOptions own = quantize_;
  const std::vector<WeightSensitivity> weights = measure(random);
  const QuantizationPlan small = plan_quantization(*checkpoint, quantize_);
  const uint64_t most = small.bytes_after + 60000;
  own.block_sizes = choose_block_sizes(*checkpoint, weights, quantize_, {.bytes = most}).sizes;
  CalibrationOptions options;
  options.threads = 2;
  const Calibration calibration = calibrate(checkpoint, random.config, windows_, own, options);
  own.prepared = [&](const std::string& name) {
    const auto found = calibration.tensors.find(name);
    const QuantizedTensor* tensor = found == calibration.tensors.end() ? nullptr : &found->second;
    return std::shared_ptr<const QuantizedTensor>(std::shared_ptr<void>(), tensor);
  };
  const testing::OwnFolder place;
  const std::string output = place.path() + "/out";
  const ConvertResult result = quantize_checkpoint(*checkpoint, output, own);
  EXPECT_LE(std::filesystem::file_size(output + "/model.safetensors"), most);
  const Checkpoint written(output);
  std::map<int64_t, int> sizes;
  for (const auto& [name, size] : own.block_sizes) {
    ++sizes[size];
    ASSERT_EQ(written.is_quantized(name), size != 0) << name;
    if (size != 0) {
      EXPECT_EQ(written.quantized(name).block_size, size) << name;
    }
  }
  EXPECT_GT(sizes.size(), 1u);
  for (const Finding& finding : check_checkpoint(written)) EXPECT_FALSE(finding.error) << finding.text;
  for (const TensorError& error : compare_checkpoints(written, *checkpoint))
    EXPECT_TRUE(error.squared_error == 0 || error.sqnr_db() > 10) << error.name;
}

}  // namespace
}  // namespace nfloat
