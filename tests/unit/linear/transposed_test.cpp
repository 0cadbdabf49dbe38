// SPDX-License-Identifier: Apache-2.0
#include "linear/transposed.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>

#include "base/float16.h"
#include "kernels/dispatch.h"
#include "nfloat/codebook.h"
#include "nfloat/error.h"
#include "nfloat/quantize.h"

namespace nfloat {
namespace {

bool target_is_missing() {
  return std::getenv("NFLOAT_TARGET") != nullptr && kernels::forced_target_error() != nullptr;
}

struct Case {
  int64_t m, n, k, block;
};

const Case kCases[] = {{1, 1, 16, 16},     {5, 17, 64, 64},    {6, 33, 48, 64},    {13, 300, 80, 64},
                       {97, 16, 136, 64},  {12, 257, 320, 32}, {33, 50, 77, 64},   {7, 40, 96, 24},
                       {130, 530, 64, 64}, {9, 20, 520, 4096}, {24, 270, 1032, 24}};

std::vector<float> gaussian(int64_t count, uint32_t seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = normal(generator);
  return values;
}

// dx = old + dy[:, first:] w against sums in double precision; the bound is that of a sum of float32
// products.
template <typename Matrix>
void expect_product_from(int64_t first, const Matrix& matrix, const Case& c, bool bf16, double rounding) {
  const int64_t width = first + c.n + 2;
  const std::vector<float> dy = gaussian(c.m * width, 5), old = gaussian(c.m * (c.k + 1), 6);
  std::vector<float> row(static_cast<size_t>(c.k));
  std::vector<double> expected(static_cast<size_t>(c.m * c.k), 0.0), bound = expected;
  for (int64_t n = 0; n < c.n; ++n) {
    matrix.dequantize_row(n, row.data());
    for (int64_t i = 0; i < c.m; ++i)
      for (int64_t k = 0; k < c.k; ++k) {
        const double product =
            static_cast<double>(dy[static_cast<size_t>(i * width + first + n)]) * row[static_cast<size_t>(k)];
        expected[static_cast<size_t>(i * c.k + k)] += product;
        bound[static_cast<size_t>(i * c.k + k)] += std::abs(product);
      }
  }
  std::vector<std::vector<float>> results;
  for (const int threads : {1, 2, 7}) {
    for (const bool accumulate : {false, true}) {
      std::vector<float> dx = old;
      PackedGradients packed;
      packed.assign(dy.data(), width, c.m, width, bf16, threads);
      multiply_transposed(matrix, packed, first, dx.data(), c.k + 1, accumulate, threads);
      for (int64_t i = 0; i < c.m; ++i) {
        const auto gap = static_cast<size_t>(i * (c.k + 1) + c.k);
        ASSERT_EQ(dx[gap], old[gap]);
        for (int64_t k = 0; k < c.k; ++k) {
          const auto at = static_cast<size_t>(i * (c.k + 1) + k), e = static_cast<size_t>(i * c.k + k);
          ASSERT_NEAR(dx[at], expected[e] + (accumulate ? static_cast<double>(old[at]) : 0.0),
                      rounding * bound[e] + 1e-6)
              << c.m << ' ' << c.n << ' ' << c.k << ' ' << c.block << " at " << i << ' ' << k;
        }
      }
      results.push_back(dx);
    }
  }
  EXPECT_EQ(0, std::memcmp(results[0].data(), results[2].data(), results[0].size() * 4));
  EXPECT_EQ(0, std::memcmp(results[1].data(), results[5].data(), results[1].size() * 4));
}

// Pairs of bf16 begin at even columns.
template <typename Matrix>
void expect_product(const Matrix& matrix, const Case& c, bool bf16, double rounding) {
  for (const int64_t first : {3, 4}) expect_product_from(first, matrix, c, bf16, rounding);
}

// Terms behind those of the matrix: weights[column][pair].
class TestTail final : public PairTail {
 public:
  TestTail(const std::vector<uint32_t>& x, int64_t count, std::vector<uint32_t> weights)
      : PairTail(x.data(), count, count), weights_(std::move(weights)) {}
  void fill(int64_t column, int64_t count, uint32_t* strip) const noexcept override {
    for (int64_t l = 0; l < pairs(); ++l)
      for (int64_t c = 0; c < count; ++c)
        strip[l * kernels::table().train.pairs->columns + c] =
            weights_[static_cast<size_t>((column + c) * pairs() + l)];
  }

 private:
  std::vector<uint32_t> weights_;
};

// What a product in pairs may add before it stores: a tail, factors, a bias, and the rounding to bf16.
template <typename Matrix>
void expect_ends(const Matrix& matrix, const Case& c) {
  constexpr int64_t kTail = 3;
  const std::vector<float> x = gaussian(c.m * c.k, 25), factors = gaussian(c.n, 27), bias = gaussian(c.n, 28);
  const auto pairs_of = [](const std::vector<float>& values) {
    std::vector<uint32_t> result(values.size() / 2);
    for (size_t i = 0; i < result.size(); ++i)
      result[i] = float_to_bf16(values[2 * i]) | uint32_t{float_to_bf16(values[2 * i + 1])} << 16;
    return result;
  };
  const std::vector<float> tail_x = gaussian(c.m * 2 * kTail, 29), tail_w = gaussian(c.n * 2 * kTail, 30);
  const std::vector<uint32_t> tail_pairs = pairs_of(tail_x);
  const TestTail tail(tail_pairs, kTail, pairs_of(tail_w));
  PackedGradients packed;
  packed.assign(x.data(), c.k, c.m, c.k, true, 2);
  std::vector<float> plain(static_cast<size_t>(c.m * c.n)), whole(plain.size());
  multiply_pairs(matrix, packed, {.data = plain.data(), .stride = c.n}, 1);
  multiply_pairs(
      matrix, packed,
      {.data = whole.data(), .stride = c.n, .tail = &tail, .factors = factors.data(), .bias = bias.data()},
      2);
  const auto rounded = [](float value) { return double{bf16_to_float(float_to_bf16(value))}; };
  for (int64_t i = 0; i < c.m; ++i)
    for (int64_t n = 0; n < c.n; ++n) {
      double sum = double{plain[static_cast<size_t>(i * c.n + n)]}, bound = std::abs(sum);
      for (int64_t l = 0; l < 2 * kTail; ++l) {
        const double product = rounded(tail_x[static_cast<size_t>(i * 2 * kTail + l)]) *
                               rounded(tail_w[static_cast<size_t>(n * 2 * kTail + l)]);
        sum += product, bound += std::abs(product);
      }
      const double factor = double{factors[static_cast<size_t>(n)]},
                   added = double{bias[static_cast<size_t>(n)]};
      ASSERT_NEAR(whole[static_cast<size_t>(i * c.n + n)], sum * factor + added,
                  2e-6 * (bound * std::abs(factor) + std::abs(added)) + 1e-6)
          << c.m << ' ' << c.n << " at " << i << ' ' << n;
    }
  // As halves: the rounded numbers, by as many rows as one asks for, nothing beside them.
  const int64_t stride = pair_row_stride(c.n);
  std::vector<uint16_t> halves(static_cast<size_t>(c.m * stride), 77);
  multiply_pairs(matrix, packed,
                 {.half = halves.data(),
                  .stride = stride,
                  .tail = &tail,
                  .factors = factors.data(),
                  .bias = bias.data()},
                 7);
  for (int64_t i = 0; i < c.m; ++i)
    for (int64_t n = 0; n < stride; ++n)
      ASSERT_EQ(halves[static_cast<size_t>(i * stride + n)],
                n < c.n ? float_to_bf16(whole[static_cast<size_t>(i * c.n + n)]) : 77)
          << i << ' ' << n;
}

// y = x w^T + bias in pairs of bf16, where the target and the matrix have that; nothing is written beside y.
template <typename Matrix>
void expect_pairs(const Matrix& matrix, const Case& c) {
  if (!multiplies_pairs(matrix)) return;
  const std::vector<float> x = gaussian(c.m * (c.k + 3), 25), bias = gaussian(c.n, 26);
  const std::vector<float> old(static_cast<size_t>(c.m * (c.n + 1)), 7.0f);
  std::vector<float> row(static_cast<size_t>(c.k));
  std::vector<float> first;
  for (const float* added : {static_cast<const float*>(nullptr), bias.data()})
    for (const int threads : {1, 2, 7}) {
      std::vector<float> y = old;
      PackedGradients packed;
      packed.assign(x.data(), c.k + 3, c.m, c.k, true, threads);
      multiply_pairs(matrix, packed, {.data = y.data(), .stride = c.n + 1, .bias = added}, threads);
      for (int64_t n = 0; n < c.n; ++n) {
        matrix.dequantize_row(n, row.data());
        for (int64_t i = 0; i < c.m; ++i) {
          double sum = added == nullptr ? 0.0 : double{added[n]}, bound = std::abs(sum);
          for (int64_t k = 0; k < c.k; ++k) {
            const double product =
                double{x[static_cast<size_t>(i * (c.k + 3) + k)]} * double{row[static_cast<size_t>(k)]};
            sum += product;
            bound += std::abs(product);
          }
          ASSERT_NEAR(y[static_cast<size_t>(i * (c.n + 1) + n)], sum, 8e-3 * bound + 1e-6)
              << c.m << ' ' << c.n << ' ' << c.k << ' ' << c.block << " at " << i << ' ' << n;
        }
      }
      for (int64_t i = 0; i < c.m; ++i) ASSERT_EQ(y[static_cast<size_t>(i * (c.n + 1) + c.n)], 7.0f);
      if (added != nullptr) continue;
      if (first.empty()) first = y;
      EXPECT_EQ(0, std::memcmp(first.data(), y.data(), y.size() * sizeof(float)));
    }
  expect_ends(matrix, c);
  PackedGradients narrow;
  narrow.assign(x.data(), c.k + 3, c.m, c.k - 1, true, 1);
  std::vector<float> y = old;
  EXPECT_THROW(multiply_pairs(matrix, narrow, {.data = y.data(), .stride = c.n + 1}, 1), Error);
}

// The same of one to five rows that stand on their own: up to four take another way.
void expect_few_rows(const PackedMatrix& matrix, const Case& c) {
  const int64_t width = c.n + 1, stride = c.k + 1;
  for (int64_t m = 1; m <= 5; ++m) {
    const std::vector<float> dy = gaussian(m * width, 15);
    std::vector<float> row(static_cast<size_t>(c.k));
    std::vector<double> expected(static_cast<size_t>(m * c.k), 0.0), bound = expected;
    for (int64_t n = 0; n < c.n; ++n) {
      matrix.dequantize_row(n, row.data());
      for (int64_t i = 0; i < m; ++i)
        for (int64_t k = 0; k < c.k; ++k) {
          const double product =
              double{dy[static_cast<size_t>(i * width + n)]} * double{row[static_cast<size_t>(k)]};
          expected[static_cast<size_t>(i * c.k + k)] += product;
          bound[static_cast<size_t>(i * c.k + k)] += std::abs(product);
        }
    }
    std::vector<float> first;
    for (const int threads : {1, 2, 7}) {
      std::vector<float> dx(static_cast<size_t>(m * stride), 77.0f);
      multiply_transposed(matrix, dy.data(), width, m, dx.data(), stride, false, threads);
      for (int64_t i = 0; i < m; ++i) {
        ASSERT_EQ(dx[static_cast<size_t>(i * stride + c.k)], 77.0f);
        for (int64_t k = 0; k < c.k; ++k) {
          const auto e = static_cast<size_t>(i * c.k + k);
          ASSERT_NEAR(dx[static_cast<size_t>(i * stride + k)], expected[e], 2e-6 * bound[e] + 1e-12)
              << m << ' ' << c.n << ' ' << c.k << ' ' << c.block << " at " << i << ' ' << k;
        }
      }
      if (first.empty()) first = dx;
      EXPECT_EQ(0, std::memcmp(first.data(), dx.data(), dx.size() * sizeof(float)));
    }
  }
}

TEST(MultiplyTransposed, PackedMatricesAgreeWithDoublePrecision) {
  if (target_is_missing()) GTEST_SKIP() << "needs a processor that can run the target NFLOAT_TARGET names";
  for (const Case& c : kCases)
    for (const bool nested : {false, true}) {
      const std::vector<float> weights = gaussian(c.n * c.k, 9);
      const TensorView view{DType::kF32, Shape({c.n, c.k}), std::as_bytes(std::span(weights))};
      const QuantizedTensor tensor = quantize_blockwise(
          view, make_codebook("nf4", c.block), {.block_size = c.block, .double_quantization = nested});
      const PackedMatrix matrix = PackedMatrix::pack(pack_source(tensor), 1);
      expect_product(matrix, c, false, 2e-6);
      expect_product(matrix, c, true, 8e-3);
      expect_few_rows(matrix, c);
      expect_pairs(matrix, c);
    }
}

TEST(MultiplyTransposed, DenseMatricesAgreeWithDoublePrecision) {
  if (target_is_missing()) GTEST_SKIP() << "needs a processor that can run the target NFLOAT_TARGET names";
  using Storage = DenseMatrix::Storage;
  for (const Case& c : kCases)
    for (const Storage storage : {Storage::kF32, Storage::kF16, Storage::kBF16, Storage::kInt8}) {
      const std::vector<float> weights = gaussian(c.n * c.k, 9);
      const TensorView view{DType::kF32, Shape({c.n, c.k}), std::as_bytes(std::span(weights))};
      const DenseMatrix matrix = DenseMatrix::pack(view, storage, 1);
      expect_product(matrix, c, false, 2e-6);
      if (storage == Storage::kBF16) expect_product(matrix, c, true, 8e-3);
      expect_pairs(matrix, c);
    }
}

TEST(MultiplyTransposed, TooFewGradientsAreRefused) {
  const std::vector<float> weights(64, 1.0f);
  const TensorView view{DType::kF32, Shape({4, 16}), std::as_bytes(std::span(weights))};
  const DenseMatrix matrix = DenseMatrix::pack(view, DenseMatrix::Storage::kF32, 1);
  const std::vector<float> dy(8);
  std::vector<float> dx(32);
  PackedGradients packed;
  packed.assign(dy.data(), 4, 2, 4, false, 1);
  EXPECT_THROW(multiply_transposed(matrix, packed, 1, dx.data(), 16, false, 1), Error);
}

}  // namespace
}  // namespace nfloat
