// SPDX-License-Identifier: Apache-2.0
// Products in float32 with transposed weights of any storage, any number of columns and any blocks: gradients
// of activations. Those of tensor cores: gemm.h.
#ifndef NFLOAT_CUDA_TRANSPOSED_H_
#define NFLOAT_CUDA_TRANSPOSED_H_

#include "cuda/product.h"

namespace nfloat::gpu {
inline namespace NFLOAT_MACHINE {

inline constexpr int kTransposedThreads = 256, kTransposedWarps = kTransposedThreads / 32;
inline constexpr int kTransposedColumns = 32 * 8;  // of a block
inline constexpr int kTransposedStep = 16;         // rows of W whose terms are summed on their own

template <int kBatch>
struct TransposedShared {
  ProductShared tables;
  float sums[kTransposedWarps][kBatch][kTransposedColumns];
};

// y[b][k] = sum over the rows n of W of x[b][n] * W[n][k]. A lane takes eight columns, a warp every
// kTransposedWarps-th row of W, whose codes its lanes read side by side. A number of y is summed in the same
// order whatever kBatch is. Blocks: columns, batches of rows of x.
template <Storage kStorage, bool kWholeWords, int kBatch>
NFLOAT_KERNEL void product_columns(ProductArguments a) {
  const Weights& w = a.weights;
  TransposedShared<kBatch>& s = shared<TransposedShared<kBatch>>();
  const float offset = load_tables<kStorage>(w, s.tables, kTransposedThreads);
  const int lane = thread() % 32, warp = thread() / 32;
  const int64_t k = int64_t{block_x()} * kTransposedColumns + lane * 8;
  const int64_t x_row = int64_t{block_y()} * kBatch;
  float sums[kBatch][8] = {};
  if (k < w.cols) {
    for (int64_t first = warp; first < w.rows; first += kTransposedWarps * kTransposedStep) {
      float step[kBatch][8] = {};
      for (int i = 0; i < kTransposedStep; ++i) {
        const int64_t row = first + i * kTransposedWarps;
        if (row >= w.rows) break;
        float weights[8];
        decode_eight<kStorage, kWholeWords>(w, s.tables, offset, row, k, weights);
        NFLOAT_UNROLL
        for (int b = 0; b < kBatch; ++b) {
          const float x = x_row + b < a.x_rows ? load_cached(a.x + (x_row + b) * a.x_stride + row) : 0.0f;
          NFLOAT_UNROLL
          for (int j = 0; j < 8; ++j) step[b][j] = fused(weights[j], x, step[b][j]);
        }
      }
      NFLOAT_UNROLL
      for (int b = 0; b < kBatch; ++b) NFLOAT_UNROLL
      for (int j = 0; j < 8; ++j) sums[b][j] += step[b][j];
    }
  }
  NFLOAT_UNROLL
  for (int b = 0; b < kBatch; ++b) NFLOAT_UNROLL
  for (int j = 0; j < 8; ++j) s.sums[warp][b][lane * 8 + j] = sums[b][j];
  barrier();
  const int64_t column = int64_t{block_x()} * kTransposedColumns + thread();
  if (column >= w.cols) return;
  for (int b = 0; b < kBatch && x_row + b < a.x_rows; ++b) {
    float sum = 0;
    NFLOAT_UNROLL
    for (int i = 0; i < kTransposedWarps; ++i) sum += s.sums[i][b][thread()];
    float& to = a.y[(x_row + b) * a.y_stride + column];
    to = a.accumulate ? to + sum : sum;
  }
}

template <Storage kStorage, bool kWholeWords>
void launch_transposed_of(const ProductArguments& a) {
  const bool one = a.x_rows == 1;
  const int64_t batch = one ? 1 : 4;
  const auto columns = static_cast<int>((a.weights.cols + kTransposedColumns - 1) / kTransposedColumns);
  over_batches(a, batch, [&](const ProductArguments& part, int batches) {
    if (one)
      launch(product_columns<kStorage, kWholeWords, 1>, columns, batches, kTransposedThreads,
             sizeof(TransposedShared<1>), part);
    else
      launch(product_columns<kStorage, kWholeWords, 4>, columns, batches, kTransposedThreads,
             sizeof(TransposedShared<4>), part);
  });
}

inline void launch_transposed(const ProductArguments& a) {
  with_storage(a.weights,
               [&]<Storage kStorage, bool kWholeWords>() { launch_transposed_of<kStorage, kWholeWords>(a); });
}

}  // namespace NFLOAT_MACHINE
}  // namespace nfloat::gpu

#endif  // NFLOAT_CUDA_TRANSPOSED_H_
