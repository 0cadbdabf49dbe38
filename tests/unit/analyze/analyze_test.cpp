// SPDX-License-Identifier: Apache-2.0
#include "nfloat/analyze.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>
#include <random>

#include "nfloat/error.h"

namespace nfloat {
namespace {

template <typename Distribution>
std::vector<float> drawn(Distribution distribution, size_t count, double scale) {
  std::mt19937_64 engine(7);
  std::vector<float> values(count);
  for (float& value : values) value = static_cast<float>(scale * distribution(engine));
  return values;
}

TensorView view_of(const std::vector<float>& values) {
  return {DType::kF32, Shape{static_cast<int64_t>(values.size())}, std::as_bytes(std::span(values))};
}

TEST(Analyze, NormalWeights) {
  const auto values = drawn(std::normal_distribution<double>(), 200000, 0.02);
  const WeightStatistics s = analyze_weights(view_of(values));
  // Sampling errors of the moments: 1, 1/sqrt 2, sqrt 6 and sqrt 24 over sqrt n; four of each.
  const double unit = 4 / std::sqrt(200000.0);
  EXPECT_NEAR(s.mean, 0, 0.02 * unit);
  EXPECT_NEAR(s.deviation, 0.02, 0.02 * unit);
  EXPECT_NEAR(s.skew, 0, std::sqrt(6.0) * unit);
  EXPECT_NEAR(s.plain.excess_kurtosis, 0, std::sqrt(24.0) * unit);
  EXPECT_TRUE(s.plain.normal_accepted());
  EXPECT_GT(s.plain.student.degrees_of_freedom, 50);
  EXPECT_FALSE(s.has_outliers());
  EXPECT_EQ(s.outlier_share, 0);
  // Inside a block of 64 the root mean square takes a little of the tails away: 3 * 64 / 66 - 3.
  EXPECT_NEAR(s.normalised.excess_kurtosis, -0.0909, std::sqrt(24.0) * unit);
  const WeightHistogram histogram = weight_histogram(view_of(values), s, 60, 6);
  EXPECT_EQ(std::accumulate(histogram.counts.begin(), histogram.counts.end(), histogram.beyond),
            values.size());
  EXPECT_NEAR(static_cast<double>(histogram.counts[30]), 200000 * 0.0793, 600);
}

TEST(Analyze, StudentWeights) {
  for (const double degrees : {3.5, 5.0, 12.0}) {
    const auto values = drawn(std::student_t_distribution<double>(degrees), 1000000, 0.1);
    const StudentFit fit = fit_student(values, 0);
    EXPECT_NEAR(fit.degrees_of_freedom / degrees, 1, 0.05);
    EXPECT_NEAR(fit.scale, 0.1, 0.001);
    const WeightStatistics s = analyze_weights(view_of(values));
    EXPECT_TRUE(s.plain.student_accepted()) << degrees;
    EXPECT_LT(s.plain.student.distance, s.plain.normal_distance);
    EXPECT_EQ(s.source().kind, SourceDistribution::Kind::kStudentT);
  }
}

TEST(Analyze, OutliersAndZerosAreSeen) {
  auto values = drawn(std::normal_distribution<double>(), 50000, 1);
  values[17] = 20;
  values[18] = 0;
  const WeightStatistics s = analyze_weights(view_of(values));
  EXPECT_TRUE(s.has_outliers());
  EXPECT_NEAR(s.outlier_share, 1 / 50000.0, 1e-12);
  EXPECT_EQ(s.absmax, 20);
  EXPECT_EQ(s.zeros, 1);
}

TEST(Analyze, SameForEveryNumberOfThreads) {
  const auto values = drawn(std::student_t_distribution<double>(5), 300001, 1);
  const WeightStatistics one = analyze_weights(view_of(values), {.threads = 1});
  const WeightStatistics again = analyze_weights(view_of(values), {.threads = 1});
  const WeightStatistics four = analyze_weights(view_of(values), {.threads = 4});
  EXPECT_EQ(one.deviation, again.deviation);
  EXPECT_NEAR(one.deviation, four.deviation, 1e-14);
  EXPECT_EQ(one.outlier_share, four.outlier_share);
  EXPECT_NEAR(one.plain.student.degrees_of_freedom, four.plain.student.degrees_of_freedom, 1e-6);
}

TEST(Analyze, BestOffsets) {
  EXPECT_NEAR(best_offset({}, 64).offset, .936730, 2e-4);
  EXPECT_LT(best_offset({}, 64).mse, .00846005);
}

std::vector<Codebook> some_codes() {
  return {make_codebook("nf4"), make_codebook("int4"), make_codebook("sf4"), make_codebook("bof4-s")};
}

// FORMATS.md, section 2, blocks of 64; measured on 2^18 weights: 0.5 % for normal ones, 1.5 % for heavy
// tails.
TEST(Analyze, CodesCostWhatTheFitPredicts) {
  const auto normal = drawn(std::normal_distribution<double>(), 1 << 18, 0.02);
  const WeightStatistics s = analyze_weights(view_of(normal));
  const CodeAnalysis codes = analyze_codes(view_of(normal), s, some_codes());
  EXPECT_TRUE(codes.fit.accepted);
  EXPECT_NEAR(codes.fit.peak_ratio, 1, 0.02);
  const double expected[] = {.00846005, .01157757, 0, .00735171};
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_NEAR(codes.codes[i].predicted / codes.codes[i].measured, 1, 0.01) << codes.codes[i].code;
    if (expected[i] > 0) {
      EXPECT_NEAR(codes.codes[i].measured / expected[i], 1, 0.01) << codes.codes[i].code;
    }
  }
  EXPECT_NEAR(codes.signed_nf4, .006845, .00005);
  EXPECT_NEAR(codes.best_offset.offset, .936730, .006);
  EXPECT_EQ(codes.best().code, "bof4-s");

  const auto heavy = drawn(std::student_t_distribution<double>(5), 1 << 20, 1);
  AnalyzeOptions all;
  all.error_sample = 0;
  const CodeAnalysis tails =
      analyze_codes(view_of(heavy), analyze_weights(view_of(heavy)), some_codes(), all);
  EXPECT_TRUE(tails.fit.accepted);
  EXPECT_FALSE(tails.fit.within_blocks);
  EXPECT_NEAR(tails.fit.source.degrees_of_freedom, 5, 0.25);
  EXPECT_EQ(tails.sample, 1 << 20);
  EXPECT_NEAR(tails.codes[0].measured / .010935, 1, 0.01);
  EXPECT_NEAR(tails.codes[2].measured / .011099, 1, 0.01);
  EXPECT_NEAR(tails.signed_nf4 / .009198, 1, 0.015);
  for (const CodeError& code : tails.codes) EXPECT_NEAR(code.predicted / code.measured, 1, 0.03) << code.code;
}

// Blocks of very different sizes: heavy tails in all, normal within each.
TEST(Analyze, ScalesThatDifferByBlockDoNotChangeTheError) {
  auto values = drawn(std::normal_distribution<double>(), 1 << 18, 1);
  for (size_t i = 0; i < values.size(); ++i) values[i] *= std::exp2(static_cast<float>(i / 64 % 9));
  const WeightStatistics s = analyze_weights(view_of(values));
  EXPECT_FALSE(s.plain.normal_accepted());
  const CodeAnalysis codes = analyze_codes(view_of(values), s, some_codes());
  EXPECT_TRUE(codes.fit.accepted);
  EXPECT_TRUE(codes.fit.within_blocks);
  EXPECT_NEAR(codes.codes[0].measured / .00846005, 1, 0.01);
  EXPECT_NEAR(codes.codes[0].predicted / .00846005, 1, 0.003);
}

// One weight in a thousand far out: no fit describes that, and none is accepted.
TEST(Analyze, OutliersRejectTheFit) {
  auto values = drawn(std::normal_distribution<double>(), 1 << 17, 1);
  for (size_t i = 0; i < values.size(); i += 1000) values[i] *= 25;
  EXPECT_FALSE(predicting_fit(analyze_weights(view_of(values))).accepted);
}

TEST(Analyze, BadInputIsNamed) {
  std::vector<float> values(9000, 1.0f);
  values[8000] = NAN;
  try {
    analyze_weights(view_of(values));
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kNotFinite);
    EXPECT_NE(std::string(error.what()).find("8000"), std::string::npos);
  }
  EXPECT_THROW(analyze_weights({DType::kF32, Shape{0}, {}}), Error);
  values[8000] = 1;
  const WeightStatistics constant = analyze_weights(view_of(values));
  EXPECT_EQ(constant.deviation, 0);
  EXPECT_FALSE(constant.has_outliers());
  const CodeAnalysis codes = analyze_codes(view_of(values), constant, some_codes());
  EXPECT_FALSE(codes.fit.accepted);
  EXPECT_EQ(codes.codes[0].measured, 0);
  for (const int64_t size : {int64_t{0}, int64_t{-1}}) {
    AnalyzeOptions options;
    options.block_size = size;
    EXPECT_THROW(analyze_weights(view_of(values), options), Error);
    EXPECT_THROW(analyze_codes(view_of(values), constant, some_codes(), options), Error);
  }
}

}  // namespace
}  // namespace nfloat
