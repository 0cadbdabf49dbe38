// SPDX-License-Identifier: Apache-2.0
#include "calibrate/products.h"

#include <algorithm>
#include <vector>

#include "base/parallel.h"
#include "calibrate/cancel.h"
#include "kernels/dispatch.h"

namespace nfloat {
namespace {

constexpr int64_t kColumns = 96;  // of y that a thread takes together: whole groups of every kernel
constexpr int64_t kTransposeTile = 16;

// to [k][count] = the transpose of `count` rows of k numbers, in tiles that stay in the nearest cache.
void transpose_rows(const float* from, int64_t count, int64_t k, float* to) noexcept {
  for (int64_t first = 0; first < k; first += kTransposeTile)
    for (int64_t row = 0; row < count; ++row)
      for (int64_t l = first; l < std::min(k, first + kTransposeTile); ++l)
        to[l * count + row] = from[row * k + l];
}

template <bool kTransposed>
void multiply(std::span<const float> a, int64_t m, std::span<const float> b, int64_t n, int64_t k,
              std::span<float> y, int threads) {
  const kernels::TrainKernels& kernels = kernels::table().train;
  const Cancel cancel;
  parallel_for((n + kColumns - 1) / kColumns, 1, threads, [&](int64_t begin, int64_t end) {
    std::vector<float> panel;
    for (int64_t group = begin; group < end && !cancel.asked(); ++group) {
      const int64_t column = group * kColumns, count = std::min(kColumns, n - column);
      if constexpr (kTransposed) {
        panel.resize(static_cast<size_t>(k * count));
        transpose_rows(b.data() + column * k, count, k, panel.data());
      }
      kernels.product({.a = a.data(),
                       .a_row = k,
                       .a_column = 1,
                       .b = kTransposed ? panel.data() : b.data() + column,
                       .b_stride = kTransposed ? count : n,
                       .c = y.data() + column,
                       .c_stride = n,
                       .m = m,
                       .n = count,
                       .k = k});
    }
  });
  cancel.expect_none();
}

}  // namespace

void product(std::span<const float> a, int64_t m, std::span<const float> b, int64_t n, int64_t k,
             std::span<float> y, int threads) {
  multiply<false>(a, m, b, n, k, y, threads);
}

void product_with_transpose(std::span<const float> a, int64_t m, std::span<const float> b, int64_t n,
                            int64_t k, std::span<float> y, int threads) {
  multiply<true>(a, m, b, n, k, y, threads);
}

}  // namespace nfloat
