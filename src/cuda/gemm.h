// SPDX-License-Identifier: Apache-2.0
// Products of many rows of activations with 4-bit matrices on tensor cores, forwards and backwards, from one
// layout.
#ifndef NFLOAT_CUDA_GEMM_H_
#define NFLOAT_CUDA_GEMM_H_

#include "cuda/nf4.h"

namespace nfloat::gpu {
inline namespace NFLOAT_MACHINE {

// A block: 64 * kTokenWarps rows of x by kOutputs outputs; a warp: 64 by kWide.
struct GemmShape {
  static constexpr int kDepth = 64;
  static constexpr int kXStride = kDepth + 8;  // bf16 elements; rows 16 bytes apart in the banks
};

template <bool kTransposed, int kTokenWarps, int kOutputs, int kCopies>
struct GemmShared {
  static constexpr int kWRows = kTransposed ? GemmShape::kDepth : kOutputs + 8;
  static constexpr int kWStride = (kTransposed ? kOutputs : GemmShape::kDepth) + 8;
  FloatPairTable<kCopies> table;
  float map[256];
  alignas(16) uint16_t x[2][64 * kTokenWarps * GemmShape::kXStride];
  alignas(16) uint16_t w[2][kWRows * kWStride];
};

// Sixteen of a tile's depth, from `kk` on: a warp's 64 rows of x times kWide outputs.
template <bool kTransposed, int kWide>
NFLOAT_DEVICE void multiply_step(float (&acc)[4][kWide / 8][4], const uint16_t* x, const uint16_t* w,
                                 int w_stride, int warp_token, int warp_output, int kk, int lane) {
  uint32_t a[4][4];
  NFLOAT_UNROLL
  for (int i = 0; i < 4; ++i)
    load_matrices<false>(a[i],
                         &x[(warp_token + i * 16 + lane % 16) * GemmShape::kXStride + kk + lane / 16 * 8]);
  NFLOAT_UNROLL
  for (int j = 0; j < (kWide + 15) / 16; ++j) {
    uint32_t b[4];
    const int output = warp_output + j * 16;
    if constexpr (kTransposed) {
      load_matrices<true>(b, &w[(kk + lane % 16) * w_stride + output + lane / 16 * 8]);
    } else {
      load_matrices<false>(b, &w[(output + lane / 16 * 8 + lane % 8) * w_stride + kk + lane / 8 % 2 * 8]);
    }
    NFLOAT_UNROLL
    for (int i = 0; i < 4; ++i) {
      const uint32_t first[2] = {b[0], b[1]}, second[2] = {b[2], b[3]};
      mma(acc[i][2 * j], a[i], first);
      if (2 * j + 1 < kWide / 8) mma(acc[i][2 * j + 1], a[i], second);
    }
  }
}

// A warp's sums to y, whose first row is x row `token0`; its first number output `output0`.
template <bool kMayAccumulate, int kWide>
NFLOAT_DEVICE void store_sums(const float (&acc)[4][kWide / 8][4], int token0, int count, int64_t output0,
                              int64_t outputs, float* y, int64_t y_stride, bool accumulate, int lane) {
  NFLOAT_UNROLL
  for (int i = 0; i < 4; ++i) NFLOAT_UNROLL
  for (int j = 0; j < kWide / 8; ++j) NFLOAT_UNROLL
  for (int e = 0; e < 4; ++e) {
    const int token = token0 + i * 16 + lane / 4 + e / 2 * 8;
    const int64_t output = output0 + j * 8 + lane % 4 * 2 + e % 2;
    if (token >= count || output >= outputs) continue;
    float& to = y[token * y_stride + output];
    to = kMayAccumulate && accumulate ? to + acc[i][j][e] : acc[i][j][e];
  }
}

// !kTransposed: y[m][row] = sum over columns of x[m][column] * W[row][column]; x: [count, columns].
// kTransposed: y[m][column] = sum over rows of x[m][row] * W[row][column]; x: [count, rows], rows divisible
// by 8; `accumulate`: added to y. x in bf16, rows `x_stride` elements apart (divisible by 8), W decoded to
// bf16(level * scale), sums in float32. Tiles of 64 deep: one in shared memory being multiplied, the next
// being decoded beside it, the codes of the one after that on their way.
template <bool kTransposed, int kTokenWarps, int kOutputs, int kWide, int kCopies>
NFLOAT_KERNEL void NFLOAT_BOUNDS(kTokenWarps * 32 * (kOutputs / kWide), 4 / kTokenWarps)
    gemm(Nf4 w, const uint16_t* x, int64_t x_stride, int count, float* y, int64_t y_stride, bool accumulate) {
  using Shared = GemmShared<kTransposed, kTokenWarps, kOutputs, kCopies>;
  constexpr int kDepth = GemmShape::kDepth, kXStride = GemmShape::kXStride, kWStride = Shared::kWStride;
  constexpr int kAcross = kOutputs / kWide, kThreads = kTokenWarps * kAcross * 32;
  constexpr int kCodes = 128 * kDepth / kThreads,
                kWords = kCodes / 8;                                 // that a thread decodes a tile
  constexpr int kARow = (kTransposed ? kOutputs : kDepth) / kCodes;  // threads a row of the tile
  Shared& s = shared<Shared>();
  const int lane = thread() % 32, warp = thread() / 32;
  const int token0 = block_x() * 64 * kTokenWarps;
  const int64_t output0 = int64_t{block_y()} * kOutputs;
  const int64_t depth = kTransposed ? w.rows : w.columns;
  const int warp_token = warp / kAcross * 64, warp_output = warp % kAcross * kWide;

  const int w_row = thread() / kARow, w_column = thread() % kARow * kCodes;

  struct Run {
    uint2 codes[kWords / 2];
    RawScale raw;
    float scale;
    bool inside;
  };
  const auto load_w = [&](int64_t k) {
    Run run;
    const int64_t row = (kTransposed ? k : output0) + w_row;
    const int64_t column = (kTransposed ? output0 : k) + w_column;
    run.inside = (kTransposed || w_row < kOutputs) && row < w.rows && column < w.columns;
    const int64_t at = run.inside ? row * w.columns + column : 0;
    if constexpr (kTransposed) {
      run.raw = raw_scale_of(w, at >> w.block_shift);
    } else {
      run.scale = scale_of(w, at >> w.block_shift);
    }
    NFLOAT_UNROLL
    for (int i = 0; i < kWords / 2; ++i)
      run.codes[i] = load_cached(reinterpret_cast<const uint2*>(w.codes + at / 2) + i);
    return run;
  };
  const auto load_x = [&](int64_t k, int stage) {
    NFLOAT_UNROLL
    for (int i = 0; i < 64 * kTokenWarps * 8 / kThreads; ++i) {
      const int at = thread() + i * kThreads, row = at / 8, column = at % 8 * 8;
      const bool valid = token0 + row < count && k + column < depth;
      copy_async16(&s.x[stage][row * kXStride + column],
                   valid ? x + (token0 + row) * x_stride + k + column : x, valid);
    }
    copy_commit();
  };
  // A quarter of this thread's codes, or a half in every second part. Rows behind the last are summed only
  // where they are the depth, and there they are zeros whatever stands in the block that was read instead.
  const auto decode = [&](const Run& run, int part, int stage) {
    if (!kTransposed && w_row >= kOutputs) return;
    NFLOAT_UNROLL
    for (int i = part * kWords / 4; i < (part + 1) * kWords / 4; ++i) {
      const uint32_t word = i % 2 == 0 ? run.codes[i / 2].x : run.codes[i / 2].y;
      uint32_t out[4] = {};
      NFLOAT_UNROLL
      for (int b = 0; b < 4 && (!kTransposed || run.inside); ++b) {
        const float2 pair = s.table.at(word >> (8 * b) & 255u, lane);
        out[b] = pack_bf16(pair.x * run.scale, pair.y * run.scale);
      }
      *reinterpret_cast<uint4*>(&s.w[stage][w_row * kWStride + w_column + i * 8]) =
          uint4{out[0], out[1], out[2], out[3]};
    }
  };

  float acc[4][kWide / 8][4] = {};
  Run run = load_w(0);
  load_x(0, 0);
  s.table.fill(w.levels);
  const bool nested = kTransposed && w.nested != nullptr;
  if (nested)
    for (int i = thread(); i < 256; i += kThreads) s.map[i] = load_cached(w.map + i);
  const float* const map = nested ? s.map : nullptr;
  const float offset = nested ? load_cached(w.offset) : 0.0f;
  barrier();
  if constexpr (kTransposed) run.scale = scale_from(run.raw, map, offset);
  NFLOAT_UNROLL
  for (int part = 0; part < 4; ++part) decode(run, part, 0);
  if (kDepth < depth) {
    run = load_w(kDepth);
    if constexpr (kTransposed) run.scale = scale_from(run.raw, map, offset);
  }
  int stage = 0;
  for (int64_t k = 0; k < depth; k += kDepth, stage ^= 1) {
    const bool more = k + kDepth < depth;
    copy_wait<0>();
    barrier();  // this stage is there for all; nobody still reads the other one
    if (more) load_x(k + kDepth, stage ^ 1);
    // Transposed, the codes of the tile after the next are read early; forwards that would cost registers it
    // lacks.
    Run next = run;
    if constexpr (kTransposed)
      if (k + 2 * kDepth < depth) next = load_w(k + 2 * kDepth);
    NFLOAT_UNROLL
    for (int part = 0; part < 4; ++part) {
      const int kk = part * 16;
      multiply_step<kTransposed, kWide>(acc, s.x[stage], s.w[stage], kWStride, warp_token, warp_output, kk,
                                        lane);
      if (more) decode(run, part, stage ^ 1);
    }
    if constexpr (kTransposed) {
      run = next;
      run.scale = scale_from(run.raw, map, offset);
    } else if (k + 2 * kDepth < depth) {
      run = load_w(k + 2 * kDepth);
    }
  }
  store_sums<kTransposed, kWide>(acc, token0 + warp_token, count, output0 + warp_output,
                                 kTransposed ? w.columns : w.rows, y, y_stride, accumulate, lane);
}

template <bool kTransposed, int kTokenWarps, int kOutputs, int kWide, int kCopies>
void launch_gemm(const Nf4& w, const uint16_t* x, int64_t x_stride, int count, float* y, int64_t y_stride,
                 bool accumulate = false) {
  const int64_t outputs = kTransposed ? w.columns : w.rows;
  constexpr int kTokens = 64 * kTokenWarps;
  launch(gemm<kTransposed, kTokenWarps, kOutputs, kWide, kCopies>, (count + kTokens - 1) / kTokens,
         static_cast<int>((outputs + kOutputs - 1) / kOutputs), kTokenWarps * 32 * (kOutputs / kWide),
         sizeof(GemmShared<kTransposed, kTokenWarps, kOutputs, kCopies>), w, x, x_stride, count, y, y_stride,
         accumulate);
}

// Blocks of 256 rows of x need 130 KiB of shared memory (compute capability 8.0, 9.0, 10.x); `large_blocks`
// says that the device has it.
template <bool kTransposed>
void multiply_many(const Nf4& w, const uint16_t* x, int64_t x_stride, int count, float* y, int64_t y_stride,
                   bool large_blocks, int multiprocessors, bool accumulate = false) {
  if (!kTransposed && large_blocks && count > 128) {
    // Blocks of 112 outputs where they fill the multiprocessors better.
    const auto cost = [&](int outputs) {
      const int64_t blocks = (count + 255) / 256 * ((w.rows + outputs - 1) / outputs);
      return (blocks + multiprocessors - 1) / multiprocessors * outputs;
    };
    if (cost(112) < cost(128)) {
      launch_gemm<false, 4, 112, 56, 8>(w, x, x_stride, count, y, y_stride);
    } else {
      launch_gemm<false, 4, 128, 32, 8>(w, x, x_stride, count, y, y_stride);
    }
  } else {
    launch_gemm<kTransposed, 2, 128, 32, 4>(w, x, x_stride, count, y, y_stride, accumulate);
  }
}

}  // namespace NFLOAT_MACHINE
}  // namespace nfloat::gpu

#endif  // NFLOAT_CUDA_GEMM_H_
