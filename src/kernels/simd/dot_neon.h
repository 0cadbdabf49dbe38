// SPDX-License-Identifier: Apache-2.0
// The vocabulary of dot.h on 64-bit Arm with dotprod, i8mm and bf16: rows by four in a register each.
// Compiled once per target; includer defines NFLOAT_TARGET_NAMESPACE.
#ifndef NFLOAT_KERNELS_SIMD_DOT_NEON_H_
#define NFLOAT_KERNELS_SIMD_DOT_NEON_H_

#include <arm_neon.h>

#include <cstring>

#include "kernels/gemm.h"

namespace nfloat::kernels::NFLOAT_TARGET_NAMESPACE {

inline constexpr int kTilePanels = 1;
inline constexpr int kTileRows = 4;
inline constexpr int kDenseRows = 4;
inline constexpr int kMapGroups = 1;
inline constexpr bool kMultipliesBf16 = true;

struct Bytes64 {
  uint8x16_t v[4];
};
struct Pairs16 {
  uint16x8_t v[4];
};
struct ByteLevels {
  uint8x16_t v;
};
struct PairLevels {
  uint8x16_t low, high;
};
struct FloatLevels {
  F32x16 v;
};

static inline ByteLevels byte_levels(const LevelTables& t) noexcept {
  return {vld1q_u8(t.u8)};
}
static inline PairLevels pair_levels(const LevelTables& t) noexcept {
  const uint8x16x2_t split = vld2q_u8(reinterpret_cast<const uint8_t*>(t.bf16));
  return {split.val[0], split.val[1]};
}
static inline FloatLevels float_levels(const LevelTables& t) noexcept {
  return {load16(t.f32)};
}
static inline Bytes64 load_bytes(const uint8_t* from) noexcept {
  Bytes64 x;
  std::memcpy(&x, from, sizeof x);
  return x;
}
static inline void store_bytes(uint8_t* to, const Bytes64& x) noexcept {
  std::memcpy(to, &x, sizeof x);
}
static inline void stream_bytes(uint8_t* to, const Bytes64& x) noexcept {
  store_bytes(to, x);
}
static inline Pairs16 load_pairs(const uint8_t* from) noexcept {
  Pairs16 x;
  std::memcpy(&x, from, sizeof x);
  return x;
}
static inline void store_pairs(uint8_t* to, const Pairs16& x) noexcept {
  std::memcpy(to, &x, sizeof x);
}
static inline Bytes64 zip_words(uint8x16_t a0, uint8x16_t b0, uint8x16_t a1, uint8x16_t b1) noexcept {
  const auto words = [](uint8x16_t x) { return vreinterpretq_u32_u8(x); };
  const auto bytes = [](uint32x4_t x) { return vreinterpretq_u8_u32(x); };
  return {{bytes(vzip1q_u32(words(a0), words(b0))), bytes(vzip2q_u32(words(a0), words(b0))),
           bytes(vzip1q_u32(words(a1), words(b1))), bytes(vzip2q_u32(words(a1), words(b1)))}};
}
static inline Bytes64 zip_low_words(const Bytes64& a, const Bytes64& b) noexcept {
  return zip_words(a.v[0], b.v[0], a.v[1], b.v[1]);
}
static inline Bytes64 zip_high_words(const Bytes64& a, const Bytes64& b) noexcept {
  return zip_words(a.v[2], b.v[2], a.v[3], b.v[3]);
}
static inline Bytes64 pack_nibbles(Bytes64 x) noexcept {
  // Even bytes want the high nibble of theirs, odd ones the low one.
  constexpr uint8_t kTwice[16] = {0, 0, 1, 1, 4, 4, 5, 5, 8, 8, 9, 9, 12, 12, 13, 13};
  const uint8x16_t twice_low = vld1q_u8(kTwice), twice_high = vaddq_u8(twice_low, vdupq_n_u8(2));
  const uint8x16_t even = vreinterpretq_u8_u16(vdupq_n_u16(0x00ff));
  for (uint8x16_t& part : x.v) {
    const uint8x16_t low = vqtbl1q_u8(part, twice_low), high = vqtbl1q_u8(part, twice_high);
    const uint8x16_t of_low = vbslq_u8(even, vshrq_n_u8(low, 4), low);
    const uint8x16_t of_high = vbslq_u8(even, high, vshlq_n_u8(high, 4));
    part = vbslq_u8(vdupq_n_u8(15), of_low, of_high);
  }
  return x;
}
template <int kShift>
static inline Bytes64 lookup_bytes(Bytes64 x, const ByteLevels& levels) noexcept {
  for (uint8x16_t& part : x.v) {
    if constexpr (kShift == 0) {
      part = vqtbl1q_u8(levels.v, vandq_u8(part, vdupq_n_u8(15)));
    } else {
      part = vqtbl1q_u8(levels.v, vshrq_n_u8(part, kShift));
    }
  }
  return x;
}
template <int kShift>
static inline Pairs16 lookup_pairs(const Bytes64& codes, const PairLevels& levels) noexcept {
  Pairs16 x;
  for (int i = 0; i < 4; ++i) {
    uint16x8_t word = vreinterpretq_u16_u8(codes.v[i]);
    if constexpr (kShift != 0) word = vshrq_n_u16(word, kShift);
    // An index past the table gives zero: the high byte of each word.
    const uint8x16_t index =
        vreinterpretq_u8_u16(vorrq_u16(vandq_u16(word, vdupq_n_u16(15)), vdupq_n_u16(0xff00)));
    const uint16x8_t low = vreinterpretq_u16_u8(vqtbl1q_u8(levels.low, index));
    const uint16x8_t high = vreinterpretq_u16_u8(vqtbl1q_u8(levels.high, index));
    x.v[i] = vorrq_u16(low, vshlq_n_u16(high, 8));
  }
  return x;
}
template <int kShift>
static inline F32x16 lookup_floats(const Bytes64& codes, const FloatLevels& levels) noexcept {
  I32x16 index;
  for (int i = 0; i < 4; ++i) {
    uint32x4_t word = vreinterpretq_u32_u8(codes.v[i]);
    if constexpr (kShift != 0) word = vshrq_n_u32(word, kShift);
    index.v[i] = vreinterpretq_s32_u32(word);
  }
  return lookup16(levels.v, index);
}
inline constexpr bool kSignedBytes = false;
static inline const Bytes64& turn_sign(const Bytes64& x) noexcept {
  return x;
}
static inline I32x16 dot4(I32x16 sum, const Bytes64& w, const int8_t* x) noexcept {
  int32_t four;
  std::memcpy(&four, x, sizeof four);
  const int8x16_t all = vreinterpretq_s8_s32(vdupq_n_s32(four));
  for (int i = 0; i < 4; ++i) sum.v[i] = vusdotq_s32(sum.v[i], w.v[i], all);
  return sum;
}
static inline F32x16 dot2(F32x16 sum, const Pairs16& w, const uint16_t* x) noexcept {
  uint32_t two;
  std::memcpy(&two, x, sizeof two);
  const bfloat16x8_t all = vreinterpretq_bf16_u32(vdupq_n_u32(two));
  for (int i = 0; i < 4; ++i) sum.v[i] = vbfdotq_f32(sum.v[i], vreinterpretq_bf16_u16(w.v[i]), all);
  return sum;
}
static inline F32x16 fma16(const F32x16& a, const F32x16& b, F32x16 sum) noexcept {
  for (int i = 0; i < 4; ++i) sum.v[i] = vfmaq_f32(sum.v[i], a.v[i], b.v[i]);
  return sum;
}
static inline F32x16 to_float16(const I32x16& x) noexcept {
  F32x16 y;
  for (int i = 0; i < 4; ++i) y.v[i] = vcvtq_f32_s32(x.v[i]);
  return y;
}
static inline F32x16 low_half(const Pairs16& x) noexcept {
  F32x16 y;
  for (int i = 0; i < 4; ++i) y.v[i] = vreinterpretq_f32_u32(vshlq_n_u32(vreinterpretq_u32_u16(x.v[i]), 16));
  return y;
}
static inline F32x16 high_half(const Pairs16& x) noexcept {
  F32x16 y;
  for (int i = 0; i < 4; ++i)
    y.v[i] = vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_u16(x.v[i]), vdupq_n_u32(0xffff0000u)));
  return y;
}
static inline void map_scales(const ScaleMap& map, const uint8_t* codes, int groups, float* output) noexcept {
  for (int i = 0; i < kPanelRows * groups; ++i) output[i] = map.values[codes[i]];
}
static inline F32x16 gather_shifted(const float* from, const int32_t* first, int32_t g, int shift) noexcept {
  float values[16];
  for (int i = 0; i < 16; ++i) values[i] = from[(first[i] + g) >> shift];
  return load16(values);
}
static inline void prefetch(const uint8_t* at) noexcept {
  __builtin_prefetch(at);
}
static inline void prefetch_far(const uint8_t* at) noexcept {
  __builtin_prefetch(at, 0, 2);
}

}  // namespace nfloat::kernels::NFLOAT_TARGET_NAMESPACE

#endif  // NFLOAT_KERNELS_SIMD_DOT_NEON_H_
