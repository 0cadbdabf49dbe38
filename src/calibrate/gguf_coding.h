// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_CALIBRATE_GGUF_CODING_H_
#define NFLOAT_CALIBRATE_GGUF_CODING_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "nfloat/codebook.h"
#include "nfloat/gguf.h"
#include "nfloat/quantize.h"

// llama.cpp's blocks of 32 weights, 16 levels and a float16 factor as a code with scales.
namespace nfloat {

inline constexpr int64_t kGgufBlock = 32;

// Levels from -1 on: the type's divided by the largest magnitude, gguf_unit(). Throws kUnsupported for types
// that are not such blocks: Q4_0 and IQ4_NL are.
Codebook gguf_codebook(GgufType type);
float gguf_unit(GgufType type) noexcept;

// The bytes of what is coded so, row by row. Throws kInvalidArgument for what is coded in another way.
std::vector<std::byte> gguf_blocks(const QuantizedTensor& tensor, GgufType type);

}  // namespace nfloat

#endif  // NFLOAT_CALIBRATE_GGUF_CODING_H_
