// SPDX-License-Identifier: Apache-2.0
#include <arm_neon.h>

#include "machine/memory-inl.h"

namespace nfloat::machine {

double neon_int8(int64_t rounds) noexcept {
  const int8x16_t bytes = vdupq_n_s8(1);
  run_chains(rounds, vdupq_n_s32(0), [&](int32x4_t x) { return vdotq_s32(x, bytes, bytes); });
  return static_cast<double>(rounds) * kChains * 4 * 4 * 2;
}

double neon_bf16(int64_t rounds) noexcept {
  uint16_t one = 0x3f80;
  __asm__("" : "+r"(one));  // hidden from GCC 12, which would load it as a half-precision constant
  const bfloat16x8_t ones = vreinterpretq_bf16_u16(vdupq_n_u16(one));
  run_chains(rounds, vdupq_n_f32(0.0f), [&](float32x4_t x) { return vbfmmlaq_f32(x, ones, ones); });
  return static_cast<double>(rounds) * kChains * 4 * 4 * 2;
}

}  // namespace nfloat::machine
