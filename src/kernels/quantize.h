// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_KERNELS_QUANTIZE_H_
#define NFLOAT_KERNELS_QUANTIZE_H_

#include <cstdint>

namespace nfloat::kernels {

enum class ElementType : uint8_t { kF32, kF16, kBF16 };

// A code of at most 16 levels as the kernels want it. Fewer than 16: the last level repeats and the spare
// thresholds are +infinity.
struct CodeTable {
  float levels[16];      // by code
  float thresholds[16];  // ascending; [15] = +infinity
  uint8_t code_of_rank[16];
};

// Consecutive blocks, beginning at an even element of their tensor; only the last may be partial. Blocks of
// an odd size share bytes of codes, so that element i is in nibble i whatever the block size. Weights and
// outputs may lie at any address.
struct BlocksArgs {
  const void* weights;
  ElementType type;
  int64_t elements;
  int64_t block_size;
  const CodeTable* table;
};

struct DecodeArgs {
  const uint8_t* codes;  // (elements + 1) / 2 bytes, element 2i in the high nibble
  const float* scales;
  const CodeTable* table;
  int64_t elements;
  int64_t block_size;
  ElementType type;
  void* output;
  bool stream;  // past the caches, where the output's alignment allows it
};

// The quantize and dequantize entries of KernelTable. Every target writes the same bytes: float32 operations
// in one order, none fused. The functions that look at weights return the index of the first NaN or infinity,
// or -1; a block that has one gets the largest finite magnitude as its scale.
struct QuantizeKernels {
  // scales[i] = largest magnitude of block i.
  int64_t (*absmax)(const BlocksArgs& args, float* scales) noexcept;
  // The same, and codes against these scales, in one pass.
  int64_t (*quantize)(const BlocksArgs& args, float* scales, uint8_t* codes) noexcept;
  // Scales near the least squared error: of 16 candidates (positive ones only, or of both signs) the best,
  // refined by least squares. Blocks whose largest magnitude is below 1e-38 keep it as their scale.
  int64_t (*fit)(const BlocksArgs& args, bool negative, float* scales) noexcept;
  // Codes: rank of weight / scale among the thresholds, a tie to the lower level, NaN to the lowest. Whole
  // blocks multiply by 1 / scale, the partial one divides (scales below 1e-38 in magnitude count as 1e-38):
  // bitsandbytes' rule. An odd tail is padded with the code of value 0.
  void (*encode)(const BlocksArgs& args, const float* scales, uint8_t* codes) noexcept;
  // level * scale in float32, rounded once to `type`.
  void (*decode)(const DecodeArgs& args) noexcept;
};

}  // namespace nfloat::kernels

#endif  // NFLOAT_KERNELS_QUANTIZE_H_
