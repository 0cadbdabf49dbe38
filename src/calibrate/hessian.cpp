// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>

#include "base/fail.h"
#include "base/parallel.h"
#include "calibrate/cancel.h"
#include "calibrate/matrix.h"
#include "calibrate/products.h"
#include "kernels/dispatch.h"

namespace nfloat {
namespace {

constexpr int64_t kPanel = 64;      // columns of the factor done together
constexpr int64_t kStepRows = 256;  // products summed in float32

// A lower triangular matrix in double: panels of kPanel rows, those of a panel as long as its last one. With
// n columns it takes half of n * n numbers.
class LowerTriangle {
 public:
  explicit LowerTriangle(int64_t size) : size_(size), values_(static_cast<size_t>(begin_of(size))) {}
  int64_t size() const noexcept { return size_; }
  double* row(int64_t i) noexcept {
    const int64_t first = i / kPanel * kPanel;
    return values_.data() + begin_of(first) + (i - first) * std::min(size_, first + kPanel);
  }
  const double* row(int64_t i) const noexcept { return const_cast<LowerTriangle*>(this)->row(i); }

 private:
  // Of a row that begins a panel, or behind the last one.
  int64_t begin_of(int64_t row) const noexcept {
    const int64_t whole = row / kPanel, left = row % kPanel;
    return kPanel * kPanel * (whole * (whole + 1) / 2) + left * row;
  }

  int64_t size_;
  std::vector<double> values_;
};

// What is right of and below a panel of the factor, less the product of the panel with itself. The product is
// float32, as the matrix was; what it is subtracted from is double.
void subtract_panel(LowerTriangle& a, int64_t k, int64_t end, int threads) {
  const kernels::TrainKernels& kernels = kernels::table().train;
  const int64_t width = end - k, left = a.size() - end;
  std::vector<float> rows(static_cast<size_t>(left * width)), columns(rows.size());
  for (int64_t i = 0; i < left; ++i) {
    const double* from = a.row(end + i) + k;
    for (int64_t p = 0; p < width; ++p)
      rows[static_cast<size_t>(i * width + p)] = columns[static_cast<size_t>(p * left + i)] =
          static_cast<float>(from[p]);
  }
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
        double* to = a.row(end + first + i) + end;
        const float* from = part.data() + i * reach;
        for (int64_t j = 0; j <= first + i; ++j) to[j] -= static_cast<double>(from[j]);
      }
    }
  });
}

// The lower triangular L with L L^T = a, in place; false when there is none.
bool cholesky(LowerTriangle& a, int threads) {
  const int64_t n = a.size();
  const Cancel cancel;
  for (int64_t k = 0; k < n; k += kPanel) {
    cancel.expect_none();
    const int64_t end = std::min(n, k + kPanel);
    for (int64_t j = k; j < end; ++j) {
      double diagonal = a.row(j)[j];
      for (int64_t p = k; p < j; ++p) diagonal -= a.row(j)[p] * a.row(j)[p];
      if (!(diagonal > 0) || !std::isfinite(diagonal)) return false;
      a.row(j)[j] = std::sqrt(diagonal);
      for (int64_t i = j + 1; i < end; ++i) {
        double sum = a.row(i)[j];
        for (int64_t p = k; p < j; ++p) sum -= a.row(i)[p] * a.row(j)[p];
        a.row(i)[j] = sum / a.row(j)[j];
      }
    }
    parallel_for(n - end, 8, threads, [&](int64_t begin, int64_t last) {
      for (int64_t i = end + begin; i < end + last; ++i) {
        double* own = a.row(i);
        for (int64_t j = k; j < end; ++j) {
          const double* other = a.row(j);
          double sum = own[j];
          for (int64_t p = k; p < j; ++p) sum -= own[p] * other[p];
          own[j] = sum / other[j];
        }
      }
    });
    subtract_panel(a, k, end, threads);
  }
  return true;
}

// The upper triangular U that L is when rows and columns are counted from the last to the first. Products
// take it in float32, panels of kPanel rows from their first column on; what is near the diagonal is kept in
// double.
class UpperFactor {
 public:
  explicit UpperFactor(const LowerTriangle& lower)
      : size_(lower.size()),
        rounded_(static_cast<size_t>(begin_of(size_))),
        near_(static_cast<size_t>(size_ * kPanel)) {
    for (int64_t i = 0; i < size_; ++i) {
      const int64_t first = i / kPanel * kPanel;
      const double* from = lower.row(size_ - 1 - i);
      float* to = rounded_.data() + begin_of(first) + (i - first) * stride(first);
      for (int64_t j = i; j < size_; ++j) {
        const double value = from[size_ - 1 - j];
        to[j - first] = static_cast<float>(value);
        if (j < first + kPanel) near_[static_cast<size_t>(i * kPanel + j - first)] = value;
      }
    }
  }
  int64_t size() const noexcept { return size_; }
  // Of the panel that begins with row `first`: from column `column` on, rows `stride(first)` apart.
  const float* panel(int64_t first, int64_t column) const noexcept {
    return rounded_.data() + begin_of(first) + column - first;
  }
  int64_t stride(int64_t first) const noexcept { return size_ - first; }
  // Where j lies in the panel of row i.
  double near_diagonal(int64_t i, int64_t j) const noexcept {
    return near_[static_cast<size_t>(i * kPanel + j - i / kPanel * kPanel)];
  }

 private:
  int64_t begin_of(int64_t row) const noexcept {
    const int64_t whole = row / kPanel, left = row % kPanel;
    return kPanel * (whole * size_ - kPanel * (whole * (whole - 1) / 2)) + left * left;
  }

  const int64_t size_;
  std::vector<float> rounded_;
  std::vector<double> near_;
};

// The inverse of an upper triangular matrix, upper triangular too and float32 like the products that it is
// made of; sums of them are double. Columns are independent.
void invert_upper(const UpperFactor& u, std::vector<float>& inverse, int threads) {
  const kernels::TrainKernels& kernels = kernels::table().train;
  const int64_t n = u.size();
  inverse.assign(static_cast<size_t>(n * n), 0.0f);
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
          kernels.product({.a = u.panel(first, k),
                           .a_row = u.stride(first),
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
            const double factor = u.near_diagonal(i, p);
            const double* other = sums.data() + (p - first) * kPanel;
            for (int64_t j = 0; j < width; ++j) own[j] -= factor * other[j];
          }
          const double diagonal = u.near_diagonal(i, i);
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

// Of H with so much damping, or with as much more as it takes.
UpperFactor factor_of(std::span<const float> hessian, int64_t size, double& damping, int threads) {
  const double mean = mean_of_diagonal(hessian, size);
  LowerTriangle work(size);
  for (int attempt = 0;; ++attempt, damping *= 4) {
    const bool diagonal_only = attempt == 7;
    // Rows and columns from the last to the first: L of this is U of the inverse, seen the same way.
    for (int64_t i = 0; i < size; ++i) {
      double* row = work.row(i);
      for (int64_t j = 0; j <= i; ++j) {
        const double value = hessian[static_cast<size_t>((size - 1 - i) * size + size - 1 - j)];
        row[j] = i == j ? damped_diagonal(value, mean, damping) : diagonal_only ? 0 : value;
      }
    }
    if (cholesky(work, threads)) return UpperFactor(work);
    if (diagonal_only) fail(ErrorCode::kNotFinite, "the inputs of a product are too large for float32");
  }
}

}  // namespace

SquareMatrix damped(SquareMatrix hessian, int64_t size, double damping) {
  const double mean = mean_of_diagonal(hessian, size);
  for (int64_t i = 0; i < size; ++i) {
    float& value = hessian[static_cast<size_t>(i * (size + 1))];
    value = static_cast<float>(damped_diagonal(static_cast<double>(value), mean, damping));
  }
  return hessian;
}

HessianFactor factorize(SquareMatrix hessian, int64_t size, int64_t tokens, int threads) {
  for (const float value : hessian)
    if (!std::isfinite(value))
      fail(ErrorCode::kNotFinite, "a sum over the inputs of a product is not finite");
  HessianFactor factor;
  factor.size = size;
  factor.damping = tokens < 16 * size ? kDampingOfFew : kDamping;
  invert_upper(factor_of(hessian, size, factor.damping, threads), factor.upper, threads);
  factor.damped = damped(std::move(hessian), size, factor.damping);
  return factor;
}

SquareMatrix mixed_with_layer(std::span<const float> own, int64_t seen, std::span<const float> layer_mean,
                              int64_t size) {
  SquareMatrix mixed(layer_mean.begin(), layer_mean.end());
  if (seen == 0) return mixed;
  // The mean over what was seen is the sum / seen: of it seen / (seen + size).
  const auto all = static_cast<float>(seen + size);
  const float share = static_cast<float>(size) / all;
  for (size_t i = 0; i < mixed.size(); ++i) mixed[i] = own[i] / all + share * mixed[i];
  return mixed;
}

std::vector<float> corrected_target(std::span<const float> weights, int64_t rows,
                                    std::span<const float> difference, const HessianFactor& factor,
                                    float alpha, int threads) {
  const int64_t n = factor.size;
  std::vector<float> target(weights.size());
  if (rows <= n) {
    std::vector<float> half(weights.size());
    product(weights, rows, difference, n, n, target, threads);
    product_with_transpose(target, rows, factor.upper, n, n, half, threads);
    product(half, rows, factor.upper, n, n, target, threads);
  } else {
    SquareMatrix half(difference.size()), whole(difference.size());
    product_with_transpose(difference, n, factor.upper, n, n, half, threads);
    product(half, n, factor.upper, n, n, whole, threads);
    product(weights, rows, whole, n, n, target, threads);
  }
  for (size_t i = 0; i < target.size(); ++i) target[i] = weights[i] + alpha * target[i];
  return target;
}

}  // namespace nfloat
