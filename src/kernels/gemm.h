// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_KERNELS_GEMM_H_
#define NFLOAT_KERNELS_GEMM_H_

#include <cstddef>
#include <cstdint>

// Weights lie in panels of 16 rows, a vector lane a row, cut along k into octets of 8 columns.
//   packed  64 bytes an octet: byte 4 r + j of row r has column j in its low nibble and column 4 + j in its
//           high one, so that one look-up gives VNNI its four columns and shifts give bf16 and float32 theirs
//   int8    128 bytes: columns 0..3 of every row, then 4..7, a byte each, 128 added
//   words   256 bytes: pairs of columns (0,2) (1,3) (4,6) (5,7) in 16 signed bits, nothing added; after the
//           octets 64 bytes a block of activations: of each row, minus the sum of the products of columns
//           2 i and 2 i + 1, in 32 bits
//   bf16    256 bytes: pairs of columns (0,2) (4,6) (1,3) (5,7), as shifts of the packed words give them
//   own     as many bytes as int8 or bf16, in an order that only the target's own kernels know
//   f32, f16  512, 256 bytes: column by column
// Activations lie in blocks of 8 rows (the last one has what is left), [octet][row][8]; those for bf16 and
// for words have the columns of an octet in the order of the pairs.
namespace nfloat::kernels {

struct TileKernels;  // tiles.h
struct ByteTileKernels;

inline constexpr int kPanelRows = 16;
inline constexpr int kOctet = 8;
inline constexpr int kActivationRows = 8;
inline constexpr int kPackedOctetBytes = 64;
inline constexpr int kInt8OctetBytes = 128;
inline constexpr int kHalfOctetBytes = 256;
inline constexpr int kF32OctetBytes = 512;
inline constexpr int kCorrectionBytes = 64;     // of words, a panel and block of activations
inline constexpr float kSmallestMost = 4e-37f;  // a block's largest magnitude: 127 over it is finite

// The levels of a code as each precision wants them, repeated for the look-ups that ignore high index bits.
struct LevelTables {
  alignas(64) float f32[16];
  alignas(64) uint16_t bf16[32];
  alignas(64) uint8_t u8[64];  // 128 + round(level / u8_scale)
  float u8_scale;
};

// What the 8 bits of a double-quantized scale stand for; `bytes` are those of the values, lowest first, for
// look-ups in registers.
struct ScaleMap {
  alignas(64) float values[256];
  alignas(64) uint8_t bytes[4][256];
};

// 8-bit scales of a panel whose rows each lie within one second-level block:
// scale[group][r] = map->values[codes[group][r]] * absmax[r] + offset.
struct PanelNested {
  const uint8_t* codes = nullptr;  // [groups][16]; null: the panel has float scales
  const ScaleMap* map = nullptr;
  float offset = 0;
  float absmax[kPanelRows];
};

// A run of octets of neighbouring panels times up to kActivationRows rows.
struct PanelArgs {
  const uint8_t* weights;     // of the first panel, at the run's first octet
  size_t weights_stride;      // bytes between panels
  const float* scales;        // [groups][16]; null for 1
  size_t scales_stride;       // floats between panels
  const PanelNested* nested;  // packed weights only; null: `scales` has them
  const LevelTables* levels;  // packed weights only
  int64_t octets;
  int64_t octets_per_group;  // a scale each; divides octets
  const void* x;             // int8_t, int16_t (words), uint16_t (bf16) or float, at the run's first octet
  int64_t m;                 // rows of this block of activations
  // int8 and words: by [octets / octets_per_block][m]; octets_per_block divides octets_per_group.
  const float* x_scales;
  // -128 * the sum of the block; of words, minus the sum of the products of columns 2 i and 2 i + 1.
  const int32_t* x_offsets;
  int64_t octets_per_block;
  float* y;  // row 0, column 0 of the first panel
  int64_t y_stride;
  int64_t columns;    // of y; less than panels * 16 at the matrix's edge
  const float* bias;  // or null; added when not accumulating
  bool accumulate;    // add to y
  float factor;       // multiplies the sums
  // Packed weights only: how many bytes ahead of their use they are asked for, into the first cache and into
  // the second.
  int32_t near_bytes, far_bytes;
  // Expanded weights only, or null: octets * 64 bytes that will be read soon.
  const uint8_t* ahead;
};

// Sixteen rows of 8-bit scales to float32.
struct NestedArgs {
  const uint8_t* codes;  // [groups][16]
  const float* absmax;
  const ScaleMap* map;
  float offset;
  int64_t first_block[kPanelRows];  // of each row
  int absmax_shift;                 // block >> shift is its index in absmax
  int64_t groups;
  float* scales;  // [groups][16]
};

struct GemmKernels {
  // Null where there is no matrix unit.
  const TileKernels* tiles;           // bf16
  const TileKernels* exact_tiles;     // float32 in three planes
  const ByteTileKernels* byte_tiles;  // int8
  bool multiplies_bf16;               // in one instruction: bf16 products are about as fast as int8 ones
  int max_panels;                     // that one call of the *_dense kernels takes
  // Weights packed: one panel.
  int row_panels;  // the same for one activation row; not below max_panels
  void (*f32_packed)(const PanelArgs&) noexcept;
  void (*bf16_packed)(const PanelArgs&) noexcept;
  void (*int8_packed)(const PanelArgs&) noexcept;
  // Weights expanded: `panels` of them.
  void (*f32_dense)(const PanelArgs&, int panels) noexcept;
  void (*bf16_dense)(const PanelArgs&, int panels) noexcept;
  void (*int8_dense)(const PanelArgs&, int panels) noexcept;
  // The products of int8, of weights expanded to words. Null where bytes are as fast, with expand_words and
  // x_words.
  void (*words_dense)(const PanelArgs&, int panels) noexcept;
  // The products of int8 and bf16, of weights expanded to the own order. Null where the orders above are as
  // fast, with their expand_own_*.
  void (*own_int8_dense)(const PanelArgs&, int panels) noexcept;
  void (*expand_own_int8)(const uint8_t* packed, int64_t octets, const LevelTables&,
                          uint8_t* output) noexcept;
  void (*own_bf16_dense)(const PanelArgs&, int panels) noexcept;
  void (*expand_own_bf16)(const uint8_t* packed, int64_t octets, const LevelTables&,
                          uint8_t* output) noexcept;
  // Packed octets to expanded ones, scales left out.
  void (*expand_f32)(const uint8_t* packed, int64_t octets, const LevelTables&, uint8_t* output) noexcept;
  void (*expand_bf16)(const uint8_t* packed, int64_t octets, const LevelTables&, uint8_t* output) noexcept;
  void (*expand_int8)(const uint8_t* packed, int64_t octets, const LevelTables&, uint8_t* output) noexcept;
  void (*expand_words)(const uint8_t* packed, int64_t octets, int64_t octets_per_block, const LevelTables&,
                       uint8_t* output) noexcept;
  // Expanded octets to float32 ones.
  void (*widen_f16)(const uint8_t* halves, int64_t octets, uint8_t* output) noexcept;
  void (*widen_bf16)(const uint8_t* halves, int64_t octets, uint8_t* output) noexcept;
  void (*widen_int8)(const uint8_t* bytes, int64_t octets, uint8_t* output) noexcept;
  void (*nested_scales)(const NestedArgs&) noexcept;
  // A panel from sixteen runs of 4 * octets bytes of codes in file order, to 64 * octets bytes, aligned
  // to 64.
  void (*pack)(const uint8_t* const* rows, int64_t octets, uint8_t* output) noexcept;
  // The same of sixteen runs of words that stay as they are: float scales, f32, and int8 with two words an
  // octet; and of 16-bit floats, two a word and four words an octet, in the order of bf16 and of f16.
  void (*turn)(const uint8_t* const* rows, int64_t words, uint8_t* output) noexcept;
  void (*turn_pairs)(const uint8_t* const* rows, int64_t words, uint8_t* output) noexcept;
  void (*turn_halves)(const uint8_t* const* rows, int64_t words, uint8_t* output) noexcept;
  // Of bytes, four a word: byte i of row r to byte 16 i + r.
  void (*turn_bytes)(const uint8_t* const* rows, int64_t words, uint8_t* output) noexcept;
  // One row to its place in a block of m rows: octets * 8 elements, those past `k` zero.
  void (*x_f32)(const float* x, int64_t k, int64_t m, float* output) noexcept;
  void (*x_bf16)(const float* x, int64_t k, int64_t m, uint16_t* output) noexcept;
  void (*x_int8)(const float* x, int64_t k, int64_t m, int64_t block, int8_t* output, float* scales,
                 int32_t* offsets) noexcept;
  void (*x_words)(const float* x, int64_t k, int64_t m, int64_t block, int16_t* output, float* scales,
                  int32_t* offsets) noexcept;
};

}  // namespace nfloat::kernels

#endif  // NFLOAT_KERNELS_GEMM_H_
