// SPDX-License-Identifier: Apache-2.0
#include "calibrate/matrix.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <tuple>

#include "calibrate/block_work.h"
#include "calibrate/products.h"
#include "nfloat/error.h"

namespace nfloat {
namespace {

struct Problem {
  int64_t rows, columns, block, tokens;
};

std::vector<float> gaussian(int64_t count, uint32_t seed, float size = 1) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = size * normal(generator);
  return values;
}

// Mean of x x^T over inputs whose columns hang together and are of different sizes.
std::vector<float> hessian_of(int64_t columns, int64_t tokens, uint32_t seed) {
  std::vector<double> sums(static_cast<size_t>(columns * columns));
  std::mt19937 generator(seed);
  std::normal_distribution<double> normal;
  std::vector<double> x(static_cast<size_t>(columns));
  for (int64_t t = 0; t < tokens; ++t) {
    const double common = normal(generator);
    for (int64_t i = 0; i < columns; ++i)
      x[static_cast<size_t>(i)] = (1 + static_cast<double>(i % 7)) * (normal(generator) + common);
    for (int64_t i = 0; i < columns; ++i)
      for (int64_t j = 0; j < columns; ++j)
        sums[static_cast<size_t>(i * columns + j)] +=
            x[static_cast<size_t>(i)] * x[static_cast<size_t>(j)] / static_cast<double>(tokens);
  }
  return {sums.begin(), sums.end()};
}

// tr(R H R^T) in double.
double reference_loss(const QuantizedTensor& tensor, const std::vector<float>& weights, int64_t columns,
                      const SquareMatrix& h) {
  std::vector<float> values(weights.size());
  dequantize_blockwise(tensor, DType::kF32, std::as_writable_bytes(std::span(values)));
  double total = 0;
  for (size_t row = 0; row < weights.size(); row += static_cast<size_t>(columns))
    for (int64_t i = 0; i < columns; ++i)
      for (int64_t j = 0; j < columns; ++j) {
        const auto at = [&](int64_t k) {
          const size_t place = row + static_cast<size_t>(k);
          return static_cast<double>(values[place]) - static_cast<double>(weights[place]);
        };
        total += at(i) * static_cast<double>(h[static_cast<size_t>(i * columns + j)]) * at(j);
      }
  return total;
}

CalibratedOptions nf4(int64_t block) {
  CalibratedOptions options;
  options.codebook = make_codebook("nf4");
  options.block_size = block;
  options.threads = 2;
  return options;
}

TEST(HessianFactor, IsTheUpperFactorOfTheInverse) {
  for (const int64_t n : {1, 5, 64, 65, 150}) {
    const std::vector<float> h = hessian_of(n, 3 * n + 2, 1);
    const HessianFactor factor = factorize(h, n, 100000, 2);
    EXPECT_EQ(factor.damping, .03);
    for (int64_t i = 0; i < n; ++i)
      for (int64_t j = 0; j < i; ++j) EXPECT_EQ(factor.upper[static_cast<size_t>(i * n + j)], 0.0f);
    // U^T U H = 1.
    double worst = 0;
    for (int64_t i = 0; i < n; ++i) {
      std::vector<double> row(static_cast<size_t>(n));  // of U^T U
      for (int64_t p = 0; p <= i; ++p)
        for (int64_t j = p; j < n; ++j)
          row[static_cast<size_t>(j)] += static_cast<double>(factor.upper[static_cast<size_t>(p * n + i)]) *
                                         static_cast<double>(factor.upper[static_cast<size_t>(p * n + j)]);
      for (int64_t j = 0; j < n; ++j) {
        double sum = i == j ? -1 : 0;
        for (int64_t k = 0; k < n; ++k)
          sum += row[static_cast<size_t>(k)] *
                 static_cast<double>(factor.damped[static_cast<size_t>(k * n + j)]);
        worst = std::max(worst, std::fabs(sum));
      }
    }
    EXPECT_LT(worst, 2e-4) << n;
  }
}

TEST(HessianFactor, FewTokensDeadColumnsAndRankOne) {
  const int64_t n = 96;
  EXPECT_EQ(factorize(hessian_of(n, 10, 2), n, 10, 1).damping, .1);
  std::vector<float> dead = hessian_of(n, 500, 3);
  for (int64_t i = 0; i < n; ++i)
    dead[static_cast<size_t>(i * n + 7)] = dead[static_cast<size_t>(7 * n + i)] = 0;
  const HessianFactor factor = factorize(dead, n, 100000, 1);
  EXPECT_GT(factor.damped[7 * n + 7], 0);
  EXPECT_EQ(factor.upper[7 * n + 8], 0.0f);
  std::vector<float> one(static_cast<size_t>(n * n), 1.0f);
  factorize(one, n, 1, 1);
  factorize(std::vector<float>(static_cast<size_t>(n * n), 0.0f), n, 5, 1);
  one[5] = NAN;
  EXPECT_THROW(factorize(one, n, 1, 1), Error);
}

TEST(StoredScalesTest, CodesMirrorAndFindTheNearest) {
  std::vector<float> wanted = gaussian(300, 4, .1f);
  wanted[3] = 0;
  const StoredScales scales(wanted);
  ASSERT_EQ(scales.absmax().size(), 2u);
  EXPECT_EQ(scales.at(0, StoredScales::kZero), 0.0f);
  for (int code = 0; code <= 254; ++code)
    EXPECT_EQ(scales.at(0, code), -scales.at(0, StoredScales::kMirror - code)) << code;
  for (const float wish : {.05f, -.02f, 1e-9f, -1e-9f, 3.0f, -3.0f}) {
    const int code = scales.nearest(1, wish);
    EXPECT_NE(code, StoredScales::kZero);
    for (int other = 0; other < 256; ++other) {
      if (other == StoredScales::kZero) continue;
      EXPECT_LE(std::fabs(scales.at(1, code) - wish), std::fabs(scales.at(1, other) - wish) * 1.0001f);
    }
  }
}

class Calibrated : public ::testing::TestWithParam<Problem> {};

TEST_P(Calibrated, LosesLessAndTellsTheTruth) {
  const auto [rows, columns, block, tokens] = GetParam();
  std::vector<float> weights = gaussian(rows * columns, 5, .02f);
  for (int64_t i = 0; i < columns && rows > 2; ++i)
    weights[static_cast<size_t>(columns + i)] = 0;  // a row of zeros
  const HessianFactor factor = factorize(hessian_of(columns, tokens, 6), columns, tokens, 2);
  const CalibratedMatrix result = calibrate_matrix(weights, rows, factor, nf4(block));
  const double loss = reference_loss(result.tensor, weights, columns, factor.damped);
  EXPECT_NEAR(result.loss, loss, 1e-3 * loss + 1e-12);
  EXPECT_LE(result.loss, result.plain_loss);
  EXPECT_EQ(result.tensor.nested.codes.size(), static_cast<size_t>((rows * columns + block - 1) / block));
  if (rows * columns >= 4096 && columns >= block) {
    EXPECT_FALSE(result.kept_plain);
    EXPECT_LT(result.loss, .8 * result.plain_loss);
  }
  std::vector<float> values(weights.size());
  dequantize_blockwise(result.tensor, DType::kF32, std::as_writable_bytes(std::span(values)));
  for (const float value : values) ASSERT_TRUE(std::isfinite(value));

  CalibratedOptions options = nf4(block);
  options.threads = 1;
  const CalibratedMatrix again = calibrate_matrix(weights, rows, factor, options);
  EXPECT_EQ(again.tensor.codes, result.tensor.codes);
  EXPECT_EQ(again.tensor.nested.codes, result.tensor.nested.codes);

  // Every sweep lowers the loss, and the fast ones lie in between.
  double before = INFINITY;
  for (const int sweeps : {0, 1, 3}) {
    options.sweeps = sweeps;
    const CalibratedMatrix some = calibrate_matrix(weights, rows, factor, options);
    EXPECT_LE(some.loss, before * 1.0001);
    before = some.loss;
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, Calibrated,
                         ::testing::Values(Problem{64, 128, 64, 4000}, Problem{20, 352, 64, 2000},
                                           Problem{7, 50, 64, 500}, Problem{3, 33, 64, 10},
                                           Problem{1, 16, 16, 100}, Problem{33, 129, 32, 1000},
                                           Problem{16, 256, 128, 3000}));

TEST(MixedWithLayer, CountsWhatTheExpertSaw) {
  const int64_t n = 6;
  std::vector<float> own = hessian_of(n, 40, 11), layer = hessian_of(n, 90, 12);
  const std::vector<float> mean = own;
  for (float& value : own) value *= 18;  // the sum over 18 inputs
  const SquareMatrix mixed = mixed_with_layer(own, 18, layer, n);
  for (size_t i = 0; i < mixed.size(); ++i) {
    const double expected = (18 * static_cast<double>(mean[i]) + 6 * static_cast<double>(layer[i])) / 24;
    EXPECT_NEAR(static_cast<double>(mixed[i]), expected, 1e-6 * std::fabs(expected) + 1e-6);
  }
  EXPECT_EQ(mixed_with_layer({}, 0, layer, n), layer);
}

// y [m][n] = a b, of sizes beside those of panels and tiles.
TEST(Products, OfOddSizes) {
  for (const auto& [m, n, k] : {std::tuple<int64_t, int64_t, int64_t>{1, 1, 1}, {3, 97, 5}, {17, 200, 300}}) {
    const std::vector<float> a = gaussian(m * k, 1), b = gaussian(k * n, 2);
    std::vector<float> transposed(b.size()), y(static_cast<size_t>(m * n)), other(y.size());
    for (int64_t l = 0; l < k; ++l)
      for (int64_t j = 0; j < n; ++j)
        transposed[static_cast<size_t>(j * k + l)] = b[static_cast<size_t>(l * n + j)];
    product(a, m, b, n, k, y, 2);
    product_with_transpose(a, m, transposed, n, k, other, 3);
    EXPECT_EQ(y, other);
    for (int64_t i = 0; i < m; ++i)
      for (int64_t j = 0; j < n; ++j) {
        double expected = 0, size = 0;
        for (int64_t l = 0; l < k; ++l) {
          const double term = static_cast<double>(a[static_cast<size_t>(i * k + l)]) *
                              static_cast<double>(b[static_cast<size_t>(l * n + j)]);
          expected += term;
          size += std::fabs(term);
        }
        // k sums, each rounded by at most 2^-24 of what was added so far.
        ASSERT_NEAR(static_cast<double>(y[static_cast<size_t>(i * n + j)]), expected,
                    static_cast<double>(k + 1) * 0x1p-24 * size);
      }
  }
}

class CorrectedTarget : public ::testing::TestWithParam<int64_t> {};

TEST_P(CorrectedTarget, GivesBackWhatTheInputsLost) {
  // y = A x: W x = W' y is solved by W' = W A^-1; with alpha 1 and little damping the target is that.
  const int64_t n = 24, rows = GetParam(), tokens = 4000;
  std::mt19937 generator(7);
  std::normal_distribution<double> normal;
  std::vector<double> h(static_cast<size_t>(n * n)), c(h.size());
  for (int64_t t = 0; t < tokens; ++t) {
    std::vector<double> x(static_cast<size_t>(n)), y;
    for (double& value : x) value = normal(generator);
    y = x;
    for (int64_t i = 0; i + 1 < n; ++i) y[static_cast<size_t>(i)] += .3 * x[static_cast<size_t>(i + 1)];
    for (int64_t i = 0; i < n; ++i)
      for (int64_t j = 0; j < n; ++j) {
        const auto at = static_cast<size_t>(i * n + j);
        h[at] += y[static_cast<size_t>(i)] * y[static_cast<size_t>(j)] / tokens;
        c[at] += x[static_cast<size_t>(i)] * y[static_cast<size_t>(j)] / tokens;
      }
  }
  const std::vector<float> hessian(h.begin(), h.end()), cross(c.begin(), c.end());
  const HessianFactor factor = factorize(hessian, n, 100000, 1);
  const std::vector<float> weights = gaussian(rows * n, 8);
  std::vector<float> difference = cross;
  for (size_t i = 0; i < difference.size(); ++i) difference[i] -= hessian[i];
  const std::vector<float> target = corrected_target(weights, rows, difference, factor, 1, 2);
  double error = 0, size = 0, uncorrected = 0;
  for (int64_t r = 0; r < rows; ++r) {
    // W' A against W.
    for (int64_t j = 0; j < n; ++j) {
      const auto value = [&](const std::vector<float>& w) {
        double sum = static_cast<double>(w[static_cast<size_t>(r * n + j)]);
        if (j > 0) sum += .3 * static_cast<double>(w[static_cast<size_t>(r * n + j - 1)]);
        return sum;
      };
      const double wish = static_cast<double>(weights[static_cast<size_t>(r * n + j)]);
      error += std::pow(value(target) - wish, 2);
      uncorrected += std::pow(value(weights) - wish, 2);
      size += wish * wish;
    }
  }
  EXPECT_LT(error, .05 * uncorrected);
  EXPECT_GT(uncorrected, .01 * size);
}

// Fewer rows than columns, and more, are multiplied in another order.
INSTANTIATE_TEST_SUITE_P(Rows, CorrectedTarget, ::testing::Values(5, 24, 60));

}  // namespace
}  // namespace nfloat
