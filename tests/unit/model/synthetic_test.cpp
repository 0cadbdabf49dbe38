// SPDX-License-Identifier: Apache-2.0
#include "nfloat/synthetic.h"

#include <gtest/gtest.h>

#include <cmath>

#include "nfloat/error.h"

namespace nfloat {
namespace {

ModelConfig small_config() {
  ModelConfig config = synthetic_config("1b");
  config.layers = 2;
  config.hidden = 128;
  config.intermediate = 256;
  config.heads = 4;
  config.kv_heads = 2;
  config.head_dim = 32;
  config.vocabulary = 500;
  config.context = 64;
  return config;
}

TEST(Synthetic, ShapesThatBenchmarksUse) {
  EXPECT_EQ(synthetic_config("1b").parameters(), 1038682112);
  EXPECT_EQ(synthetic_config("8b").parameters(), 8030261248);  // Llama 3 8B
  EXPECT_THROW(synthetic_config("2b"), Error);
}

TEST(Synthetic, RunsAndSaysSomethingDefinite) {
  for (const bool nested : {true, false}) {
    SyntheticOptions options;
    if (!nested) options.model.quantize = make_codebook("fp4");
    const Model model = synthetic_model(small_config(), options);
    Session session(model);
    const std::vector<int32_t> prompt{1, 2, 3, 499};
    const std::span<const float> logits = session.prefill(prompt);
    double squares = 0;
    for (float logit : logits) squares += static_cast<double>(logit) * static_cast<double>(logit);
    const double rms = std::sqrt(squares / static_cast<double>(logits.size()));
    EXPECT_GT(rms, 0.1);
    EXPECT_LT(rms, 10);
  }
}

TEST(Synthetic, SameSeedSameModel) {
  const auto logits_of = [](uint64_t seed) {
    SyntheticOptions options;
    options.seed = seed;
    const Model model = synthetic_model(small_config(), options);
    Session session(model);
    const std::span<const float> logits = session.decode(7);
    return std::vector<float>(logits.begin(), logits.end());
  };
  EXPECT_EQ(logits_of(3), logits_of(3));
  EXPECT_NE(logits_of(3), logits_of(4));
}

}  // namespace
}  // namespace nfloat
