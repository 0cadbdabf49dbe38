// SPDX-License-Identifier: Apache-2.0
#include "nfloat/compare.h"
#include "base/json.h"
#include "support/files.h"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>

#include "nfloat/error.h"
#include "nfloat/tokenizer.h"
#include "support/paths.h"

namespace nfloat {
namespace {

const std::string kEmbedded = testing::source_path("/models/nfloat-tiny");

std::string temporary(const std::string& name) {
  return ::testing::TempDir() + "/" + name;
}

std::vector<int32_t> prompt() {
  const Json reference = Json::parse(testing::read_file(kEmbedded + "/reference.json"));
  return reference["prompt_ids"].get<std::vector<int32_t>>();
}

ModelOptions exact() {
  ModelOptions options;
  options.precision = Precision::kF32;
  return options;
}

const PerplexityOptions kShort{.protocol = PerplexityProtocol::kBos, .context = 24};

TEST(ReferenceDistributions, GiveWhatTwoModelsGive) {
  const Model plain = Model::load(kEmbedded, exact());
  ModelOptions options = exact();
  options.quantize = make_codebook("nf4");
  const Model nf4 = Model::load(kEmbedded, options);
  const std::string path = temporary("reference.bin");
  const auto tokens = prompt();
  ReferenceDistributions::write(path, "tiny", plain, tokens, kShort);
  const ReferenceDistributions reference(path);
  EXPECT_EQ(reference.identity(), "tiny");
  EXPECT_EQ(reference.tokens(), static_cast<int64_t>(tokens.size()));
  const DivergenceResult direct = divergence(plain, nf4, tokens, kShort);
  const DivergenceResult cached = divergence(reference, nf4, tokens, kShort);
  EXPECT_GT(direct.mean_kl, 1e-3);
  // 16-bit log-probabilities err by half a step of some 30/65535, against differences of the two models of
  // 0.1.
  EXPECT_NEAR(cached.mean_kl, direct.mean_kl, 2e-3 * direct.mean_kl);
  EXPECT_NEAR(cached.max_kl, direct.max_kl, 2e-3 * direct.max_kl);
  EXPECT_NEAR(cached.median_kl, direct.median_kl, 1e-2 * direct.median_kl);
  // Windows go through the model alone or together: other orders of float32 sums.
  EXPECT_NEAR(cached.reference.mean_loss, direct.reference.mean_loss, 1e-5);
  EXPECT_NEAR(cached.model.mean_loss, direct.model.mean_loss, 1e-5);
  EXPECT_EQ(cached.same_top, direct.same_top);
  EXPECT_NEAR(cached.log_ratio, std::log(cached.model.perplexity / cached.reference.perplexity), 1e-12);
  EXPECT_GE(cached.kl_999, cached.kl_99);
  EXPECT_GE(cached.kl_99, cached.kl_95);
  EXPECT_GE(cached.kl_95, cached.kl_90);
  EXPECT_GE(cached.kl_90, cached.median_kl);
  EXPECT_GT(cached.correlation, 0.95);
  EXPECT_LT(cached.correlation, 1);
  EXPECT_GT(cached.rms_delta_p, std::fabs(cached.mean_delta_p));
  // The paired error is smaller than that of either perplexity.
  EXPECT_LT(cached.log_ratio_error, cached.model.standard_error);
}

TEST(ReferenceDistributions, RefuseWhatDoesNotBelong) {
  const Model plain = Model::load(kEmbedded, exact());
  const std::string path = temporary("reference_other.bin");
  auto tokens = prompt();
  ReferenceDistributions::write(path, "", plain, tokens, kShort);
  const ReferenceDistributions reference(path);
  tokens.back() ^= 1;
  EXPECT_THROW(divergence(reference, plain, tokens, kShort), Error);
  tokens.pop_back();
  EXPECT_THROW(divergence(reference, plain, tokens, kShort), Error);
  std::string bytes;
  {
    std::ifstream file(path, std::ios::binary);
    bytes.assign(std::istreambuf_iterator<char>(file), {});
  }
  for (const size_t length : {size_t{0}, size_t{7}, size_t{40}, bytes.size() - 1}) {
    std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes.substr(0, length);
    EXPECT_THROW(ReferenceDistributions{path}, Error) << length;
  }
  for (const size_t place : {size_t{0}, size_t{16}, size_t{23}, size_t{24}, size_t{39}}) {
    std::string damaged = bytes;
    damaged[place] = static_cast<char>(damaged[place] ^ 0x55);
    std::ofstream(path, std::ios::binary | std::ios::trunc) << damaged;
    EXPECT_THROW(ReferenceDistributions{path}, Error) << place;
  }
  EXPECT_THROW(ReferenceDistributions{path + ".none"}, Error);
}

TEST(ReferenceDistributions, ReplaceNoFileOfAnotherKind) {
  const Model plain = Model::load(kEmbedded, exact());
  const std::string path = temporary("reference_weights.bin"), link = temporary("reference_link.bin");
  std::filesystem::remove(link);
  std::filesystem::create_symlink(path, link);
  const auto content = [&path] {
    std::ifstream file(path, std::ios::binary);
    return std::string(std::istreambuf_iterator<char>(file), {});
  };
  for (const std::string other : {"GGUF", "{}", "nfloatS1", "a text"}) {
    std::ofstream(path, std::ios::binary | std::ios::trunc) << other;
    for (const std::string& name : {path, link}) {
      try {
        ReferenceDistributions::write(name, "", plain, prompt(), kShort);
        ADD_FAILURE() << other;
      } catch (const Error& error) {
        EXPECT_EQ(error.code(), ErrorCode::kAlreadyExists);
        EXPECT_NE(std::string(error.what()).find(name), std::string::npos) << error.what();
      }
      EXPECT_EQ(content(), other);
    }
  }
  for (const std::string own : {"", "nfloatP1 of another version"}) {
    std::ofstream(path, std::ios::binary | std::ios::trunc) << own;
    ReferenceDistributions::write(link, "", plain, prompt(), kShort);
    EXPECT_NO_THROW(ReferenceDistributions{path});
  }
}

TEST(MeasureFormat, IsTheQuantizedModel) {
  const Model plain = Model::load(kEmbedded, exact());
  const auto tokens = prompt();
  const std::string path = temporary("reference_measure.bin");
  ReferenceDistributions::write(path, "", plain, tokens, kShort);
  const ReferenceDistributions reference(path);
  MeasureOptions options;
  options.scoring = kShort;
  options.generate_tokens = 4;
  const FormatMeasurement nf4 =
      measure_format(kEmbedded, *make_format("nf4:64:dq"), reference, tokens, options);
  ModelOptions quantized = exact();
  quantized.quantize = make_codebook("nf4");
  quantized.quantize_double = true;
  const DivergenceResult expected = divergence(reference, Model::load(kEmbedded, quantized), tokens, kShort);
  EXPECT_NEAR(nf4.divergence.model.mean_loss, expected.model.mean_loss, 1e-4);
  EXPECT_NEAR(nf4.divergence.mean_kl, expected.mean_kl, 1e-3 * expected.mean_kl);
  EXPECT_EQ(nf4.tensors.size(), 6u * 7u);
  EXPECT_NEAR(nf4.bits_per_weight, 4.127, 1e-3);
  EXPECT_NEAR(nf4.total().sqnr_db(), -10 * std::log10(0.0085), 0.3);
  EXPECT_GT(nf4.code_entropy, 3.8);
  EXPECT_LT(nf4.code_entropy, 4);
  EXPECT_GT(nf4.tokens_per_second, 0);
  EXPECT_NEAR((nf4.half_kl[0] + nf4.half_kl[1]) / 2, nf4.divergence.mean_kl, 0.02 * nf4.divergence.mean_kl);
  // 4096 * 256 of the embedding and 13 norms stay in bf16.
  EXPECT_EQ(nf4.model_bytes - nf4.bytes, 2u * (4096 * 256 + 13 * 256));
}

FormatMeasurement made(const char* name, uint64_t bytes, double kl, double first, double second) {
  FormatMeasurement m;
  m.name = name;
  m.bits_per_weight = static_cast<double>(bytes) / 100;
  m.model_bytes = bytes;
  m.divergence.mean_kl = kl;
  m.divergence.mean_kl_error = 0.001;
  m.half_kl = {first, second};
  return m;
}

TEST(ChooseFormat, ByBudgetDivergenceAndWithoutEither) {
  std::vector<FormatMeasurement> all = {made("a", 400, .05, .05, .05), made("b", 450, .03, .03, .03),
                                        made("c", 450, .0305, .031, .029), made("d", 850, .001, .001, .001),
                                        made("e", 300, .2, .2, .2)};
  all.push_back({});
  all.back().refused = "no";
  Choice choice = choose_format(all);
  EXPECT_EQ(choice.best, 1);
  EXPECT_EQ(choice.runner_up, 2);
  EXPECT_FALSE(choice.separable);
  EXPECT_EQ(choice.smaller, 0);
  EXPECT_EQ(choice.better, 3);
  choice = choose_format(all, {.budget_bytes = 420});
  EXPECT_EQ(choice.best, 0);
  EXPECT_TRUE(choice.separable);
  EXPECT_EQ(choose_format(all, {.max_divergence = .04}).best, 1);
  EXPECT_EQ(choose_format(all, {.budget_bytes = 420, .max_divergence = .04}).best, -1);
  EXPECT_EQ(choose_format(all, {.max_divergence = .01}).best, 3);
  const auto without = [](std::string_view names) {
    return [names](const FormatMeasurement& m) { return names.find(m.name) == names.npos; };
  };
  choice = choose_format(all, {.obtainable = without("bd")});
  EXPECT_EQ(choice.best, 2);
  EXPECT_EQ(choice.out_of_reach, 1);
  EXPECT_EQ(choice.runner_up, 0);
  EXPECT_EQ(choice.better, -1);
  EXPECT_EQ(choose_format(all, {.obtainable = without("c")}).out_of_reach, -1);  // "b" is better anyway
  choice = choose_format(all, {.max_divergence = .04, .obtainable = without("bcd")});
  EXPECT_EQ(choice.best, -1);
  EXPECT_EQ(choice.out_of_reach, 1);
  const RankAgreement agreement = rank_agreement(all);
  EXPECT_EQ(agreement.pairs, 10);
  ASSERT_EQ(agreement.swapped.size(), 1u);
  EXPECT_EQ(agreement.swapped[0], (std::array<int, 2>{1, 2}));
  EXPECT_NEAR(agreement.spearman, 0.9, 1e-12);
  const double sizes[] = {1, 2, 2, 3}, losses[] = {3, 2, 2, 2};
  EXPECT_EQ(pareto_front(sizes, losses), (std::vector<bool>{true, true, true, false}));
}

}  // namespace
}  // namespace nfloat
