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
      multiply_pairs(matrix, packed, y.data(), c.n + 1, added, threads);
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
  PackedGradients narrow;
  narrow.assign(x.data(), c.k + 3, c.m, c.k - 1, true, 1);
  std::vector<float> y = old;
  EXPECT_THROW(multiply_pairs(matrix, narrow, y.data(), c.n + 1, nullptr, 1), Error);
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
      PackSource source;
      source.codes = tensor.codes;
      source.levels = tensor.codebook.levels;
      source.rows = c.n;
      source.cols = c.k;
      source.block_size = c.block;
      source.scales = tensor.scales;
      if (nested) {
        source.scales = {};
        source.nested_codes = tensor.nested.codes;
        source.nested_absmax = tensor.nested.absmax;
        source.nested_map = dynamic_codebook().levels;
        source.nested_offset = tensor.nested.offset;
      }
      const PackedMatrix matrix = PackedMatrix::pack(source, 1);
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
