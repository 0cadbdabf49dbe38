// SPDX-License-Identifier: Apache-2.0
// Products of many rows of activations with plain matrices in bf16 on tensor cores, forwards and backwards.
// 4-bit ones: gemm.h.
#ifndef NFLOAT_CUDA_PLAIN_GEMM_H_
#define NFLOAT_CUDA_PLAIN_GEMM_H_

#include "cuda/card.h"
#include "cuda/gemm.h"

namespace nfloat::gpu {
inline namespace NFLOAT_MACHINE {

// A block: 128 rows of x by 128 outputs; a warp: 64 by 32.
struct PlainShape {
  static constexpr int kTokens = 128, kOutputs = 128, kWide = 32, kThreads = 256;
};

template <bool kTransposed>
struct PlainShared {
  static constexpr int kWRows = kTransposed ? GemmShape::kDepth : PlainShape::kOutputs;
  static constexpr int kWColumns = kTransposed ? PlainShape::kOutputs : GemmShape::kDepth;
  static constexpr int kWStride = kWColumns + 8;  // rows 16 bytes apart in the banks
  alignas(16) uint16_t x[2][PlainShape::kTokens * GemmShape::kXStride];
  alignas(16) uint16_t w[2][kWRows * kWStride];
};

// W: `rows` rows of `columns` bf16, `w_stride` apart, a multiple of 8; else as gemm(). Both tiles come in
// pieces of 16 bytes: columns, and transposed rows too, are divisible by 8.
template <bool kTransposed>
NFLOAT_KERNEL void NFLOAT_BOUNDS(PlainShape::kThreads, 2)
    plain_gemm(const uint16_t* w, int64_t rows, int64_t columns, int64_t w_stride, const uint16_t* x,
               int64_t x_stride, int count, float* y, int64_t y_stride, bool accumulate) {
  using Shared = PlainShared<kTransposed>;
  constexpr int kDepth = GemmShape::kDepth, kXStride = GemmShape::kXStride, kThreads = PlainShape::kThreads;
  Shared& s = shared<Shared>();
  const int lane = thread() % 32, warp = thread() / 32;
  const int token0 = block_x() * PlainShape::kTokens;
  const int64_t output0 = int64_t{block_y()} * PlainShape::kOutputs;
  const int64_t depth = kTransposed ? rows : columns, outputs = kTransposed ? columns : rows;
  const int warp_token = warp / 4 * 64, warp_output = warp % 4 * PlainShape::kWide;

  const auto load = [&](int64_t k, int stage) {
    NFLOAT_UNROLL
    for (int i = 0; i < PlainShape::kTokens * kDepth / 8 / kThreads; ++i) {
      const int at = thread() + i * kThreads, row = at / (kDepth / 8), column = at % (kDepth / 8) * 8;
      const bool valid = token0 + row < count && k + column < depth;
      copy_async16(&s.x[stage][row * kXStride + column],
                   valid ? x + (token0 + row) * x_stride + k + column : x, valid);
    }
    NFLOAT_UNROLL
    for (int i = 0; i < Shared::kWRows * Shared::kWColumns / 8 / kThreads; ++i) {
      const int at = thread() + i * kThreads;
      const int row = at / (Shared::kWColumns / 8), column = at % (Shared::kWColumns / 8) * 8;
      const int64_t from_row = (kTransposed ? k : output0) + row, from = (kTransposed ? output0 : k) + column;
      const bool valid = from_row < rows && from < columns;
      copy_async16(&s.w[stage][row * Shared::kWStride + column], valid ? w + from_row * w_stride + from : w,
                   valid);
    }
    copy_commit();
  };

  float acc[4][PlainShape::kWide / 8][4] = {};
  load(0, 0);
  int stage = 0;
  for (int64_t k = 0; k < depth; k += kDepth, stage ^= 1) {
    copy_wait<0>();
    barrier();  // this stage is there for all; nobody still reads the other one
    if (k + kDepth < depth) load(k + kDepth, stage ^ 1);
    NFLOAT_UNROLL
    for (int kk = 0; kk < kDepth; kk += 16)
      multiply_step<kTransposed, PlainShape::kWide>(acc, s.x[stage], s.w[stage], Shared::kWStride, warp_token,
                                                    warp_output, kk, lane);
  }
  store_sums<true, PlainShape::kWide>(acc, token0 + warp_token, count, output0 + warp_output, outputs, y,
                                      y_stride, accumulate, lane);
}

// As multiply_many(), of weights of which multiplies_plain_bf16() is true.
template <bool kTransposed>
void multiply_plain(const Weights& w, const uint16_t* x, int64_t x_stride, int count, float* y,
                    int64_t y_stride, bool accumulate = false) {
  const int64_t outputs = kTransposed ? w.cols : w.rows;
  launch(plain_gemm<kTransposed>, (count + PlainShape::kTokens - 1) / PlainShape::kTokens,
         static_cast<int>((outputs + PlainShape::kOutputs - 1) / PlainShape::kOutputs), PlainShape::kThreads,
         sizeof(PlainShared<kTransposed>), static_cast<const uint16_t*>(w.elements), w.rows, w.cols, w.cols,
         x, x_stride, count, y, y_stride, accumulate);
}

}  // namespace NFLOAT_MACHINE
}  // namespace nfloat::gpu

#endif  // NFLOAT_CUDA_PLAIN_GEMM_H_
