// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_GGUF_TABLES_H_
#define NFLOAT_GGUF_TABLES_H_

#include <array>
#include <cstddef>
#include <string_view>

#include "nfloat/gguf.h"

namespace nfloat {

// What the codes of the 4-bit types stand for. Q4_0: equal steps.
inline constexpr std::array<float, 16> kQ40Levels = {-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7};
// IQ4_NL and IQ4_XS: the table of the format; it has no zero.
inline constexpr std::array<float, 16> kIq4NlLevels = {-127, -104, -83, -65, -49, -35, -22, -10,
                                                       1,    13,   25,  38,  53,  69,  89,  113};
// MXFP4: E2M1 times two, so that the values are whole.
inline constexpr int64_t kMxfp4Block = 32;  // values of one scale
inline constexpr std::array<float, 16> kMxfp4Levels = {0, 1,  2,  3,  4,  6,  8,  12,
                                                       0, -1, -2, -3, -4, -6, -8, -12};

// What encode_gguf writes, for messages.
inline constexpr std::string_view kGgufWritten =
    "F32, F16, BF16, Q8_0, Q4_0, IQ4_NL, Q4_K, Q5_K, Q6_K and IQ4_XS are";

// The DType that has the same bytes: F64, F32, F16, BF16. Null for the others.
const DType* plain_dtype(GgufType type) noexcept;

// 32 elements of a type that gguf_levels() knows: element i has the low and i + 16 the high nibble of code i.
struct GgufCodes {
  float scale;
  const std::byte* codes;  // 16 bytes
};
// Elements 32 * `block` and on of a row.
GgufCodes gguf_codes(GgufType type, const std::byte* row, int64_t block) noexcept;

}  // namespace nfloat

#endif  // NFLOAT_GGUF_TABLES_H_
