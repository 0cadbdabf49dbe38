// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_BASE_FLOAT16_H_
#define NFLOAT_BASE_FLOAT16_H_

#include <bit>
#include <cstdint>

// Conversions of single values, round to nearest even, NaN stays (quiet) NaN. No standard containers here:
// the kernel targets include this file.
namespace nfloat {

static inline float bf16_to_float(uint16_t bits) noexcept {
  return std::bit_cast<float>(uint32_t{bits} << 16);
}

static inline uint16_t float_to_bf16(float value) noexcept {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

static inline float f16_to_float(uint16_t half) noexcept {
  const uint32_t sign = uint32_t{half & 0x8000u} << 16;
  const uint32_t magnitude = half & 0x7fffu;
  if (magnitude >= 0x7c00u)
    return std::bit_cast<float>(sign | 0x7f800000u | ((magnitude & 0x3ffu) << 13) |
                                ((magnitude & 0x3ffu) != 0 ? 0x400000u : 0u));
  if (magnitude < 0x400u) {  // zero and subnormals: magnitude * 2^-24 is exact
    const float value = static_cast<float>(magnitude) * 0x1p-24f;
    return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(value));
  }
  return std::bit_cast<float>(sign | ((magnitude << 13) + 0x38000000u));
}

static inline uint16_t float_to_f16(float value) noexcept {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint16_t sign = static_cast<uint16_t>((bits >> 16) & 0x8000u);
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u | ((magnitude >> 13) & 0x3ffu));
  if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);  // 65520 and up: infinity
  if (magnitude < 0x38800000u) {  // below 2^-14: the float adder does the rounding
    const float shifted = std::bit_cast<float>(magnitude) + 0.5f;  // unit of the sum's last place is 2^-24
    return static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(shifted) - 0x3f000000u));
  }
  return static_cast<uint16_t>(sign | ((magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13));
}

}  // namespace nfloat

#endif  // NFLOAT_BASE_FLOAT16_H_
