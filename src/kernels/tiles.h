// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_KERNELS_TILES_H_
#define NFLOAT_KERNELS_TILES_H_

#include <cstddef>
#include <cstdint>

// Products on a matrix unit (AMX): bf16 factors, float32 sums. A factor is one bf16 (one plane), or three
// that add up to a float32 (three planes: high, middle and low bits). Both factors lie in tiles of 1024
// bytes, 16 rows by 32 columns of k, a step of four octets.
//   weights      [step][plane][16 pairs of columns][16 rows of the matrix][2], the pairs in gemm.h's bf16
//                order: four octets of a bf16 panel are one tile
//   activations  [rows / 16][step][plane][16 rows][32], octets of columns 0 2 4 6 1 3 5 7; rows past the last
//                are 0
//   sums         [panel][rows / 16][16 rows][16]
namespace nfloat::kernels {

struct LevelTables;  // gemm.h

inline constexpr int kTileSide = 16;
inline constexpr int kTileOctets = 4;
inline constexpr int kTileElements = 512;

// A run of octets of one packed panel to tiles of level * scale; octets that complete the last tile are zero.
struct TileWeights {
  const uint8_t* codes;
  const float* levels;  // 16
  const float* scales;  // [groups][16], from that of the first octet
  int64_t octets;
  int64_t octets_per_group;
  int64_t octets_before;  // the run, in its first group
  // The codes and scales wanted after these (asked for, never read).
  const uint8_t* codes_ahead;
  const float* scales_ahead;
};

// One or two panels times blocks of 16 rows.
struct TileArgs {
  const uint16_t* weights;
  size_t weights_stride;  // elements between panels
  int panels;
  int64_t steps;
  int64_t row_blocks;
  const uint16_t* x;
  float* sums;
  bool accumulate;  // add to the sums
};

// The sums of one panel to their place in y.
struct TileResult {
  const float* sums;
  int64_t m;
  float* y;  // row 0, column 0 of the panel
  int64_t y_stride;
  int64_t columns;    // of y; less than 16 at the matrix's edge
  const float* bias;  // or null
};

// A run of blocks of one packed panel times all rows in int8: exact integer sums of blocks of 64 columns,
// scaled and added in float32 in the order of int8_packed, so that a row has the same bits here and there.
inline constexpr int64_t kByteBlock = 64;
struct ByteTileArgs {
  const uint8_t* codes;  // [blocks * 8 octets][64]
  const LevelTables* levels;
  const float* scales;  // [groups][16]
  int64_t blocks;
  int64_t blocks_per_group;
  const int8_t* x;        // at the first block, [rows / 16][x_blocks][16 rows][64], rows past the last are 0
  int64_t x_blocks;       // of whole rows
  const float* x_scales;  // at the first block, [block][x_rows]
  int64_t x_rows;         // of the whole matrix, rounded up to 16
  int64_t m;
  float* sums;  // [rows rounded up to 16][16]: memory to use
  float* y;     // row 0, column 0 of the panel
  int64_t y_stride;
  int64_t columns;    // of y; less than 16 at the matrix's edge
  const float* bias;  // or null
  bool accumulate;    // add to y, and not to the bias
};

struct ByteTileKernels {
  // kByteBlock activations to int8 as x_int8 does it; returns their scale.
  float (*x_block)(const float* x, int8_t* output) noexcept;
  void (*multiply)(const ByteTileArgs&) noexcept;
};

struct TileKernels {
  int planes;
  int64_t run_steps;  // that one call of expand and multiply takes, at most
  void (*expand)(const TileWeights&, uint16_t* output) noexcept;
  // One row of k activations to its place in its tiles, `steps` of them, zero past k.
  void (*x_row)(const float* x, int64_t k, int64_t steps, uint16_t* output) noexcept;
  void (*multiply)(const TileArgs&) noexcept;
  void (*store)(const TileResult&) noexcept;
};

}  // namespace nfloat::kernels

#endif  // NFLOAT_KERNELS_TILES_H_
