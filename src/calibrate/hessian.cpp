// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>

#include "base/fail.h"
#include "base/parallel.h"
#include "calibrate/matrix.h"
#include "calibrate/products.h"
#include "nfloat/linear.h"
#include "tensor/transpose.h"

namespace nfloat {
namespace {

constexpr int64_t kPanel = 64;  // columns of the factor done together

// The lower triangular L with L L^T = a, in place of a's lower triangle; false when there is none.
bool cholesky(std::vector<double>& a, int64_t n, int threads) {
  const auto row = [&](int64_t i) { return a.data() + i * n; };
  for (int64_t k = 0; k < n; k += kPanel) {
    const int64_t end = std::min(n, k + kPanel);
    for (int64_t j = k; j < end; ++j) {
      double diagonal = row(j)[j];
      for (int64_t p = k; p < j; ++p) diagonal -= row(j)[p] * row(j)[p];
      if (!(diagonal > 0) || !std::isfinite(diagonal)) return false;
      row(j)[j] = std::sqrt(diagonal);
      for (int64_t i = j + 1; i < end; ++i) {
        double sum = row(i)[j];
        for (int64_t p = k; p < j; ++p) sum -= row(i)[p] * row(j)[p];
        row(i)[j] = sum / row(j)[j];
      }
    }
    parallel_for(n - end, 8, threads, [&](int64_t begin, int64_t last) {
      for (int64_t i = end + begin; i < end + last; ++i)
        for (int64_t j = k; j < end; ++j) {
          double sum = row(i)[j];
          for (int64_t p = k; p < j; ++p) sum -= row(i)[p] * row(j)[p];
          row(i)[j] = sum / row(j)[j];
        }
    });
    // What is left, less the product of the panel with itself.
    parallel_for(n - end, 8, threads, [&](int64_t begin, int64_t last) {
      for (int64_t i = end + begin; i < end + last; ++i)
        for (int64_t j = end; j <= i; ++j) {
          double sums[4] = {};
          const double *x = row(i) + k, *y = row(j) + k;
          int64_t p = 0;
          for (; p + 4 <= end - k; p += 4)
            for (int64_t q = 0; q < 4; ++q) sums[q] += x[p + q] * y[p + q];
          for (; p < end - k; ++p) sums[0] += x[p] * y[p];
          row(i)[j] -= (sums[0] + sums[1]) + (sums[2] + sums[3]);
        }
    });
  }
  return true;
}

// The inverse of an upper triangular matrix, row by row from the last: rows of the result are independent
// sums of later ones, so the columns are shared out.
void invert_upper(const std::vector<double>& u, int64_t n, std::vector<double>& inverse, int threads) {
  inverse.assign(static_cast<size_t>(n * n), 0.0);
  parallel_for(n, kPanel, threads, [&](int64_t begin, int64_t end) {
    for (int64_t i = n - 1; i >= 0; --i) {
      if (i >= end) continue;
      double* out = inverse.data() + i * n;
      const int64_t from = std::max(begin, i);
      for (int64_t p = i + 1; p < end; ++p) {
        const double factor = u[static_cast<size_t>(i * n + p)];
        const double* other = inverse.data() + p * n;
        for (int64_t j = std::max(begin, p); j < end; ++j) out[j] -= factor * other[j];
      }
      const double diagonal = u[static_cast<size_t>(i * n + i)];
      if (i >= begin) out[i] += 1;
      for (int64_t j = from; j < end; ++j) out[j] /= diagonal;
    }
  });
}

}  // namespace

void product_with_transpose(std::span<const float> a, int64_t m, std::span<const float> b, int64_t n,
                            int64_t k, std::span<float> y, int threads) {
  const TensorView view{DType::kF32, {n, k}, std::as_bytes(b)};
  const DenseMatrix packed = DenseMatrix::pack(view, DenseMatrix::Storage::kF32, threads);
  constexpr int64_t kRows = 512;
  Activations activations;
  for (int64_t row = 0; row < m; row += kRows) {
    const int64_t rows = std::min(kRows, m - row);
    activations.assign(a.data() + row * k, k, rows, k);
    LinearOptions options;
    options.precision = Precision::kF32;
    options.threads = threads;
    linear(packed, activations, y.data() + row * n, options);
  }
}

HessianFactor factorize(std::span<const float> hessian, int64_t size, int64_t tokens, int threads) {
  const auto count = static_cast<size_t>(size * size);
  for (const float value : hessian)
    if (!std::isfinite(value))
      fail(ErrorCode::kNotFinite, "a sum over the inputs of a product is not finite");
  HessianFactor factor;
  factor.size = size;
  const auto at = [size](int64_t i, int64_t j) { return static_cast<size_t>(i * size + j); };
  double mean = 0;
  int64_t alive = 0;
  for (int64_t i = 0; i < size; ++i)
    if (const double d = hessian[at(i, i)]; d > 0) mean += d, ++alive;
  mean = alive > 0 ? mean / static_cast<double>(alive) : 1;
  double damping = tokens < 16 * size ? .1 : .03;
  std::vector<double> work(count);
  for (int attempt = 0;; ++attempt, damping *= 4) {
    const bool diagonal_only = attempt == 7;
    // Rows and columns from the last to the first: L of this is U of the inverse, seen the same way.
    for (int64_t i = 0; i < size; ++i)
      for (int64_t j = 0; j <= i; ++j) {
        const double value = hessian[at(size - 1 - i, size - 1 - j)];
        const double own = i == j ? (value > 0 ? value : mean) + damping * mean : diagonal_only ? 0 : value;
        work[at(i, j)] = own;
      }
    if (cholesky(work, size, threads)) break;
    if (diagonal_only) fail(ErrorCode::kNotFinite, "the inputs of a product are too large for float32");
  }
  factor.damping = damping;
  std::vector<double> upper(count, 0.0);
  for (int64_t i = 0; i < size; ++i)
    for (int64_t j = 0; j <= i; ++j) upper[at(size - 1 - i, size - 1 - j)] = work[at(i, j)];
  invert_upper(upper, size, work, threads);
  factor.upper.assign(work.begin(), work.end());
  factor.damped.assign(hessian.begin(), hessian.end());
  for (int64_t i = 0; i < size; ++i) {
    const double value = hessian[at(i, i)];
    factor.damped[at(i, i)] = static_cast<float>((value > 0 ? value : mean) + damping * mean);
  }
  return factor;
}

std::vector<float> corrected_target(std::span<const float> weights, int64_t rows,
                                    std::span<const float> cross, std::span<const float> hessian,
                                    const HessianFactor& factor, float alpha, int threads) {
  const int64_t n = factor.size;
  SquareMatrix difference(cross.begin(), cross.end());
  for (size_t i = 0; i < difference.size(); ++i) difference[i] -= hessian[i];
  // (C - H) U^T U, whose transpose multiplies the rows of W.
  SquareMatrix half(difference.size());
  product_with_transpose(difference, n, factor.upper, n, n, half, threads);
  product_with_transpose(half, n, transposed(factor.upper, n, n), n, n, difference, threads);
  difference = transposed(difference, n, n);
  std::vector<float> target(weights.size());
  product_with_transpose(weights, rows, difference, n, n, target, threads);
  for (size_t i = 0; i < target.size(); ++i) target[i] = weights[i] + alpha * target[i];
  return target;
}

}  // namespace nfloat
