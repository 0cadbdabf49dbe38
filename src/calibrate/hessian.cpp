// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>

#include "base/fail.h"
#include "base/parallel.h"
#include "calibrate/cancel.h"
#include "calibrate/matrix.h"
#include "calibrate/products.h"
#include "kernels/dispatch.h"
#include "nfloat/linear.h"
#include "tensor/transpose.h"

namespace nfloat {
namespace {

constexpr int64_t kPanel = 64;      // columns of the factor done together
constexpr int64_t kStepRows = 256;  // products summed in float32

// What is right of and below a panel of the factor, less the product of the panel with itself. The product is
// float32, as the matrix was; what it is subtracted from is double.
void subtract_panel(std::vector<double>& a, int64_t n, int64_t k, int64_t end, int threads) {
  const kernels::TrainKernels& kernels = kernels::table().train;
  const int64_t width = end - k, left = n - end;
  std::vector<float> rows(static_cast<size_t>(left * width)), columns(rows.size());
  for (int64_t i = 0; i < left; ++i)
    for (int64_t p = 0; p < width; ++p)
      rows[static_cast<size_t>(i * width + p)] = columns[static_cast<size_t>(p * left + i)] =
          static_cast<float>(a[static_cast<size_t>((end + i) * n + k + p)]);
  const int64_t chunks = (left + kPanel - 1) / kPanel;
  parallel_for(chunks, 1, threads, [&](int64_t begin, int64_t last) {
    std::vector<float> part;
    for (int64_t chunk = begin; chunk < last; ++chunk) {
      // The lower the rows, the longer they are: the longest begin first.
      const int64_t first = (chunks - 1 - chunk) * kPanel;
      const int64_t count = std::min(kPanel, left - first), reach = first + count;
      part.resize(static_cast<size_t>(count * reach));
      kernels.product({.a = rows.data() + first * width,
                       .a_row = width,
                       .a_column = 1,
                       .b = columns.data(),
                       .b_stride = left,
                       .c = part.data(),
                       .c_stride = reach,
                       .m = count,
                       .n = reach,
                       .k = width});
      for (int64_t i = 0; i < count; ++i) {
        double* to = a.data() + (end + first + i) * n + end;
        const float* from = part.data() + i * reach;
        for (int64_t j = 0; j <= first + i; ++j) to[j] -= static_cast<double>(from[j]);
      }
    }
  });
}

// The lower triangular L with L L^T = a, in place of a's lower triangle; false when there is none.
bool cholesky(std::vector<double>& a, int64_t n, int threads) {
  const auto row = [&](int64_t i) { return a.data() + i * n; };
  const Cancel cancel;
  for (int64_t k = 0; k < n; k += kPanel) {
    cancel.expect_none();
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
    subtract_panel(a, n, k, end, threads);
  }
  return true;
}

// The inverse of an upper triangular matrix, upper triangular too and float32 like the products that it is
// made of; sums of them are double. Columns are independent.
void invert_upper(const std::vector<double>& u, int64_t n, std::vector<float>& inverse, int threads) {
  const kernels::TrainKernels& kernels = kernels::table().train;
  inverse.assign(static_cast<size_t>(n * n), 0.0f);
  const std::vector<float> rounded(u.begin(), u.end());
  const Cancel cancel;
  const int64_t chunks = (n + kPanel - 1) / kPanel;
  parallel_for(chunks, 1, threads, [&](int64_t begin, int64_t end) {
    std::vector<double> sums(kPanel * kPanel);
    std::vector<float> part(kPanel * kPanel);
    for (int64_t chunk = begin; chunk < end; ++chunk) {
      // The last columns take longest and begin first.
      const int64_t column = (chunks - 1 - chunk) * kPanel, width = std::min(kPanel, n - column);
      for (int64_t first = column; first >= 0 && !cancel.asked(); first -= kPanel) {
        const int64_t last = std::min(n, first + kPanel);
        std::fill(sums.begin(), sums.end(), 0.0);
        for (int64_t k = last; k < column + width; k += kStepRows) {
          kernels.product({.a = rounded.data() + first * n + k,
                           .a_row = n,
                           .a_column = 1,
                           .b = inverse.data() + k * n + column,
                           .b_stride = n,
                           .c = part.data(),
                           .c_stride = kPanel,
                           .m = last - first,
                           .n = width,
                           .k = std::min(kStepRows, column + width - k)});
          for (size_t i = 0; i < sums.size(); ++i) sums[i] += static_cast<double>(part[i]);
        }
        for (int64_t i = last - 1; i >= first; --i) {
          double* own = sums.data() + (i - first) * kPanel;
          for (int64_t j = 0; j < width; ++j) own[j] = (i == column + j ? 1 : 0) - own[j];
          for (int64_t p = i + 1; p < last; ++p) {
            const double factor = u[static_cast<size_t>(i * n + p)];
            const double* other = sums.data() + (p - first) * kPanel;
            for (int64_t j = 0; j < width; ++j) own[j] -= factor * other[j];
          }
          const double diagonal = u[static_cast<size_t>(i * n + i)];
          for (int64_t j = 0; j < width; ++j) {
            own[j] /= diagonal;
            inverse[static_cast<size_t>(i * n + column + j)] = static_cast<float>(own[j]);
          }
        }
      }
    }
  });
  cancel.expect_none();
}

// Of the columns whose inputs were not always zero.
double mean_of_diagonal(std::span<const float> hessian, int64_t size) noexcept {
  double sum = 0;
  int64_t alive = 0;
  for (int64_t i = 0; i < size; ++i)
    if (const double d = hessian[static_cast<size_t>(i * (size + 1))]; d > 0) sum += d, ++alive;
  return alive > 0 ? sum / static_cast<double>(alive) : 1;
}

double damped_diagonal(double value, double mean, double damping) noexcept {
  return (value > 0 ? value : mean) + damping * mean;
}

}  // namespace

SquareMatrix damped(std::span<const float> hessian, int64_t size, double damping) {
  SquareMatrix result(hessian.begin(), hessian.end());
  const double mean = mean_of_diagonal(hessian, size);
  for (int64_t i = 0; i < size; ++i) {
    float& value = result[static_cast<size_t>(i * (size + 1))];
    value = static_cast<float>(damped_diagonal(static_cast<double>(value), mean, damping));
  }
  return result;
}

void product_with_transpose(std::span<const float> a, int64_t m, std::span<const float> b, int64_t n,
                            int64_t k, std::span<float> y, int threads) {
  const TensorView view{DType::kF32, {n, k}, std::as_bytes(b)};
  const DenseMatrix packed = DenseMatrix::pack(view, DenseMatrix::Storage::kF32, threads);
  constexpr int64_t kRows = 512;
  Activations activations;
  const Cancel cancel;
  for (int64_t row = 0; row < m; row += kRows) {
    cancel.expect_none();
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
  const double mean = mean_of_diagonal(hessian, size);
  double damping = tokens < 16 * size ? .1 : kDamping;
  std::vector<double> work(count);
  for (int attempt = 0;; ++attempt, damping *= 4) {
    const bool diagonal_only = attempt == 7;
    // Rows and columns from the last to the first: L of this is U of the inverse, seen the same way.
    for (int64_t i = 0; i < size; ++i)
      for (int64_t j = 0; j <= i; ++j) {
        const double value = hessian[at(size - 1 - i, size - 1 - j)];
        const double own = i == j ? damped_diagonal(value, mean, damping) : diagonal_only ? 0 : value;
        work[at(i, j)] = own;
      }
    if (cholesky(work, size, threads)) break;
    if (diagonal_only) fail(ErrorCode::kNotFinite, "the inputs of a product are too large for float32");
  }
  factor.damping = damping;
  std::vector<double> upper(count, 0.0);
  for (int64_t i = 0; i < size; ++i)
    for (int64_t j = 0; j <= i; ++j) upper[at(size - 1 - i, size - 1 - j)] = work[at(i, j)];
  invert_upper(upper, size, factor.upper, threads);
  factor.damped = damped(hessian, size, damping);
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
