// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>

#include "base/json.h"
#include "evaluate/windows.h"
#include "nfloat/error.h"
#include "nfloat/evaluate.h"
#include "support/files.h"
#include "support/paths.h"

namespace nfloat {
namespace {

const std::string kEmbedded = testing::source_path("/models/nfloat-tiny");
const std::string kStories = testing::shared_path("/models/stories260K");

std::vector<int32_t> counting(int32_t count) {
  std::vector<int32_t> tokens(static_cast<size_t>(count));
  for (int32_t i = 0; i < count; ++i) tokens[static_cast<size_t>(i)] = 100 + i;
  return tokens;
}

TEST(Windows, Paper) {
  const auto windows = cut_windows(counting(11), {.protocol = PerplexityProtocol::kPaper, .context = 5});
  ASSERT_EQ(windows.size(), 2u);
  EXPECT_EQ(windows[1].input, (std::vector<int32_t>{105, 106, 107, 108}));
  EXPECT_EQ(windows[1].targets, (std::vector<int32_t>{106, 107, 108, 109}));
  EXPECT_EQ(windows[1].scored(), 4);
}

TEST(Windows, LlamaCpp) {
  const auto windows =
      cut_windows(counting(17), {.protocol = PerplexityProtocol::kLlamaCpp, .context = 8, .bos_token = 1});
  ASSERT_EQ(windows.size(), 2u);
  EXPECT_EQ(windows[1].input, (std::vector<int32_t>{1, 109, 110, 111, 112, 113, 114}));
  EXPECT_EQ(windows[1].first, 4);
  EXPECT_EQ(windows[1].scored(), 3);  // tokens 113, 114, 115
}

TEST(Windows, Bos) {
  const PerplexityOptions options{.protocol = PerplexityProtocol::kBos, .context = 4, .bos_token = 1};
  const auto windows = cut_windows(counting(6), options);
  ASSERT_EQ(windows.size(), 2u);
  EXPECT_EQ(windows[0].input, (std::vector<int32_t>{1, 100, 101, 102}));
  EXPECT_EQ(windows[0].targets, (std::vector<int32_t>{100, 101, 102, 103}));
  EXPECT_EQ(windows[1].input, (std::vector<int32_t>{1, 104}));
  EXPECT_EQ(windows[1].scored(), 2);
}

TEST(Windows, RefuseWhatCannotBe) {
  EXPECT_THROW(cut_windows(counting(4), {.protocol = PerplexityProtocol::kPaper, .context = 5}), Error);
  EXPECT_THROW(cut_windows(counting(4), {.protocol = PerplexityProtocol::kBos, .context = 5}), Error);
  EXPECT_THROW(cut_windows({}, {.protocol = PerplexityProtocol::kBos, .context = 5, .bos_token = 1}), Error);
  EXPECT_THROW(parse_perplexity_protocol("wiki"), Error);
}

TEST(Perplexity, BatchesDoNotMatter) {
  // The same sequences, each alone and all together.
  const Model model = Model::load(kEmbedded);
  const Json reference = Json::parse(testing::read_file(kEmbedded + "/reference.json"));
  const auto prompt = reference["prompt_ids"].get<std::vector<int32_t>>();
  std::vector<std::vector<int32_t>> sequences;
  for (const long length : {64, 5, 31, 2}) sequences.emplace_back(prompt.begin(), prompt.begin() + length);
  const PerplexityOptions exact{.precision = Precision::kF32};
  const PerplexityResult together = perplexity_of_sequences(model, sequences, exact);
  double loss = 0;
  for (const auto& sequence : sequences) {
    const PerplexityResult alone = perplexity_of_sequences(model, {&sequence, 1}, exact);
    loss += alone.mean_loss * static_cast<double>(alone.tokens);
  }
  EXPECT_EQ(together.tokens, 63 + 4 + 30 + 1);
  EXPECT_EQ(together.windows, 4);
  EXPECT_NEAR(together.mean_loss, loss / 98, 1e-5);
  EXPECT_NEAR(together.perplexity, std::exp(together.mean_loss), 1e-9);
  EXPECT_GT(together.standard_error, 0);
}

TEST(Divergence, OfAModelFromItselfIsNothing) {
  const Model model = Model::load(kEmbedded);
  const DivergenceResult found =
      divergence(model, model, counting(40), {.protocol = PerplexityProtocol::kPaper, .context = 20});
  EXPECT_EQ(found.tokens, 38);
  EXPECT_LT(found.max_kl, 1e-9);
  EXPECT_EQ(found.same_top, 1);
  EXPECT_EQ(found.model.perplexity, found.reference.perplexity);
}

// What rounding the activations costs on the same NF4 weights: the bounds of docs/cli.md.
TEST(Divergence, OfThePrecisions) {
  ModelOptions options;
  options.quantize = make_codebook("nf4");
  const Model model = Model::load(kEmbedded, options);
  const Json reference = Json::parse(testing::read_file(kEmbedded + "/reference.json"));
  const auto tokens = reference["prompt_ids"].get<std::vector<int32_t>>();
  const auto of = [&](Precision precision) {
    return divergence(model, model, tokens,
                      {.protocol = PerplexityProtocol::kBos, .context = 64, .precision = precision},
                      Precision::kF32);
  };
  const DivergenceResult bf16 = of(Precision::kBF16), int8 = of(Precision::kInt8);
  EXPECT_GT(bf16.mean_kl, 0);
  EXPECT_LT(bf16.mean_kl, 1e-4);
  EXPECT_LT(int8.mean_kl, 1.5e-3);
  EXPECT_GT(int8.mean_kl, bf16.mean_kl);
}

class Stories260K : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!std::filesystem::exists(kStories)) GTEST_SKIP() << kStories << " is not here";
    reference_ = Json::parse(testing::read_file(kStories + "/reference.json"));
    sequences_ = reference_["token_ids"].get<std::vector<std::vector<int32_t>>>();
  }
  Json reference_;
  std::vector<std::vector<int32_t>> sequences_;
};

TEST_F(Stories260K, PlainPerplexity) {
  const PerplexityResult found =
      perplexity_of_sequences(Model::load(kStories), sequences_, {.precision = Precision::kF32});
  const double expected = reference_["perplexity_f32_weights"].get<double>();
  EXPECT_EQ(found.tokens, reference_["predicted_tokens"].get<int64_t>());
  EXPECT_NEAR(found.perplexity, expected, 1e-4 * expected);
}

TEST_F(Stories260K, Nf4Perplexity) {
  ModelOptions options;
  options.quantize = make_codebook("nf4");
  const PerplexityResult found =
      perplexity_of_sequences(Model::load(kStories, options), sequences_, {.precision = Precision::kF32});
  const double expected = reference_["perplexity_nf4_block64_absmax_projections_only"].get<double>();
  EXPECT_NEAR(found.perplexity, expected, 1e-4 * expected);
}

}  // namespace
}  // namespace nfloat
