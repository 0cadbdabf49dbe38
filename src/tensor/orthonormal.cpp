// SPDX-License-Identifier: Apache-2.0
#include "tensor/orthonormal.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace nfloat {

std::vector<int64_t> orthonormalize_rows(std::span<double> rows, int64_t width) {
  constexpr double kLeast = 1e-6;  // of its length that a row keeps
  const auto size = static_cast<size_t>(width);
  const auto dot = [](std::span<const double> x, std::span<const double> y) {
    return std::inner_product(x.begin(), x.end(), y.begin(), 0.0);
  };
  std::vector<int64_t> kept;
  for (int64_t i = 0; i < std::ssize(rows) / width; ++i) {
    const std::span<double> row = rows.subspan(static_cast<size_t>(i) * size, size);
    const double whole = std::sqrt(dot(row, row));
    for (int pass = 0; pass < 2; ++pass)
      for (const int64_t k : kept) {
        const std::span<const double> other = rows.subspan(static_cast<size_t>(k) * size, size);
        const double along = dot(row, other);
        for (size_t j = 0; j < size; ++j) row[j] -= along * other[j];
      }
    const double length = std::sqrt(dot(row, row));
    if (!(length > kLeast * whole)) {
      std::fill(row.begin(), row.end(), 0.0);
      continue;
    }
    for (double& value : row) value /= length;
    kept.push_back(i);
  }
  return kept;
}

}  // namespace nfloat
