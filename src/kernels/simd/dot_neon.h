// SPDX-License-Identifier: Apache-2.0
// The vocabulary of dot.h on 64-bit Arm, with what the target's flags give of dot products (dotprod), matrix
// products of bytes (i8mm) and of bf16 (bf16): four rows in a register. Compiled once per target; includer
// defines NFLOAT_TARGET_NAMESPACE.
#ifndef NFLOAT_KERNELS_SIMD_DOT_NEON_H_
#define NFLOAT_KERNELS_SIMD_DOT_NEON_H_

#include <arm_neon.h>

#include <cstring>

#include "kernels/gemm.h"

namespace nfloat::kernels::NFLOAT_TARGET_NAMESPACE {

inline constexpr int kTilePanels = 1;
inline constexpr int kTileRows = 4;
inline constexpr int kDenseRows = 4;
inline constexpr int kDenseBf16Rows = 4;
inline constexpr int kMapGroups = 1;
#if defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
inline constexpr bool kMultipliesBf16 = true;
#else
inline constexpr bool kMultipliesBf16 = false;
#endif
#if defined(__ARM_FEATURE_MATMUL_INT8)
inline constexpr bool kSignedBytes = false;  // usdot and usmmla take them as they are stored
#else
inline constexpr bool kSignedBytes = true;
#endif
#define NFLOAT_LANE_PRODUCTS 1
#define NFLOAT_OWN_ORDER 1
#if defined(__ARM_FEATURE_MATMUL_INT8) && defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
#define NFLOAT_PAIR_PRODUCTS 1
#endif

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
  const uint8x16_t levels = vld1q_u8(t.u8);
  return {kSignedBytes ? veorq_u8(levels, vdupq_n_u8(128)) : levels};
}
static inline PairLevels pair_levels(const LevelTables& t) noexcept {
  const uint8x16x2_t split = vld2q_u8(reinterpret_cast<const uint8_t*>(t.bf16));
  return {split.val[0], split.val[1]};
}
static inline FloatLevels float_levels(const LevelTables& t) noexcept {
  return {load16(t.f32)};
}
// Register by register: GCC copies a struct of them through the stack.
static inline Bytes64 load_bytes(const uint8_t* from) noexcept {
  return {{vld1q_u8(from), vld1q_u8(from + 16), vld1q_u8(from + 32), vld1q_u8(from + 48)}};
}
static inline void store_bytes(uint8_t* to, const Bytes64& x) noexcept {
  for (int i = 0; i < 4; ++i) vst1q_u8(to + 16 * i, x.v[i]);
}
static inline void stream_bytes(uint8_t* to, const Bytes64& x) noexcept {
  store_bytes(to, x);
}
static inline Pairs16 load_pairs(const uint8_t* from) noexcept {
  const Bytes64 x = load_bytes(from);
  return {{vreinterpretq_u16_u8(x.v[0]), vreinterpretq_u16_u8(x.v[1]), vreinterpretq_u16_u8(x.v[2]),
           vreinterpretq_u16_u8(x.v[3])}};
}
static inline void store_pairs(uint8_t* to, const Pairs16& x) noexcept {
  for (int i = 0; i < 4; ++i) vst1q_u8(to + 16 * i, vreinterpretq_u8_u16(x.v[i]));
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
static inline uint8x16_t even_halves(uint8x16_t a, uint8x16_t b) noexcept {
  return vreinterpretq_u8_u16(vuzp1q_u16(vreinterpretq_u16_u8(a), vreinterpretq_u16_u8(b)));
}
static inline uint8x16_t odd_halves(uint8x16_t a, uint8x16_t b) noexcept {
  return vreinterpretq_u8_u16(vuzp2q_u16(vreinterpretq_u16_u8(a), vreinterpretq_u16_u8(b)));
}
static inline Bytes64 order_pairs(Bytes64 x) noexcept {
  for (uint8x16_t& part : x.v)
    part = vcombine_u8(vget_low_u8(even_halves(part, part)), vget_low_u8(odd_halves(part, part)));
  return x;
}
static inline Bytes64 part_halves(const Bytes64& x) noexcept {
  return {{even_halves(x.v[0], x.v[1]), even_halves(x.v[2], x.v[3]), odd_halves(x.v[0], x.v[1]),
           odd_halves(x.v[2], x.v[3])}};
}
static inline Bytes64 part_bytes(const Bytes64& x) noexcept {
  const uint8x16_t even[2] = {vuzp1q_u8(x.v[0], x.v[1]), vuzp1q_u8(x.v[2], x.v[3])};
  const uint8x16_t odd[2] = {vuzp2q_u8(x.v[0], x.v[1]), vuzp2q_u8(x.v[2], x.v[3])};
  return {{vuzp1q_u8(even[0], even[1]), vuzp1q_u8(odd[0], odd[1]), vuzp2q_u8(even[0], even[1]),
           vuzp2q_u8(odd[0], odd[1])}};
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
// Low and high bytes of the levels of a half's nibbles, of which every other one makes pairs of two columns
// further: what both pairs of a half share is computed once.
template <int kShift>
static inline Pairs16 lookup_pairs(const Bytes64& codes, const PairLevels& levels) noexcept {
  Pairs16 x;
  for (int i = 0; i < 4; ++i) {
    const uint8x16_t nibbles =
        (kShift & 4) != 0 ? vshrq_n_u8(codes.v[i], 4) : vandq_u8(codes.v[i], vdupq_n_u8(15));
    const uint8x16_t low = vqtbl1q_u8(levels.low, nibbles), high = vqtbl1q_u8(levels.high, nibbles);
    x.v[i] = vreinterpretq_u16_u8(kShift < 8 ? vtrn1q_u8(low, high) : vtrn2q_u8(low, high));
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
static inline Bytes64 turn_sign(Bytes64 x) noexcept {
  if constexpr (kSignedBytes)
    for (uint8x16_t& part : x.v) part = veorq_u8(part, vdupq_n_u8(128));
  return x;
}

// Sixteen products with four activations, one lane of eight.
template <int kHalf>
static inline int32x4_t dot4_lane(int32x4_t sum, uint8x16_t w, int8x8_t x) noexcept {
#if defined(__ARM_FEATURE_MATMUL_INT8)
  return vusdotq_lane_s32(sum, w, x, kHalf);
#elif defined(__ARM_FEATURE_DOTPROD)
  return vdotq_lane_s32(sum, vreinterpretq_s8_u8(w), x, kHalf);
#else
  // Two products of at most 127 * 127 each fit 16 bits.
  const int8x16_t weights = vreinterpretq_s8_u8(w);
  const int8x16_t all = vreinterpretq_s8_s32(vdupq_lane_s32(vreinterpret_s32_s8(x), kHalf));
  const int16x8_t first = vmull_s8(vget_low_s8(weights), vget_low_s8(all));
  const int16x8_t second = vmull_high_s8(weights, all);
  return vpadalq_s16(sum, vpaddq_s16(first, second));
#endif
}
template <int kHalf>
static inline I32x16 dot4_of(I32x16 sum, const Bytes64& w, const int8_t* x) noexcept {
  const int8x8_t octet = vld1_s8(x);
  for (int i = 0; i < 4; ++i) sum.v[i] = dot4_lane<kHalf>(sum.v[i], w.v[i], octet);
  return sum;
}
template <int kPair>
static inline F32x16 dot2_of(F32x16 sum, const Pairs16& w, const uint16_t* x) noexcept {
#if defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
  const bfloat16x8_t octet = vreinterpretq_bf16_u16(vld1q_u16(x));
  for (int i = 0; i < 4; ++i)
    sum.v[i] = vbfdotq_laneq_f32(sum.v[i], vreinterpretq_bf16_u16(w.v[i]), octet, kPair);
#else
  const uint16x4_t four = vld1_u16(x + kPair / 2 * 4);
  const float32x4_t wide = vreinterpretq_f32_u32(vshll_n_u16(four, 16));
  for (int i = 0; i < 4; ++i) {
    const uint32x4_t both = vreinterpretq_u32_u16(w.v[i]);
    const float32x4_t low = vreinterpretq_f32_u32(vshlq_n_u32(both, 16));
    const float32x4_t high = vreinterpretq_f32_u32(vandq_u32(both, vdupq_n_u32(0xffff0000u)));
    sum.v[i] = vfmaq_laneq_f32(sum.v[i], low, wide, kPair % 2 * 2);
    sum.v[i] = vfmaq_laneq_f32(sum.v[i], high, wide, kPair % 2 * 2 + 1);
  }
#endif
  return sum;
}

static inline uint8x16_t zip_first(uint8x16_t a, uint8x16_t b) noexcept {
  return vreinterpretq_u8_u32(vzip1q_u32(vreinterpretq_u32_u8(a), vreinterpretq_u32_u8(b)));
}
static inline uint8x16_t zip_second(uint8x16_t a, uint8x16_t b) noexcept {
  return vreinterpretq_u8_u32(vzip2q_u32(vreinterpretq_u32_u8(a), vreinterpretq_u32_u8(b)));
}
#if defined(NFLOAT_PAIR_PRODUCTS)
struct RowPairs {
  uint8x16_t v[8];
};
static inline RowPairs zip_pairs(const Bytes64& low, const Bytes64& high) noexcept {
  RowPairs x;
  for (int i = 0; i < 4; ++i) {
    x.v[2 * i] = zip_first(low.v[i], high.v[i]);
    x.v[2 * i + 1] = zip_second(low.v[i], high.v[i]);
  }
  return x;
}
static inline RowPairs zip_pairs(const Pairs16& low, const Pairs16& high) noexcept {
  Bytes64 a, b;
  for (int i = 0; i < 4; ++i)
    a.v[i] = vreinterpretq_u8_u16(low.v[i]), b.v[i] = vreinterpretq_u8_u16(high.v[i]);
  return zip_pairs(a, b);
}
static inline RowPairs load_row_pairs(const uint8_t* from) noexcept {
  RowPairs x;
  std::memcpy(&x, from, sizeof x);
  return x;
}
static inline void store_row_pairs(uint8_t* to, const RowPairs& x) noexcept {
  std::memcpy(to, &x, sizeof x);
}
static inline void pair_offsets(I32x16& even, I32x16& odd, int32_t x, int32_t y) noexcept {
  const int32x4_t both = vzip1q_s32(vdupq_n_s32(x), vdupq_n_s32(y));
  for (int i = 0; i < 4; ++i) even.v[i] = odd.v[i] = both;
}
// Until settle_pairs, `even` has the sums of rows 0..7 of the panel, `odd` of 8..15.
static inline void pair_dot8(I32x16& even, I32x16& odd, const RowPairs& w, const int8_t* x) noexcept {
  const int8x16_t two = vld1q_s8(x);
  for (int i = 0; i < 4; ++i) even.v[i] = vusmmlaq_s32(even.v[i], w.v[i], two);
  for (int i = 0; i < 4; ++i) odd.v[i] = vusmmlaq_s32(odd.v[i], w.v[4 + i], two);
}
template <int kHalf>
static inline void pair_dot4(F32x16& even, F32x16& odd, const RowPairs& w, const uint16_t* x) noexcept {
  const uint64x2_t first = vreinterpretq_u64_u16(vld1q_u16(x));
  const uint64x2_t second = vreinterpretq_u64_u16(vld1q_u16(x + kOctet));
  const bfloat16x8_t two =
      vreinterpretq_bf16_u64(kHalf == 0 ? vzip1q_u64(first, second) : vzip2q_u64(first, second));
  for (int i = 0; i < 4; ++i) even.v[i] = vbfmmlaq_f32(even.v[i], vreinterpretq_bf16_u8(w.v[i]), two);
  for (int i = 0; i < 4; ++i) odd.v[i] = vbfmmlaq_f32(odd.v[i], vreinterpretq_bf16_u8(w.v[4 + i]), two);
}
static inline void settle_pairs(I32x16& even, I32x16& odd) noexcept {
  const I32x16 a = even, b = odd;
  for (int i = 0; i < 2; ++i) {
    even.v[i] = vuzp1q_s32(a.v[2 * i], a.v[2 * i + 1]);
    even.v[2 + i] = vuzp1q_s32(b.v[2 * i], b.v[2 * i + 1]);
    odd.v[i] = vuzp2q_s32(a.v[2 * i], a.v[2 * i + 1]);
    odd.v[2 + i] = vuzp2q_s32(b.v[2 * i], b.v[2 * i + 1]);
  }
}
static inline void settle_pairs(F32x16& even, F32x16& odd) noexcept {
  const F32x16 a = even, b = odd;
  for (int i = 0; i < 2; ++i) {
    even.v[i] = vuzp1q_f32(a.v[2 * i], a.v[2 * i + 1]);
    even.v[2 + i] = vuzp1q_f32(b.v[2 * i], b.v[2 * i + 1]);
    odd.v[i] = vuzp2q_f32(a.v[2 * i], a.v[2 * i + 1]);
    odd.v[2 + i] = vuzp2q_f32(b.v[2 * i], b.v[2 * i + 1]);
  }
}
// The own order is that of the pairs.
static inline void store_own_octet(uint8_t* to, const Bytes64& low, const Bytes64& high) noexcept {
  store_row_pairs(to, zip_pairs(low, high));
}
template <int kHalf>
static inline Bytes64 own_octet(const uint8_t* from) noexcept {
  Bytes64 x;
  for (int i = 0; i < 4; ++i) {
    const uint32x4_t a = vreinterpretq_u32_u8(vld1q_u8(from + 32 * i));
    const uint32x4_t b = vreinterpretq_u32_u8(vld1q_u8(from + 32 * i + 16));
    x.v[i] = vreinterpretq_u8_u32(kHalf == 0 ? vuzp1q_u32(a, b) : vuzp2q_u32(a, b));
  }
  return x;
}
#else
// The own order is that of gemm.h, with signed bytes.
static inline void store_own_octet(uint8_t* to, const Bytes64& low, const Bytes64& high) noexcept {
  store_bytes(to, low);
  store_bytes(to + 64, high);
}
template <int kHalf>
static inline Bytes64 own_octet(const uint8_t* from) noexcept {
  return load_bytes(from + 64 * kHalf);
}
#endif
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
