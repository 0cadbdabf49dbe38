// SPDX-License-Identifier: Apache-2.0
// The vocabulary of wide.h on AVX2 with F16C: lanes 0..7 and 8..15 in a register each. Compiled once per
// target; includer defines NFLOAT_TARGET_NAMESPACE.
#ifndef NFLOAT_KERNELS_SIMD_AVX2_H_
#define NFLOAT_KERNELS_SIMD_AVX2_H_

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "kernels/simd/elements.h"

namespace nfloat::kernels::NFLOAT_TARGET_NAMESPACE {

struct F32x16 {
  __m256 a, b;
};
struct I32x16 {
  __m256i a, b;
};

// An accumulator of a loop stays in its register. GCC otherwise keeps a second copy of each and moves it to
// and fro at every step.
static inline void hold(F32x16& x) noexcept {
  asm("" : "+x"(x.a), "+x"(x.b));
}
static inline void hold(I32x16& x) noexcept {
  asm("" : "+x"(x.a), "+x"(x.b));
}
static inline F32x16 load16(const float* from) noexcept {
  return {_mm256_loadu_ps(from), _mm256_loadu_ps(from + 8)};
}
static inline F32x16 load16(const F16* from) noexcept {
  const __m128i* words = reinterpret_cast<const __m128i*>(from);
  return {_mm256_cvtph_ps(_mm_loadu_si128(words)), _mm256_cvtph_ps(_mm_loadu_si128(words + 1))};
}
static inline F32x16 load16(const Bf16* from) noexcept {
  const __m128i* words = reinterpret_cast<const __m128i*>(from);
  const __m256i a = _mm256_cvtepu16_epi32(_mm_loadu_si128(words));
  const __m256i b = _mm256_cvtepu16_epi32(_mm_loadu_si128(words + 1));
  return {_mm256_castsi256_ps(_mm256_slli_epi32(a, 16)), _mm256_castsi256_ps(_mm256_slli_epi32(b, 16))};
}
static inline void store16(float* to, F32x16 x) noexcept {
  _mm256_storeu_ps(to, x.a);
  _mm256_storeu_ps(to + 8, x.b);
}
static inline void stream16(float* to, F32x16 x) noexcept {
  _mm256_stream_ps(to, x.a);
  _mm256_stream_ps(to + 8, x.b);
}
static inline void stream_fence() noexcept {
  _mm_sfence();
}
static inline F32x16 splat16(float value) noexcept {
  return {_mm256_set1_ps(value), _mm256_set1_ps(value)};
}
static inline F32x16 splat_pairs16(const float* from) noexcept {
  double pair;
  std::memcpy(&pair, from, sizeof pair);
  const __m256 x = _mm256_castpd_ps(_mm256_set1_pd(pair));
  return {x, x};
}
static inline I32x16 splat_pairs16(const int32_t* from) noexcept {
  int64_t pair;
  std::memcpy(&pair, from, sizeof pair);
  return {_mm256_set1_epi64x(pair), _mm256_set1_epi64x(pair)};
}
static inline __m256 change_above(__m256 x, __m256 y, __m256 t, __m256i change) noexcept {
  return _mm256_xor_ps(x, _mm256_and_ps(_mm256_cmp_ps(y, t, _CMP_GT_OQ), _mm256_castsi256_ps(change)));
}
static inline F32x16 change_above(F32x16 x, F32x16 y, F32x16 t, I32x16 change) noexcept {
  return {change_above(x.a, y.a, t.a, change.a), change_above(x.b, y.b, t.b, change.b)};
}
static inline float sum16(F32x16 x) noexcept {
  const __m256 eight = _mm256_add_ps(x.a, x.b);
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
static inline F32x16 smaller(F32x16 x, F32x16 y) noexcept {
  return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)};
}
static inline I32x16 splat16(int32_t value) noexcept {
  return {_mm256_set1_epi32(value), _mm256_set1_epi32(value)};
}
static inline I32x16 add(I32x16 x, I32x16 y) noexcept {
  return {_mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b)};
}
static inline F32x16 add(F32x16 x, F32x16 y) noexcept {
  return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)};
}
static inline F32x16 multiply(F32x16 x, F32x16 y) noexcept {
  return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)};
}
static inline F32x16 divide(F32x16 x, F32x16 y) noexcept {
  return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)};
}
static inline I32x16 bits_of(F32x16 x) noexcept {
  return {_mm256_castps_si256(x.a), _mm256_castps_si256(x.b)};
}
static inline I32x16 magnitude_bits(F32x16 x) noexcept {
  const __m256i mask = _mm256_set1_epi32(0x7fffffff);
  return {_mm256_and_si256(_mm256_castps_si256(x.a), mask), _mm256_and_si256(_mm256_castps_si256(x.b), mask)};
}
static inline I32x16 larger(I32x16 x, I32x16 y) noexcept {
  return {_mm256_max_epi32(x.a, y.a), _mm256_max_epi32(x.b, y.b)};
}
static inline int32_t largest16(I32x16 x) noexcept {
  const __m256i eight = _mm256_max_epi32(x.a, x.b);
  __m128i four = _mm_max_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
  four = _mm_max_epi32(four, _mm_shuffle_epi32(four, 0x4e));
  four = _mm_max_epi32(four, _mm_shuffle_epi32(four, 0xb1));
  return _mm_cvtsi128_si32(four);
}
static inline __m256i descend(__m256i n, __m256 y, __m256 t) noexcept {
  const __m256i above = _mm256_castps_si256(_mm256_cmp_ps(y, t, _CMP_GT_OQ));
  return _mm256_sub_epi32(_mm256_add_epi32(n, n), above);
}
static inline I32x16 descend(I32x16 n, F32x16 y, F32x16 t) noexcept {
  return {descend(n.a, y.a, t.a), descend(n.b, y.b, t.b)};
}
static inline F32x16 lookup8(const F32x16& table, I32x16 index) noexcept {
  return {_mm256_permutevar8x32_ps(table.a, index.a), _mm256_permutevar8x32_ps(table.a, index.b)};
}
static inline __m256 lookup16(const F32x16& table, __m256i index) noexcept {
  const __m256 upper = _mm256_castsi256_ps(_mm256_slli_epi32(index, 28));  // bit 3 as the sign
  return _mm256_blendv_ps(_mm256_permutevar8x32_ps(table.a, index), _mm256_permutevar8x32_ps(table.b, index),
                          upper);
}
static inline F32x16 lookup16(const F32x16& table, I32x16 index) noexcept {
  return {lookup16(table, index.a), lookup16(table, index.b)};
}

inline constexpr bool kHasBins = false;

struct ByteTable {
  __m256i v;
};
static inline ByteTable byte_table(const uint8_t* from) noexcept {
  return {_mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)))};
}
// Byte k of lane i is element 16 k + i; then the pairs of lanes meet in the low half of each 64 bits.
static inline __m256i pair_codes(__m256i a, __m256i b, __m256i c, __m256i d, __m256i map) noexcept {
  const __m256i ab = _mm256_or_si256(a, _mm256_slli_epi32(b, 8));
  const __m256i cd = _mm256_or_si256(_mm256_slli_epi32(c, 16), _mm256_slli_epi32(d, 24));
  const __m256i codes = _mm256_shuffle_epi8(map, _mm256_or_si256(ab, cd));
  return _mm256_or_si256(_mm256_slli_epi64(codes, 4), _mm256_srli_epi64(codes, 32));
}
static inline void store_codes(uint8_t* to, I32x16 a, I32x16 b, I32x16 c, I32x16 d,
                               const ByteTable& map) noexcept {
  const __m256i low = pair_codes(a.a, b.a, c.a, d.a, map.v);
  const __m256i high = pair_codes(a.b, b.b, c.b, d.b, map.v);
  // 64-bit lanes 0 1 | 2 3 of low and of high: their even halves come as low 0 1, high 0 1 | low 2 3, high
  // 2 3.
  const __m256i rows =
      _mm256_castps_si256(_mm256_shuffle_ps(_mm256_castsi256_ps(low), _mm256_castsi256_ps(high), 0x88));
  const __m256i ordered = _mm256_permute4x64_epi64(rows, 0xd8);
  const __m256i order =
      _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
  const __m256i columns = _mm256_shuffle_epi8(ordered, order);
  const __m256i lanes = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm256_permutevar8x32_epi32(columns, lanes));
}
static inline I32x16 expand_codes(const uint8_t* from) noexcept {
  const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(from));
  const __m128i codes = _mm_unpacklo_epi8(_mm_srli_epi16(bytes, 4), bytes);
  const __m128i clean = _mm_and_si128(codes, _mm_set1_epi8(15));
  return {_mm256_cvtepu8_epi32(clean), _mm256_cvtepu8_epi32(_mm_srli_si128(clean, 8))};
}

struct HalfTable {
  __m256i low, high;  // bytes of 16 words, twice
};
static inline HalfTable split_words(__m128i first, __m128i second) noexcept {
  const __m128i mask = _mm_set1_epi16(0xff);
  const __m128i low = _mm_packus_epi16(_mm_and_si128(first, mask), _mm_and_si128(second, mask));
  const __m128i high = _mm_packus_epi16(_mm_srli_epi16(first, 8), _mm_srli_epi16(second, 8));
  return {_mm256_broadcastsi128_si256(low), _mm256_broadcastsi128_si256(high)};
}
static inline HalfTable half_table(F32x16 x, F16) noexcept {
  constexpr int kRounding = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  return split_words(_mm256_cvtps_ph(x.a, kRounding), _mm256_cvtps_ph(x.b, kRounding));
}
static inline __m256i round_bf16(__m256 x) noexcept {
  const __m256i bits = _mm256_castps_si256(x);
  const __m256i high = _mm256_srli_epi32(bits, 16);
  const __m256i odd = _mm256_and_si256(high, _mm256_set1_epi32(1));
  const __m256i rounded =
      _mm256_srli_epi32(_mm256_add_epi32(_mm256_add_epi32(bits, odd), _mm256_set1_epi32(0x7fff)), 16);
  const __m256i quiet = _mm256_or_si256(high, _mm256_set1_epi32(0x40));
  return _mm256_blendv_epi8(rounded, quiet, _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q)));
}
static inline HalfTable half_table(F32x16 x, Bf16) noexcept {
  const __m256i words = _mm256_permute4x64_epi64(_mm256_packus_epi32(round_bf16(x.a), round_bf16(x.b)), 0xd8);
  return split_words(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
}
template <bool kStream>
static inline void decode_halves(const uint8_t* codes, const HalfTable& table, uint16_t* to) noexcept {
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(codes));
  const __m256i wide = _mm256_cvtepu8_epi16(bytes);  // high nibble to the low byte, low nibble above it
  const __m256i nibbles = _mm256_and_si256(
      _mm256_or_si256(_mm256_srli_epi16(wide, 4), _mm256_slli_epi16(wide, 8)), _mm256_set1_epi8(15));
  const __m256i low = _mm256_shuffle_epi8(table.low, nibbles);
  const __m256i high = _mm256_shuffle_epi8(table.high, nibbles);
  const __m256i first = _mm256_unpacklo_epi8(low, high);   // words 0..7 | 16..23
  const __m256i second = _mm256_unpackhi_epi8(low, high);  // words 8..15 | 24..31
  __m256i* out = reinterpret_cast<__m256i*>(to);
  const __m256i begin = _mm256_permute2x128_si256(first, second, 0x20);
  const __m256i end = _mm256_permute2x128_si256(first, second, 0x31);
  if constexpr (kStream) {
    _mm256_stream_si256(out, begin);
    _mm256_stream_si256(out + 1, end);
  } else {
    _mm256_storeu_si256(out, begin);
    _mm256_storeu_si256(out + 1, end);
  }
}

}  // namespace nfloat::kernels::NFLOAT_TARGET_NAMESPACE

#endif  // NFLOAT_KERNELS_SIMD_AVX2_H_
