// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_QUANTIZE_H_
#define NFLOAT_QUANTIZE_H_

#include <cstdint>
#include <span>
#include <vector>

#include "nfloat/api.h"
#include "nfloat/codebook.h"
#include "nfloat/tensor.h"

namespace nfloat {

// How a block's scale is chosen.
enum class ScaleMethod : uint8_t {
  kAbsmax,  // the largest magnitude: bitsandbytes' bytes
  kSearch,  // the positive scale with the least squared error
  kSigned,  // the same, negative scales allowed: 19 % less squared error than absmax for NF4
            // (docs/formats.md)
};

struct QuantizeOptions {
  int64_t block_size = 64;  // at least 16, any integer
  ScaleMethod scale = ScaleMethod::kAbsmax;
  bool double_quantization = false;  // scales in 8 bits (dynamic map, blocks of 256)
  bool allow_nonfinite = false;  // NaN becomes the lowest level, infinity saturates, instead of kNotFinite
  int threads = 0;               // 0: the default (nfloat/threads.h)
};

inline constexpr int64_t kMinBlockSize = 16;
inline constexpr int64_t kNestedBlockSize = 256;

// Scales in 8 bits: scale[i] = map[codes[i]] * absmax[i / 256] + offset, in float32, product rounded first.
struct NestedScales {
  std::vector<uint8_t> codes;
  std::vector<float> absmax;
  float offset = 0;
};

// Codes, scales and what dequantization needs. Owns its memory.
struct NFLOAT_API QuantizedTensor {
  Codebook codebook;
  DType dtype = DType::kF32;  // of the weights it was made from
  Shape shape;
  int64_t block_size = 64;
  std::vector<uint8_t> codes;  // (elements + 1) / 2 bytes, element 2i in the high nibble
  std::vector<float> scales;   // ceil(elements / block_size); empty when double-quantized
  NestedScales nested;         // empty unless double-quantized

  int64_t elements() const noexcept { return shape.elements(); }
  int64_t blocks() const noexcept { return (elements() + block_size - 1) / block_size; }
  bool double_quantized() const noexcept { return !nested.codes.empty(); }
  double bits_per_weight() const noexcept;  // of codes and scales, without the tables
};

// Quantizes `weights` (F32, F16 or BF16, row-major, any shape) with a code of at most 16 levels, in runs of
// `block_size` elements; runs cross rows, as bitsandbytes does. |error| <= scale * widest gap / 2 for absmax
// (NF4: 0.152 * absmax). The same bytes on every target and for every number of threads.
// Throws kInvalidArgument (block size, dtype, codebook), kNotFinite naming the first bad index.
NFLOAT_API QuantizedTensor quantize_blockwise(const TensorView& weights, const Codebook& codebook,
                                              const QuantizeOptions& options = {});

// The same into the caller's memory: (elements + 1) / 2 bytes of codes and one scale a block. For many
// tensors or passes: allocating the result takes as long as quantizing. Throws kInvalidArgument for other
// sizes, and for double quantization, whose scales are not floats.
NFLOAT_API void quantize_blockwise(const TensorView& weights, const Codebook& codebook,
                                   const QuantizeOptions& options, std::span<uint8_t> codes,
                                   std::span<float> scales);

// The same with double quantization, which `options` ask for: the codes into the caller's memory, the scales
// as the result.
NFLOAT_API NestedScales quantize_blockwise(const TensorView& weights, const Codebook& codebook,
                                           const QuantizeOptions& options, std::span<uint8_t> codes);

// Writes elements() values of `dtype` (F32, F16, BF16): level * scale in float32, then rounded once.
// Throws kInvalidArgument when `output` has another size.
NFLOAT_API void dequantize_blockwise(const QuantizedTensor& tensor, DType dtype, std::span<std::byte> output,
                                     int threads = 0);

// Float32 scales -> 8 bits and back (bitsandbytes' second level; the mean summed in torch's order). `threads`
// 0: all.
NFLOAT_API NestedScales quantize_scales(std::span<const float> scales, int threads = 1);
NFLOAT_API std::vector<float> dequantize_scales(const NestedScales& nested);

}  // namespace nfloat

#endif  // NFLOAT_QUANTIZE_H_
