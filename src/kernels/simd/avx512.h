// SPDX-License-Identifier: Apache-2.0
// The vocabulary of wide.h on AVX-512 (F, BW, DQ, VL; VBMI where compiled with it). Compiled once per target;
// includer defines NFLOAT_TARGET_NAMESPACE.
#ifndef NFLOAT_KERNELS_SIMD_AVX512_H_
#define NFLOAT_KERNELS_SIMD_AVX512_H_

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "kernels/simd/elements.h"

namespace nfloat::kernels::NFLOAT_TARGET_NAMESPACE {

struct F32x16 {
  __m512 v;
};
struct I32x16 {
  __m512i v;
};

// An accumulator of a loop stays in its register. GCC otherwise keeps a second copy of each and moves it to
// and fro at every step.
static inline void hold(F32x16& x) noexcept {
  asm("" : "+v"(x.v));
}
static inline void hold(I32x16& x) noexcept {
  asm("" : "+v"(x.v));
}
static inline F32x16 load16(const float* from) noexcept {
  return {_mm512_loadu_ps(from)};
}
static inline F32x16 load16(const F16* from) noexcept {
  return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)))};
}
static inline F32x16 load16(const Bf16* from) noexcept {
  const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(wide, 16))};
}
static inline void store16(float* to, F32x16 x) noexcept {
  _mm512_storeu_ps(to, x.v);
}
static inline void stream16(float* to, F32x16 x) noexcept {
  _mm512_stream_ps(to, x.v);
}
static inline void stream_fence() noexcept {
  _mm_sfence();
}
static inline F32x16 splat16(float value) noexcept {
  return {_mm512_set1_ps(value)};
}
static inline F32x16 splat_pairs16(const float* from) noexcept {
  double pair;
  std::memcpy(&pair, from, sizeof pair);
  return {_mm512_castpd_ps(_mm512_set1_pd(pair))};
}
static inline I32x16 splat_pairs16(const int32_t* from) noexcept {
  int64_t pair;
  std::memcpy(&pair, from, sizeof pair);
  return {_mm512_set1_epi64(pair)};
}
static inline F32x16 change_above(F32x16 x, F32x16 y, F32x16 t, I32x16 change) noexcept {
  const __m512i bits = _mm512_castps_si512(x.v);
  return {_mm512_castsi512_ps(
      _mm512_mask_xor_epi32(bits, _mm512_cmp_ps_mask(y.v, t.v, _CMP_GT_OQ), bits, change.v))};
}
static inline F32x16 smaller(F32x16 x, F32x16 y) noexcept {
  return {_mm512_min_ps(x.v, y.v)};
}
static inline float sum16(F32x16 x) noexcept {
  const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(x.v), _mm512_extractf32x8_ps(x.v, 1));
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
static inline I32x16 splat16(int32_t value) noexcept {
  return {_mm512_set1_epi32(value)};
}
static inline I32x16 add(I32x16 a, I32x16 b) noexcept {
  return {_mm512_add_epi32(a.v, b.v)};
}
static inline F32x16 add(F32x16 a, F32x16 b) noexcept {
  return {_mm512_add_ps(a.v, b.v)};
}
static inline F32x16 multiply(F32x16 a, F32x16 b) noexcept {
  return {_mm512_mul_ps(a.v, b.v)};
}
static inline F32x16 divide(F32x16 a, F32x16 b) noexcept {
  return {_mm512_div_ps(a.v, b.v)};
}
static inline I32x16 bits_of(F32x16 x) noexcept {
  return {_mm512_castps_si512(x.v)};
}
static inline I32x16 magnitude_bits(F32x16 x) noexcept {
  return {_mm512_and_si512(_mm512_castps_si512(x.v), _mm512_set1_epi32(0x7fffffff))};
}
static inline I32x16 larger(I32x16 a, I32x16 b) noexcept {
  return {_mm512_max_epi32(a.v, b.v)};
}
static inline int32_t largest16(I32x16 x) noexcept {
  return _mm512_reduce_max_epi32(x.v);
}
static inline I32x16 descend(I32x16 n, F32x16 y, F32x16 t) noexcept {
  const __mmask16 above = _mm512_cmp_ps_mask(y.v, t.v, _CMP_GT_OQ);
  const __m512i twice = _mm512_add_epi32(n.v, n.v);
  return {_mm512_mask_add_epi32(twice, above, twice, _mm512_set1_epi32(1))};
}
static inline F32x16 lookup8(const F32x16& table, I32x16 index) noexcept {
  return {_mm512_permutexvar_ps(index.v, table.v)};
}
static inline F32x16 lookup16(const F32x16& table, I32x16 index) noexcept {
  return {_mm512_permutexvar_ps(index.v, table.v)};
}

inline constexpr bool kHasBins = true;

static inline F32x16 lookup32(const F32x16* table, I32x16 index) noexcept {
  return {_mm512_permutex2var_ps(table[0].v, index.v, table[1].v)};
}
static inline I32x16 lookup32(const I32x16* table, I32x16 index) noexcept {
  return {_mm512_permutex2var_epi32(table[0].v, index.v, table[1].v)};
}
// A bin of [-1, 1] that grows with y, in the low five bits; the others are noise. kClamp takes any y, NaN as
// the least; without it |y| is at most 1 and a few ulp.
template <bool kClamp>
static inline I32x16 bin_of(F32x16 y) noexcept {
  __m512 x = y.v;
  if constexpr (kClamp) x = _mm512_min_ps(_mm512_max_ps(x, _mm512_set1_ps(-1.0f)), _mm512_set1_ps(1.0f));
  // 1.5 * 2^23 has a unit of 1 in its last place: the sum rounds 15.49 x to an integer.
  return {_mm512_castps_si512(_mm512_fmadd_ps(x, _mm512_set1_ps(15.49f), _mm512_set1_ps(0x1.8p23f + 16.0f)))};
}
static inline I32x16 increment_above(I32x16 n, F32x16 y, F32x16 t) noexcept {
  const __mmask16 above = _mm512_cmp_ps_mask(y.v, t.v, _CMP_GT_OQ);
  return {_mm512_mask_add_epi32(n.v, above, n.v, _mm512_set1_epi32(1))};
}

struct ByteTable {
  __m512i v;
};
static inline ByteTable byte_table(const uint8_t* from) noexcept {
  return {_mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)))};
}
static inline void store_codes(uint8_t* to, I32x16 a, I32x16 b, I32x16 c, I32x16 d,
                               const ByteTable& map) noexcept {
  // Byte k of lane i is element 16 k + i; then the pairs of lanes meet in the low half of each 64 bits.
  const __m512i ab = _mm512_or_si512(a.v, _mm512_slli_epi32(b.v, 8));
  const __m512i cd = _mm512_or_si512(_mm512_slli_epi32(c.v, 16), _mm512_slli_epi32(d.v, 24));
  const __m512i codes = _mm512_shuffle_epi8(map.v, _mm512_or_si512(ab, cd));
  const __m512i pairs = _mm512_or_si512(_mm512_slli_epi64(codes, 4), _mm512_srli_epi64(codes, 32));
#if defined(__AVX512VBMI__)
  alignas(64) static constexpr uint8_t kOrder[64] = {0,  8,  16, 24, 32, 40, 48, 56, 1,  9,  17,
                                                     25, 33, 41, 49, 57, 2,  10, 18, 26, 34, 42,
                                                     50, 58, 3,  11, 19, 27, 35, 43, 51, 59};
  const __m512i ordered = _mm512_permutexvar_epi8(_mm512_load_si512(kOrder), pairs);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_castsi512_si256(ordered));
#else
  const __m256i rows = _mm512_cvtepi64_epi32(pairs);
  const __m256i order =
      _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
  const __m256i columns = _mm256_shuffle_epi8(rows, order);
  const __m256i lanes = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm256_permutevar8x32_epi32(columns, lanes));
#endif
}
// Only the low four bits of each lane are codes: the look-ups ignore the rest.
static inline I32x16 expand_codes(const uint8_t* from) noexcept {
  int64_t bytes;
  __builtin_memcpy(&bytes, from, sizeof bytes);
  alignas(64) static constexpr uint8_t kSpread[64] = {
      0, 128, 128, 128, 0, 128, 128, 128, 1, 128, 128, 128, 1, 128, 128, 128,
      2, 128, 128, 128, 2, 128, 128, 128, 3, 128, 128, 128, 3, 128, 128, 128,
      4, 128, 128, 128, 4, 128, 128, 128, 5, 128, 128, 128, 5, 128, 128, 128,
      6, 128, 128, 128, 6, 128, 128, 128, 7, 128, 128, 128, 7, 128, 128, 128};
  const __m512i spread = _mm512_shuffle_epi8(_mm512_set1_epi64(bytes), _mm512_load_si512(kSpread));
  return {_mm512_srlv_epi32(spread, _mm512_set1_epi64(4))};
}

struct HalfTable {
  __m512i v;  // 16 words, twice
};
static inline HalfTable half_table(F32x16 x, F16) noexcept {
  const __m256i words = _mm512_cvtps_ph(x.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  return {_mm512_broadcast_i64x4(words)};
}
static inline HalfTable half_table(F32x16 x, Bf16) noexcept {
  const __m512i bits = _mm512_castps_si512(x.v);
  const __m512i high = _mm512_srli_epi32(bits, 16);
  const __m512i odd = _mm512_and_si512(high, _mm512_set1_epi32(1));
  const __m512i rounded =
      _mm512_srli_epi32(_mm512_add_epi32(_mm512_add_epi32(bits, odd), _mm512_set1_epi32(0x7fff)), 16);
  const __mmask16 nan = _mm512_cmp_ps_mask(x.v, x.v, _CMP_UNORD_Q);
  const __m512i words = _mm512_mask_or_epi32(rounded, nan, high, _mm512_set1_epi32(0x40));
  return {_mm512_broadcast_i64x4(_mm512_cvtepi32_epi16(words))};
}
template <bool kStream>
static inline void decode_halves(const uint8_t* codes, const HalfTable& table, uint16_t* to) noexcept {
  alignas(64) static constexpr uint8_t kSpread[64] = {
      0,  128, 0,  128, 1,  128, 1,  128, 2,  128, 2,  128, 3,  128, 3,  128, 4,  128, 4,  128, 5,  128,
      5,  128, 6,  128, 6,  128, 7,  128, 7,  128, 8,  128, 8,  128, 9,  128, 9,  128, 10, 128, 10, 128,
      11, 128, 11, 128, 12, 128, 12, 128, 13, 128, 13, 128, 14, 128, 14, 128, 15, 128, 15, 128};
  const __m512i bytes = _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(codes)));
  const __m512i spread = _mm512_shuffle_epi8(bytes, _mm512_load_si512(kSpread));
  const __m512i index = _mm512_srlv_epi16(spread, _mm512_set1_epi32(4));
  const __m512i values = _mm512_permutexvar_epi16(index, table.v);
  if constexpr (kStream) {
    _mm512_stream_si512(reinterpret_cast<__m512i*>(to), values);
  } else {
    _mm512_storeu_si512(to, values);
  }
}

}  // namespace nfloat::kernels::NFLOAT_TARGET_NAMESPACE

#endif  // NFLOAT_KERNELS_SIMD_AVX512_H_
