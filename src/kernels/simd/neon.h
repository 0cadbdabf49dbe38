// SPDX-License-Identifier: Apache-2.0
// The vocabulary of wide.h on 64-bit Arm: four registers. Compiled once per target; includer defines
// NFLOAT_TARGET_NAMESPACE.
#ifndef NFLOAT_KERNELS_SIMD_NEON_H_
#define NFLOAT_KERNELS_SIMD_NEON_H_

#include <arm_neon.h>

#include <cstdint>
#include <cstring>

#include "kernels/simd/elements.h"

namespace nfloat::kernels::NFLOAT_TARGET_NAMESPACE {

struct F32x16 {
  float32x4_t v[4];
};
struct I32x16 {
  int32x4_t v[4];
};

#define NFLOAT_EACH_PART for (int i = 0; i < 4; ++i)

// An accumulator of a loop stays in its register. GCC otherwise keeps a second copy of each and moves it to
// and fro at every step.
static inline void hold(F32x16& x) noexcept {
  asm("" : "+w"(x.v[0]), "+w"(x.v[1]), "+w"(x.v[2]), "+w"(x.v[3]));
}
static inline void hold(I32x16& x) noexcept {
  asm("" : "+w"(x.v[0]), "+w"(x.v[1]), "+w"(x.v[2]), "+w"(x.v[3]));
}
static inline F32x16 load16(const float* from) noexcept {
  F32x16 x;
  std::memcpy(&x, from, sizeof x);
  return x;
}
// memcpy, so that any alignment is fine.
static inline uint16x4_t load_words(const void* from) noexcept {
  uint16x4_t words;
  std::memcpy(&words, from, sizeof words);
  return words;
}
static inline F32x16 load16(const F16* from) noexcept {
  F32x16 x;
  NFLOAT_EACH_PART x.v[i] = vcvt_f32_f16(vreinterpret_f16_u16(load_words(from + 4 * i)));
  return x;
}
static inline F32x16 load16(const Bf16* from) noexcept {
  F32x16 x;
  NFLOAT_EACH_PART x.v[i] = vreinterpretq_f32_u32(vshll_n_u16(load_words(from + 4 * i), 16));
  return x;
}
static inline void store16(float* to, const F32x16& x) noexcept {
  std::memcpy(to, &x, sizeof x);
}
static inline void stream16(float* to, const F32x16& x) noexcept {
  store16(to, x);
}
static inline void stream_fence() noexcept {}
static inline F32x16 splat16(float value) noexcept {
  const float32x4_t x = vdupq_n_f32(value);
  return {{x, x, x, x}};
}
static inline F32x16 splat_pairs16(const float* from) noexcept {
  const float32x2_t pair = vld1_f32(from);
  const float32x4_t x = vcombine_f32(pair, pair);
  return {{x, x, x, x}};
}
static inline I32x16 splat_pairs16(const int32_t* from) noexcept {
  const int32x2_t pair = vld1_s32(from);
  const int32x4_t x = vcombine_s32(pair, pair);
  return {{x, x, x, x}};
}
static inline F32x16 change_above(F32x16 x, const F32x16& y, const F32x16& t, const I32x16& change) noexcept {
  NFLOAT_EACH_PART {
    const uint32x4_t turned = vandq_u32(vcgtq_f32(y.v[i], t.v[i]), vreinterpretq_u32_s32(change.v[i]));
    x.v[i] = vreinterpretq_f32_u32(veorq_u32(vreinterpretq_u32_f32(x.v[i]), turned));
  }
  return x;
}
static inline F32x16 smaller(F32x16 x, const F32x16& y) noexcept {
  NFLOAT_EACH_PART x.v[i] = vminq_f32(x.v[i], y.v[i]);
  return x;
}
static inline float sum16(const F32x16& x) noexcept {
  const float32x4_t four = vaddq_f32(vaddq_f32(x.v[0], x.v[2]), vaddq_f32(x.v[1], x.v[3]));
  const float32x2_t two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
  return vget_lane_f32(two, 0) + vget_lane_f32(two, 1);
}
static inline I32x16 splat16(int32_t value) noexcept {
  const int32x4_t x = vdupq_n_s32(value);
  return {{x, x, x, x}};
}
static inline I32x16 add(I32x16 x, const I32x16& y) noexcept {
  NFLOAT_EACH_PART x.v[i] = vaddq_s32(x.v[i], y.v[i]);
  return x;
}
static inline F32x16 add(F32x16 x, const F32x16& y) noexcept {
  NFLOAT_EACH_PART x.v[i] = vaddq_f32(x.v[i], y.v[i]);
  return x;
}
static inline F32x16 multiply(F32x16 x, const F32x16& y) noexcept {
  NFLOAT_EACH_PART x.v[i] = vmulq_f32(x.v[i], y.v[i]);
  return x;
}
static inline F32x16 divide(F32x16 x, const F32x16& y) noexcept {
  NFLOAT_EACH_PART x.v[i] = vdivq_f32(x.v[i], y.v[i]);
  return x;
}
static inline I32x16 bits_of(const F32x16& x) noexcept {
  I32x16 bits;
  NFLOAT_EACH_PART bits.v[i] = vreinterpretq_s32_f32(x.v[i]);
  return bits;
}
static inline I32x16 magnitude_bits(const F32x16& x) noexcept {
  I32x16 bits;
  NFLOAT_EACH_PART bits.v[i] = vreinterpretq_s32_f32(vabsq_f32(x.v[i]));
  return bits;
}
static inline I32x16 larger(I32x16 x, const I32x16& y) noexcept {
  NFLOAT_EACH_PART x.v[i] = vmaxq_s32(x.v[i], y.v[i]);
  return x;
}
static inline int32_t largest16(const I32x16& x) noexcept {
  return vmaxvq_s32(vmaxq_s32(vmaxq_s32(x.v[0], x.v[1]), vmaxq_s32(x.v[2], x.v[3])));
}
static inline I32x16 descend(I32x16 n, const F32x16& y, const F32x16& t) noexcept {
  NFLOAT_EACH_PART n.v[i] =
      vsubq_s32(vaddq_s32(n.v[i], n.v[i]), vreinterpretq_s32_u32(vcgtq_f32(y.v[i], t.v[i])));
  return n;
}
// Byte indices of the 32-bit lanes `index`.
static inline uint8x16_t byte_indices(int32x4_t index) noexcept {
  const uint32x4_t scaled = vmulq_n_u32(vreinterpretq_u32_s32(index), 0x04040404u);
  return vreinterpretq_u8_u32(vaddq_u32(scaled, vdupq_n_u32(0x03020100u)));
}
static inline F32x16 lookup8(const F32x16& table, const I32x16& index) noexcept {
  const uint8x16x2_t bytes = {{vreinterpretq_u8_f32(table.v[0]), vreinterpretq_u8_f32(table.v[1])}};
  F32x16 x;
  NFLOAT_EACH_PART x.v[i] =
      vreinterpretq_f32_u8(vqtbl2q_u8(bytes, byte_indices(vandq_s32(index.v[i], vdupq_n_s32(7)))));
  return x;
}
static inline F32x16 lookup16(const F32x16& table, const I32x16& index) noexcept {
  const uint8x16x4_t bytes = {{vreinterpretq_u8_f32(table.v[0]), vreinterpretq_u8_f32(table.v[1]),
                               vreinterpretq_u8_f32(table.v[2]), vreinterpretq_u8_f32(table.v[3])}};
  F32x16 x;
  NFLOAT_EACH_PART x.v[i] =
      vreinterpretq_f32_u8(vqtbl4q_u8(bytes, byte_indices(vandq_s32(index.v[i], vdupq_n_s32(15)))));
  return x;
}

inline constexpr bool kHasBins = false;

struct ByteTable {
  uint8x16_t v;
};
static inline ByteTable byte_table(const uint8_t* from) noexcept {
  return {vld1q_u8(from)};
}
// The low four bits of the 16 lanes as bytes.
static inline uint8x16_t narrow_lanes(const I32x16& x) noexcept {
  const uint16x8_t low = vuzp1q_u16(vreinterpretq_u16_s32(x.v[0]), vreinterpretq_u16_s32(x.v[1]));
  const uint16x8_t high = vuzp1q_u16(vreinterpretq_u16_s32(x.v[2]), vreinterpretq_u16_s32(x.v[3]));
  return vandq_u8(vuzp1q_u8(vreinterpretq_u8_u16(low), vreinterpretq_u8_u16(high)), vdupq_n_u8(15));
}
static inline uint8x16_t pack_pairs(uint8x16_t first, uint8x16_t second) noexcept {
  return vsliq_n_u8(vuzp2q_u8(first, second), vuzp1q_u8(first, second), 4);
}
static inline void store_codes(uint8_t* to, const I32x16& a, const I32x16& b, const I32x16& c,
                               const I32x16& d, const ByteTable& map) noexcept {
  vst1q_u8(to, pack_pairs(vqtbl1q_u8(map.v, narrow_lanes(a)), vqtbl1q_u8(map.v, narrow_lanes(b))));
  vst1q_u8(to + 16, pack_pairs(vqtbl1q_u8(map.v, narrow_lanes(c)), vqtbl1q_u8(map.v, narrow_lanes(d))));
}
static inline I32x16 expand_codes(const uint8_t* from) noexcept {
  const uint8x8_t bytes = vld1_u8(from);
  const uint8x8x2_t codes = vzip_u8(vshr_n_u8(bytes, 4), vand_u8(bytes, vdup_n_u8(15)));
  I32x16 x;
  for (int i = 0; i < 2; ++i) {
    const uint16x8_t wide = vmovl_u8(codes.val[i]);
    x.v[2 * i] = vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(wide)));
    x.v[2 * i + 1] = vreinterpretq_s32_u32(vmovl_u16(vget_high_u16(wide)));
  }
  return x;
}

struct HalfTable {
  uint8x16_t low, high;  // bytes of 16 words
};
static inline HalfTable split_words(uint16x8_t first, uint16x8_t second) noexcept {
  const uint8x16_t a = vreinterpretq_u8_u16(first), b = vreinterpretq_u8_u16(second);
  return {vuzp1q_u8(a, b), vuzp2q_u8(a, b)};
}
static inline HalfTable half_table(const F32x16& x, F16) noexcept {
  const auto words = [&](int i) {
    return vcombine_u16(vreinterpret_u16_f16(vcvt_f16_f32(x.v[i])),
                        vreinterpret_u16_f16(vcvt_f16_f32(x.v[i + 1])));
  };
  return split_words(words(0), words(2));
}
static inline uint16x4_t round_bf16(float32x4_t x) noexcept {
  const uint32x4_t bits = vreinterpretq_u32_f32(x);
  const uint32x4_t high = vshrq_n_u32(bits, 16);
  const uint32x4_t odd = vandq_u32(high, vdupq_n_u32(1));
  const uint32x4_t rounded = vshrq_n_u32(vaddq_u32(vaddq_u32(bits, odd), vdupq_n_u32(0x7fff)), 16);
  const uint32x4_t quiet = vorrq_u32(high, vdupq_n_u32(0x40));
  return vmovn_u32(vbslq_u32(vceqq_f32(x, x), rounded, quiet));
}
static inline HalfTable half_table(const F32x16& x, Bf16) noexcept {
  return split_words(vcombine_u16(round_bf16(x.v[0]), round_bf16(x.v[1])),
                     vcombine_u16(round_bf16(x.v[2]), round_bf16(x.v[3])));
}
template <bool kStream>
static inline void decode_halves(const uint8_t* codes, const HalfTable& table, uint16_t* to) noexcept {
  const uint8x16_t bytes = vld1q_u8(codes);
  const uint8x16_t even = vshrq_n_u8(bytes, 4), odd = vandq_u8(bytes, vdupq_n_u8(15));
  const uint8x16_t nibbles[2] = {vzip1q_u8(even, odd), vzip2q_u8(even, odd)};
  for (int i = 0; i < 2; ++i) {
    const uint8x16_t low = vqtbl1q_u8(table.low, nibbles[i]), high = vqtbl1q_u8(table.high, nibbles[i]);
    const uint8x16_t values[2] = {vzip1q_u8(low, high), vzip2q_u8(low, high)};
    std::memcpy(to + 16 * i, values, sizeof values);
  }
}

#undef NFLOAT_EACH_PART

}  // namespace nfloat::kernels::NFLOAT_TARGET_NAMESPACE

#endif  // NFLOAT_KERNELS_SIMD_NEON_H_
