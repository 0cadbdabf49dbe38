// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_QUANTIZE_BLOCKS_H_
#define NFLOAT_QUANTIZE_BLOCKS_H_

#include <cstddef>
#include <cstdint>

#include "kernels/quantize.h"
#include "nfloat/quantize.h"

// One thread's share of a tensor: what quantize_blockwise and the streaming conversion are made of.
namespace nfloat {

// Throws kInvalidArgument for a code of more than 16 levels.
kernels::CodeTable make_code_table(const Codebook& codebook);

// Consecutive blocks of one tensor, beginning at an even element. Only the tensor's last block may be
// partial.
struct BlockRange {
  const void* weights;
  DType dtype;  // F32, F16 or BF16
  int64_t elements;
  int64_t block_size;
};

// Scales only, one a block. Returns the index in the range of the first NaN or infinity, or -1.
int64_t fit_scales(const BlockRange& range, const kernels::CodeTable& table, ScaleMethod method,
                   float* scales) noexcept;

// Scales by absmax and codes, in one pass. Returns as fit_scales does.
int64_t quantize_blocks(const BlockRange& range, const kernels::CodeTable& table, float* scales,
                        uint8_t* codes) noexcept;

// Codes against given scales, (elements + 1) / 2 bytes, an odd tail padded with the code of value 0.
void encode_blocks(const BlockRange& range, const kernels::CodeTable& table, const float* scales,
                   uint8_t* codes) noexcept;

// level * scale in float32, rounded once to `dtype` (F32, F16, BF16). `stream` writes past the caches: for
// outputs that they could not hold.
void decode_blocks(const uint8_t* codes, const float* scales, const kernels::CodeTable& table,
                   int64_t elements, int64_t block_size, DType dtype, void* output,
                   bool stream = false) noexcept;

// The same of a whole tensor, in `threads` threads (0: the default): (elements + 1) / 2 bytes of codes, a
// scale for each block of block_size >= 1.
void decode_tensor(const uint8_t* codes, const float* scales, const kernels::CodeTable& table,
                   int64_t elements, int64_t block_size, DType dtype, std::byte* output, int threads);

}  // namespace nfloat

#endif  // NFLOAT_QUANTIZE_BLOCKS_H_
