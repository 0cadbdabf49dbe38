// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_LINEAR_STATE_H_
#define NFLOAT_LINEAR_STATE_H_

#include <memory>
#include <span>
#include <vector>

#include "base/huge_pages.h"
#include "kernels/gemm.h"
#include "linear/weight_buffer.h"
#include "nfloat/linear.h"
#include "nfloat/tensor.h"

namespace nfloat {

using DenseStorage = DenseMatrix::Storage;

inline constexpr int64_t kReleaseBytes = int64_t{32} << 20;  // of a source, between two calls of release
inline constexpr int64_t kMostActivationBlock = 64;

// Columns that share one int8 scale of the activations: the largest power of two up to 64 that divides
// `group`, a multiple of 8.
int64_t activation_block(int64_t group) noexcept;

// What every device asks of what it packs: lengths that agree, block sizes, the dtype. Throw
// kInvalidArgument.
void expect_matrix(const PackSource& source);
void expect_matrix(const TensorView& weights);

// A row of whole groups to 8 bits, value = (code - 128) * scale; the scales of its groups go `step` apart. A
// group that holds NaN or an infinity has the scale NaN: what is computed from it shows it.
void round_row(const float* values, int64_t count, int64_t group, uint8_t* codes, float* scales,
               int64_t step) noexcept;

// Rounds levels to bf16 and to int8 with the step that loses least.
kernels::LevelTables make_level_tables(std::span<const float> levels) noexcept;

// Memory that only grows, aligned to 64; from kWholePagesFrom on it fills huge pages, which Buffer asks for.
class ReusedMemory {
 public:
  std::byte* at_least(size_t bytes) {
    if (buffer_.size() >= bytes) return buffer_.data();
    if (bytes >= kWholePagesFrom) bytes = (bytes + kHugePageBytes - 1) / kHugePageBytes * kHugePageBytes;
    buffer_ = Buffer(bytes);
    return buffer_.data();
  }

 private:
  static constexpr size_t kWholePagesFrom = size_t{256} << 10;
  Buffer buffer_;
};

// The calling thread's own memory, gone with its next call.
std::byte* thread_scratch(size_t bytes);

struct PackedMatrix::State {
  int64_t rows = 0, cols = 0, block_size = 64;
  kernels::LevelTables levels{};
  // Columns of a row that share a scale whatever the row: the block size, or less where blocks cross rows.
  // 0: they meet in the middle of octets, and codes and scales lie as in the source.
  int64_t group = 0;
  int64_t panels = 0, octets = 0, groups = 0;
  WeightBuffer codes;   // [panels][octets][64], or (rows * cols + 1) / 2 bytes
  WeightBuffer scales;  // float [panels][groups][16], or one a block
  // Double-quantized: 8-bit scales, [panels][groups][16]; `scales` is empty.
  WeightBuffer nested_codes;
  std::vector<float> nested_absmax;
  std::unique_ptr<const kernels::ScaleMap> nested_map;
  float nested_offset = 0;
  int nested_shift = 8;
  int64_t nested_first = 0;

  bool nested() const noexcept { return nested_map != nullptr; }
  // The panel's 8-bit scales as the kernels decode them on the fly. False where a row meets the end of a
  // second-level block, or there are none.
  bool panel_nested(int64_t panel, kernels::PanelNested& output) const noexcept;
  // Float32 scales of `count` groups of one panel.
  void panel_scales(int64_t panel, int64_t first_group, int64_t count, float* output) const noexcept;
};

struct DenseMatrix::State {
  Storage storage = Storage::kF32;
  int64_t rows = 0, cols = 0, panels = 0, octets = 0;
  int64_t group = 0;     // int8: columns a scale
  WeightBuffer weights;  // [panels][octets][octet_bytes]
  WeightBuffer scales;   // int8: float [panels][octets * 8 / group][16]

  size_t octet_bytes() const noexcept;
};

struct Activations::State {
  const float* x = nullptr;
  int64_t x_stride = 0, m = 0, k = 0;
  bool has_f32 = false, has_bf16 = false;
  int64_t int8_block = 0;  // 0: not made
  bool int8_words = false;
  bool has_tiles = false, has_exact_tiles = false, has_byte_tiles = false;
  ReusedMemory byte_tiles, byte_scales;
  ReusedMemory f32, bf16, tiles, exact_tiles, int8, int8_scales, int8_offsets;

  int64_t octets() const noexcept { return (k + kernels::kOctet - 1) / kernels::kOctet; }
  const float* prepared_f32(int threads);
  const uint16_t* prepared_bf16(int threads);
  const uint16_t* prepared_tiles(const kernels::TileKernels& kernel, int threads);
  // Rows and scales as kernels::ByteTileArgs wants them.
  struct ByteTiles {
    const int8_t* x;
    const float* scales;
  };
  ByteTiles prepared_byte_tiles(int threads);
  struct Int8 {
    const std::byte* x;  // int8_t, or int16_t for words
    const float* scales;
    const int32_t* offsets;
  };
  Int8 prepared_int8(int64_t block, bool words, int threads);
};

}  // namespace nfloat

#endif  // NFLOAT_LINEAR_STATE_H_
