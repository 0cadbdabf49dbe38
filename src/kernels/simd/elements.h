// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_KERNELS_SIMD_ELEMENTS_H_
#define NFLOAT_KERNELS_SIMD_ELEMENTS_H_

#include <cstdint>

#include "base/float16.h"

// 16-bit floats as types, so that loads and stores overload on them.
namespace nfloat::kernels {

struct F16 {
  uint16_t bits;
};
struct Bf16 {
  uint16_t bits;
};

static inline float widen(float value) noexcept {
  return value;
}
static inline float widen(F16 value) noexcept {
  return f16_to_float(value.bits);
}
static inline float widen(Bf16 value) noexcept {
  return bf16_to_float(value.bits);
}

}  // namespace nfloat::kernels

#endif  // NFLOAT_KERNELS_SIMD_ELEMENTS_H_
