// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <fstream>

#include "nfloat/compare.h"
#include "nfloat/tokenizer.h"
#include "support/paths.h"

namespace nfloat {
namespace {

const std::string kEmbedded = testing::source_path("/models/nfloat-tiny");

// The perplexities that the model's trainer wrote down, through the round trips.
TEST(MeasureFormat, PublishedPerplexities) {
  std::ifstream file(kEmbedded + "/stories.txt");
  const std::string text(std::istreambuf_iterator<char>(file), {});
  const auto tokens = Tokenizer::load(kEmbedded).encode(text, false);
  MeasureOptions options;
  options.scoring = {.protocol = PerplexityProtocol::kBos, .context = 256};
  options.generate_tokens = 0;
  const std::string path = ::testing::TempDir() + "/reference_stories.bin";
  ReferenceDistributions::write(path, "", Model::load(kEmbedded, {.precision = Precision::kF32}), tokens,
                                {.protocol = PerplexityProtocol::kBos, .context = 256});
  const ReferenceDistributions reference(path);
  const struct {
    const char* name;
    double perplexity;
  } kCases[] = {{"nf4:64", 28.492}, {"int4:64", 28.628}, {"fp4:64", 28.814}};
  for (const auto& expected : kCases) {
    const auto found = measure_format(kEmbedded, *make_format(expected.name), reference, tokens, options);
    EXPECT_NEAR(found.divergence.reference.perplexity, 28.083, 0.028);
    EXPECT_NEAR(found.divergence.model.perplexity, expected.perplexity, 1e-3 * expected.perplexity);
    EXPECT_NEAR(found.half_loss[0] + found.half_loss[1], 2 * found.divergence.model.mean_loss, 1e-5);
  }
  std::remove(path.c_str());
}

}  // namespace
}  // namespace nfloat
