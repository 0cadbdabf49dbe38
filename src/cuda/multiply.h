// SPDX-License-Identifier: Apache-2.0
// Products of activations with 4-bit matrices: y[m][row] = sum over columns of x[m][column] * W[row][column],
// m few. Many rows of x: gemm.h.
#ifndef NFLOAT_CUDA_MULTIPLY_H_
#define NFLOAT_CUDA_MULTIPLY_H_

#include "cuda/nf4.h"

namespace nfloat::gpu {
inline namespace NFLOAT_MACHINE {

// Up to 8 rows of x (bf16) on tensor cores. A block takes tiles of 16 rows of W one after the other; its
// warps share the columns, kSteps blocks of 64 columns a turn, and add up at the end of a tile. Codes go
// straight from memory into fragments: lane (g, q) of a warp, g = lane / 4, reads 16 codes of rows g and g +
// 8 and multiplies columns in the order in which those codes lie; x is read in the same order. Levels are
// rounded to bf16, scales stay float32. x: rows of `columns` elements, on 16 bytes. Fewer than 2^31 blocks of
// 64 codes.
inline constexpr int kGemvRows = 16, kGemvWarps = 32;

template <int kCopies>
struct GemvShared {
  PairTable<kCopies> table;
  float map[256];
  float sums[2][kGemvWarps][4][32];
};

// What a warp reads in one turn, before it is decoded.
template <int kSteps>
struct GemvTurn {
  static constexpr int kOwn = kSteps / 4;  // blocks of a turn whose scales a lane computes
  uint2 codes[kSteps][2];
  float scales[2][kOwn];  // the scale, or the second-level absmax
  uint32_t nested[2][kOwn];
};

template <bool kWhole, bool kNested, int kSteps, int kCopies, int kThreads, int kBlocks>
NFLOAT_KERNEL void NFLOAT_BOUNDS(kThreads, kBlocks)
    gemv(Nf4 w, const uint16_t* x, int count, float* y, int64_t y_stride) {
  using Turn = GemvTurn<kSteps>;
  constexpr int kOwn = Turn::kOwn;
  GemvShared<kCopies>& s = shared<GemvShared<kCopies>>();
  const int lane = thread() % 32, warp = thread() / 32, warps = threads() / 32;
  const int g = lane / 4, q = lane % 4;
  const int blocks = static_cast<int>(w.columns / 64);
  const int wide = w.block_shift - 6;  // a scale serves 2^wide blocks of 64 codes
  const int chunks = (blocks + kSteps - 1) / kSteps;
  const int last_row = static_cast<int>(w.rows) - 1, tiles = last_row / kGemvRows + 1;
  const uint8_t* const codes = w.codes + q * 8;

  const auto load = [&](int tile, int chunk) {
    Turn turn;
    NFLOAT_UNROLL
    for (int h = 0; h < 2; ++h) {
      // Rows behind the last read the last one; their sums are not stored.
      const int wanted = tile * kGemvRows + g + 8 * h, row = wanted < last_row ? wanted : last_row;
      const int first = row * blocks + chunk * kSteps;  // block of 64 codes
      const uint8_t* from = codes + int64_t{first} * 32;
      NFLOAT_UNROLL
      for (int i = 0; i < kSteps; ++i) {
        turn.codes[i][h] = uint2{0, 0};
        if (kWhole || chunk * kSteps + i < blocks)
          turn.codes[i][h] = load_stream(reinterpret_cast<const uint2*>(from + i * 32));
      }
      NFLOAT_UNROLL
      for (int i = 0; i < kOwn; ++i) {
        const int own = kOwn * q + i, at = (first + own) >> wide;
        turn.scales[h][i] = 0;
        turn.nested[h][i] = 0;
        if (kWhole || chunk * kSteps + own < blocks) {
          if constexpr (kNested) {
            turn.scales[h][i] = load_cached(w.nested_absmax + (at >> kNestedShift));
            turn.nested[h][i] = load_cached(w.nested + at);
          } else {
            turn.scales[h][i] = load_cached(w.scales + at);
          }
        }
      }
    }
    return turn;
  };

  int tile = block_x(), chunk = warp, parity = 0;
  s.table.fill(w.levels);
  float offset = 0;
  if constexpr (kNested) {
    for (int i = thread(); i < 256; i += threads()) s.map[i] = load_cached(w.map + i);
    offset = load_cached(w.offset);
  }
  barrier();
  const uint32_t place = s.table.place_of(lane);
  const uint16_t* const x_lane = x + g * w.columns + q * 16;
  float sum[4] = {0, 0, 0, 0};
  while (tile < tiles) {
    if (chunk < chunks) {
      const Turn turn = load(tile, chunk);
      const int begin = chunk * kSteps;
      float scales[2][kOwn];
      NFLOAT_UNROLL
      for (int h = 0; h < 2; ++h) NFLOAT_UNROLL
      for (int i = 0; i < kOwn; ++i)
        scales[h][i] =
            kNested ? add_rounded(multiply_rounded(s.map[turn.nested[h][i]], turn.scales[h][i]), offset)
                    : turn.scales[h][i];
      NFLOAT_UNROLL
      for (int i = 0; i < kSteps; ++i) {
        if (!kWhole && begin + i >= blocks) break;  // the same for all lanes
        uint4 values[2] = {uint4{0, 0, 0, 0}, uint4{0, 0, 0, 0}};
        if (g < count) {
          const uint4* at = reinterpret_cast<const uint4*>(x_lane + (begin + i) * 64);
          values[0] = load_cached(at);
          values[1] = load_cached(at + 1);
        }
        const uint32_t xs[8] = {values[0].x, values[0].y, values[0].z, values[0].w,
                                values[1].x, values[1].y, values[1].z, values[1].w};
        float part[4] = {0, 0, 0, 0};
        NFLOAT_UNROLL
        for (int j = 0; j < 4; ++j) {
          const uint32_t low = j < 2 ? turn.codes[i][0].x : turn.codes[i][0].y;
          const uint32_t high = j < 2 ? turn.codes[i][1].x : turn.codes[i][1].y;
          const int byte = j % 2 * 2;
          const uint32_t a[4] = {s.table.of(low, byte, place), s.table.of(high, byte, place),
                                 s.table.of(low, byte + 1, place), s.table.of(high, byte + 1, place)};
          const uint32_t b[2] = {xs[2 * j], xs[2 * j + 1]};
          mma(part, a, b);
        }
        const int owner = lane / 4 * 4 + i / kOwn;
        const float first = shuffle(scales[0][i % kOwn], owner), second = shuffle(scales[1][i % kOwn], owner);
        sum[0] += part[0] * first;
        sum[1] += part[1] * first;
        sum[2] += part[2] * second;
        sum[3] += part[3] * second;
      }
    }
    chunk += warps;
    if (chunk - warp < chunks) continue;  // the same for all warps
    NFLOAT_UNROLL
    for (int e = 0; e < 4; ++e) {
      s.sums[parity][warp][e][lane] = sum[e];
      sum[e] = 0;
    }
    barrier();  // the sums of the tile before last are read
    if (thread() < 128) {
      const int other = thread() % 32, e = thread() / 32;
      float total = 0;
      for (int i = 0; i < warps; ++i) total += s.sums[parity][i][e][other];
      const int row = tile * kGemvRows + other / 4 + e / 2 * 8, token = other % 4 * 2 + e % 2;
      if (row <= last_row && token < count) y[token * y_stride + row] = total;
    }
    parity ^= 1;
    tile += blocks_x();
    chunk = warp;
  }
}

// Launches gemv with kThreads (or fewer where the matrix is narrow), kBlocks blocks a multiprocessor.
template <int kSteps, int kCopies, int kThreads, int kBlocks>
void launch_gemv(const Nf4& w, const uint16_t* x, int count, float* y, int64_t y_stride,
                 int multiprocessors) {
  const int64_t chunks = (w.columns / 64 + kSteps - 1) / kSteps;
  int warps = 4;
  while (warps < kThreads / 32 && warps < chunks) warps *= 2;
  if (warps > kThreads / 32) warps = kThreads / 32;
  const int64_t tiles = (w.rows + kGemvRows - 1) / kGemvRows;
  const int64_t most = int64_t{multiprocessors} * kBlocks * (kThreads / 32 / warps);
  const bool whole = w.columns % (64 * kSteps) == 0, nested = w.nested != nullptr;
  const auto kernel = whole    ? nested ? gemv<true, true, kSteps, kCopies, kThreads, kBlocks>
                                        : gemv<true, false, kSteps, kCopies, kThreads, kBlocks>
                         : nested ? gemv<false, true, kSteps, kCopies, kThreads, kBlocks>
                               : gemv<false, false, kSteps, kCopies, kThreads, kBlocks>;
  launch(kernel, static_cast<int>(tiles < most ? tiles : most), 1, warps * 32, sizeof(GemvShared<kCopies>), w,
         x, count, y, y_stride);
}

// x: [count, columns] bf16, count 1 to 8; y[token * y_stride + row].
inline void multiply_few(const Nf4& w, const uint16_t* x, int count, float* y, int64_t y_stride,
                         int multiprocessors) {
  launch_gemv<4, 32, 512, 2>(w, x, count, y, y_stride, multiprocessors);
}

// kCount rows of x in float32, all arithmetic in float32: a warp a row of W.
struct ExactShared {
  FloatPairTable<4> table;
};

template <int kCount>
NFLOAT_KERNEL void gemv_exact(Nf4 w, const float* x, float* y, int64_t y_stride) {
  ExactShared& s = shared<ExactShared>();
  s.table.fill(w.levels);
  barrier();
  const int lane = thread() % 32;
  const int64_t row = int64_t{block_x()} * (threads() / 32) + thread() / 32;
  const bool active = row < w.rows;
  float sum[kCount] = {};
  if (active) {
    for (int64_t run = lane; run < w.columns / 32; run += 32) {
      const int64_t at = row * (w.columns / 32) + run;
      const uint4 codes = load_stream(reinterpret_cast<const uint4*>(w.codes) + at);
      const float scale = scale_of(w, at >> (w.block_shift - 5));
      const uint32_t words[4] = {codes.x, codes.y, codes.z, codes.w};
      NFLOAT_UNROLL
      for (int m = 0; m < kCount; ++m) {
        const float* from = x + m * w.columns + run * 32;
        float part = 0;
        NFLOAT_UNROLL
        for (int b = 0; b < 16; ++b) {
          const float2 pair = s.table.at(words[b / 4] >> (b % 4 * 8) & 255u, lane);
          const float2 values = load_cached(reinterpret_cast<const float2*>(from) + b);
          part += pair.x * values.x + pair.y * values.y;
        }
        sum[m] += part * scale;
      }
    }
  }
  NFLOAT_UNROLL
  for (int m = 0; m < kCount; ++m) {
    for (int mask = 16; mask > 0; mask /= 2) sum[m] += shuffle_xor(sum[m], mask);
    if (active && lane == 0) y[m * y_stride + row] = sum[m];
  }
}

// x: [kCount, columns] float32.
template <int kCount>
void multiply_exact(const Nf4& w, const float* x, float* y, int64_t y_stride) {
  launch(gemv_exact<kCount>, static_cast<int>((w.rows + 3) / 4), 1, 128, sizeof(ExactShared), w, x, y,
         y_stride);
}

}  // namespace NFLOAT_MACHINE
}  // namespace nfloat::gpu

#endif  // NFLOAT_CUDA_MULTIPLY_H_
