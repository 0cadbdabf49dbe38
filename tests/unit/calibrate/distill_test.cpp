// SPDX-License-Identifier: Apache-2.0
// Level 3: distillation of codes, scales and norms.
#include <gtest/gtest.h>

#include <atomic>
#include <random>

#include "calibrate/distill.h"
#include "calibrate/soft_coding.h"
#include "nfloat/calibrate.h"
#include "nfloat/error.h"
#include "unit/model/random_model.h"

namespace nfloat {
namespace {

using testing::RandomModel;

constexpr const char* kConfig = R"({"model_type": "qwen3", "hidden_size": 64, "intermediate_size": 96,
  "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
  "vocab_size": 61, "max_position_embeddings": 200, "use_sliding_window": false, "sliding_window": null,
  "attention_bias": true})";

class Distillation : public ::testing::Test {
 protected:
  Calibration run(int level, int threads, std::function<void(int64_t, int64_t, double)> distilling = nullptr,
                  std::function<bool()> cancelled = nullptr) {
    const auto checkpoint = std::make_shared<const Checkpoint>(random_.folder.path());
    std::mt19937 generator(seed_);
    std::vector<std::vector<int32_t>> windows(static_cast<size_t>(windows_));
    for (auto& window : windows)
      for (int i = 0; i < 64; ++i) window.push_back(static_cast<int32_t>(generator() % 61));
    QuantizeCheckpointOptions quantize;
    quantize.quantize.double_quantization = true;
    quantize.quantize.scale = ScaleMethod::kSigned;
    quantize.skip = {"layers.1.self_attn.k_proj"};
    CalibrationOptions options;
    options.level = level;
    options.fast = true;
    options.threads = threads;
    options.distilling = std::move(distilling);
    options.cancelled = std::move(cancelled);
    return calibrate(checkpoint, random_.config, windows, quantize, options);
  }

  const RandomModel random_{kConfig};
  int windows_ = 400;
  unsigned seed_ = 3;
};

void expect_equal(const Calibration& a, const Calibration& b) {
  ASSERT_EQ(a.tensors.size(), b.tensors.size());
  for (const auto& [name, tensor] : a.tensors) {
    EXPECT_EQ(tensor.codes, b.tensors.at(name).codes) << name;
    EXPECT_EQ(tensor.nested.codes, b.tensors.at(name).nested.codes) << name;
    EXPECT_EQ(tensor.nested.absmax, b.tensors.at(name).nested.absmax) << name;
  }
  ASSERT_EQ(a.norms.size(), b.norms.size());
  for (const auto& [name, norm] : a.norms)
    EXPECT_TRUE(std::ranges::equal(norm.bytes(), b.norms.at(name).bytes())) << name;
}

TEST_F(Distillation, TakesTheDivergenceOfWhatIsHeldBackFurtherDown) {
  const Calibration second = run(2, 2), one = run(3, 1), two = run(3, 2);
  EXPECT_LT(one.report.kl, .97 * one.report.start_kl);
  EXPECT_NEAR(one.report.start_kl, second.report.kl, 1e-4 * second.report.kl);
  EXPECT_GT(one.report.changed_codes, 0);
  EXPECT_EQ(one.tensors.size(), second.tensors.size());
  EXPECT_EQ(one.norms.size(), 2 * 4 + 1u);
  expect_equal(one, two);
  EXPECT_EQ(one.report.kl, two.report.kl);
}

// One window to learn from and one to judge by, of chance: what is learned is no good, mostly.
TEST_F(Distillation, KeepsItsStartWhereNothingIsBetter) {
  windows_ = 2;
  int kept = 0;
  for (seed_ = 1; seed_ <= 8 && kept < 2; ++seed_) {
    const Calibration second = run(2, 2), third = run(3, 2);
    EXPECT_EQ(third.report.steps == 0, third.norms.empty());
    EXPECT_LE(third.report.kl, third.report.start_kl);
    if (third.report.steps > 0) continue;
    expect_equal(second, third);
    ++kept;
  }
  EXPECT_EQ(kept, 2) << "among 8 texts";
}

TEST_F(Distillation, IsCancelledBetweenSteps) {
  struct Stop {};
  int64_t steps = 0;
  EXPECT_THROW(run(3, 2,
                   [&](int64_t step, int64_t total, double) {
                     EXPECT_GT(total, 2);
                     if (step == 2) throw Stop();
                     ++steps;
                   }),
               Stop);
  EXPECT_EQ(steps, 2);
}

// Asked in every layer of a step; true once, and false to whoever asks then.
TEST_F(Distillation, IsCancelledWithinAStep) {
  std::atomic<int64_t> asked = 0, last_step = 0, stop_at = -1;
  const auto count = [&](int64_t step, int64_t, double) {
    last_step = step;
    if (step == 1) asked = 0;
  };
  const auto cancelled = [&] { return ++asked == stop_at && last_step == 1; };
  int64_t of_a_step = 0;
  run(
      3, 2,
      [&](int64_t step, int64_t steps, double kl) {
        if (step == 2) of_a_step = asked;
        count(step, steps, kl);
      },
      cancelled);
  // Two forward passes and one backward pass of two layers, and the weights of both.
  EXPECT_GT(of_a_step, 4 * 2);
  for (const int64_t at : {int64_t{1}, of_a_step / 2, of_a_step}) {
    stop_at = at;
    last_step = 0;
    try {
      run(3, 2, count, cancelled);
      ADD_FAILURE() << at;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kInterrupted) << error.what();
    }
    EXPECT_EQ(last_step, 1);
    EXPECT_LE(asked, at + 1);
  }
}

// Of 7 B: known before anything is read. A mixture is refused.
TEST(DistillationPlan, SaysWhatItTakes) {
  ModelConfig config = parse_model_config(
      R"({"model_type": "llama", "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
          "num_attention_heads": 32, "vocab_size": 32000, "max_position_embeddings": 4096})",
      "config.json");
  const std::vector<int32_t> window(512);
  const TokenSequences trained(300, window), held(30, window);
  const double weights = 32 * (4. * 4096 * 4096 + 3. * 4096 * 11008);
  const DistillPlan plan = plan_distillation(config, weights, trained, held);
  EXPECT_EQ(plan.steps, 150);
  EXPECT_EQ(plan.rows, 1024);
  EXPECT_GT(static_cast<double>(plan.memory_bytes), 18 * weights);
  EXPECT_LT(static_cast<double>(plan.memory_bytes), 24 * weights);
  EXPECT_EQ(plan_distillation(config, weights, TokenSequences(20, window), held).steps, 30);

  const RandomModel mixture(R"({"model_type": "mixtral", "hidden_size": 48, "intermediate_size": 40,
    "num_hidden_layers": 2, "num_attention_heads": 6, "num_key_value_heads": 2, "vocab_size": 61,
    "max_position_embeddings": 200, "num_local_experts": 4, "num_experts_per_tok": 2,
    "sliding_window": null})");
  EXPECT_THROW(plan_distillation(mixture.config, weights, trained, held), Error);
}

TEST(SoftCoding, StandsForTheTensorThatItBeganWith) {
  std::mt19937 generator(9);
  std::normal_distribution<float> normal;
  std::vector<float> weights(37 * 50);
  for (float& value : weights) value = normal(generator);
  for (size_t i = 128; i < 192; ++i) weights[i] = 0;  // a block
  for (const char* format : {"nf4", "fp4"}) {
    QuantizeOptions options;
    options.scale = ScaleMethod::kSigned;
    options.double_quantization = true;
    const QuantizedTensor start = quantize_blockwise(
        {DType::kF32, {37, 50}, std::as_bytes(std::span(weights))}, make_codebook(format), options);
    SoftCoding coding(start);
    std::vector<float> expected(weights.size()), found(weights.size());
    dequantize_blockwise(start, DType::kF32, std::as_writable_bytes(std::span(expected)));
    coding.decode(found, 3);
    EXPECT_EQ(expected, found);
    // Down a gradient that points away from zero: weights shrink or stay, as the file will decode them.
    for (int step = 1; step <= 40; ++step) {
      const AdamStep adam{.rate = 2e-3f,
                          .rate_of_rest = 1e-3f,
                          .first = static_cast<float>(1 - std::pow(AdamStep::kBeta1, step)),
                          .root = static_cast<float>(std::sqrt(1 - std::pow(AdamStep::kBeta2, step)))};
      coding.step(expected, adam, 2);
    }
    coding.decode(found, 1);
    double before = 0, after = 0;
    for (size_t i = 0; i < weights.size(); ++i) {
      EXPECT_LE(std::fabs(found[i]), 1.02f * std::fabs(expected[i])) << i;
      before += static_cast<double>(std::fabs(expected[i]));
      after += static_cast<double>(std::fabs(found[i]));
    }
    EXPECT_LT(after, .97 * before);
    std::vector<float> stored(weights.size());
    dequantize_blockwise(coding.tensor(), DType::kF32, std::as_writable_bytes(std::span(stored)));
    EXPECT_EQ(found, stored);
  }
}

}  // namespace
}  // namespace nfloat
