// SPDX-License-Identifier: Apache-2.0
// The vocabulary of dot.h on AVX-512; VBMI, VNNI and BF16 where compiled with them. Compiled once per target;
// includer defines NFLOAT_TARGET_NAMESPACE.
#ifndef NFLOAT_KERNELS_SIMD_DOT_AVX512_H_
#define NFLOAT_KERNELS_SIMD_DOT_AVX512_H_

#include <immintrin.h>

#include <cstring>

#include "kernels/gemm.h"

namespace nfloat::kernels::NFLOAT_TARGET_NAMESPACE {

inline constexpr int kTilePanels = 3;
inline constexpr int kTileRows = 8;
inline constexpr int kDenseRows = 4;
// Twice as many sums read the expanded weights, which come from the second cache, half as often; the tile's
// own then wait in memory, which bf16 alone can afford: it has half as many products a register of weights as
// int8.
inline constexpr int kDenseBf16Rows = 8;
inline constexpr int kMapGroups = 4;
#if defined(__AVX512BF16__)
inline constexpr bool kMultipliesBf16 = true;
#else
inline constexpr bool kMultipliesBf16 = false;
#endif

struct Bytes64 {
  __m512i v;
};
struct Pairs16 {
  __m512i v;
};
struct ByteLevels {
  __m512i v;
};
struct PairLevels {
  __m512i v;
};
struct FloatLevels {
  __m512 v;
};

static inline ByteLevels byte_levels(const LevelTables& t) noexcept {
  return {_mm512_load_si512(t.u8)};
}
static inline PairLevels pair_levels(const LevelTables& t) noexcept {
  return {_mm512_load_si512(t.bf16)};
}
static inline FloatLevels float_levels(const LevelTables& t) noexcept {
  return {_mm512_load_ps(t.f32)};
}
static inline Bytes64 load_bytes(const uint8_t* from) noexcept {
  return {_mm512_loadu_si512(from)};
}
static inline void store_bytes(uint8_t* to, Bytes64 x) noexcept {
  _mm512_storeu_si512(to, x.v);
}
static inline void stream_bytes(uint8_t* to, Bytes64 x) noexcept {
  _mm512_stream_si512(reinterpret_cast<__m512i*>(to), x.v);
}
static inline Pairs16 load_pairs(const uint8_t* from) noexcept {
  return {_mm512_loadu_si512(from)};
}
static inline void store_pairs(uint8_t* to, Pairs16 x) noexcept {
  _mm512_storeu_si512(to, x.v);
}
template <int kShift>
static inline Bytes64 lookup_bytes(Bytes64 codes, ByteLevels levels) noexcept {
  const __m512i index = kShift == 0 ? codes.v : _mm512_srli_epi16(codes.v, kShift);
#if defined(__AVX512VBMI__)
  return {_mm512_permutexvar_epi8(index, levels.v)};  // the four copies make bits 4 and 5 harmless
#else
  return {_mm512_shuffle_epi8(levels.v, _mm512_and_si512(index, _mm512_set1_epi8(15)))};
#endif
}
template <int kShift>
static inline Pairs16 lookup_pairs(Bytes64 codes, PairLevels levels) noexcept {
  const __m512i index = kShift == 0 ? codes.v : _mm512_srli_epi16(codes.v, kShift);
  return {_mm512_permutexvar_epi16(index, levels.v)};
}
template <int kShift>
static inline F32x16 lookup_floats(Bytes64 codes, FloatLevels levels) noexcept {
  const __m512i index = kShift == 0 ? codes.v : _mm512_srli_epi32(codes.v, kShift);
  return {_mm512_permutexvar_ps(index, levels.v)};
}
inline constexpr bool kSignedBytes = false;
static inline Bytes64 turn_sign(Bytes64 x) noexcept {
  return x;
}
static inline I32x16 dot4(I32x16 sum, Bytes64 w, const int8_t* x) noexcept {
  int32_t four;
  std::memcpy(&four, x, sizeof four);
  const __m512i all = _mm512_set1_epi32(four);
#if defined(__AVX512VNNI__)
  return {_mm512_dpbusd_epi32(sum.v, w.v, all)};
#else
  // Even and odd bytes as words: exact, where vpmaddubsw would saturate.
  const __m512i even = _mm512_madd_epi16(_mm512_and_si512(w.v, _mm512_set1_epi16(255)),
                                         _mm512_srai_epi16(_mm512_slli_epi16(all, 8), 8));
  const __m512i odd = _mm512_madd_epi16(_mm512_srli_epi16(w.v, 8), _mm512_srai_epi16(all, 8));
  return {_mm512_add_epi32(sum.v, _mm512_add_epi32(even, odd))};
#endif
}
static inline Bytes64 zip_low_words(Bytes64 a, Bytes64 b) noexcept {
  const __m512i index = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  return {_mm512_permutex2var_epi32(a.v, index, b.v)};
}
static inline Bytes64 zip_high_words(Bytes64 a, Bytes64 b) noexcept {
  const __m512i index = _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
  return {_mm512_permutex2var_epi32(a.v, index, b.v)};
}
static inline Bytes64 pack_nibbles(Bytes64 x) noexcept {
  // Bytes b0 b1 b2 b3 hold columns (0,1) (2,3) (4,5) (6,7), the first in the high nibble. Twice b0 b0 b1 b1
  // and b2 b2 b3 b3: the wanted nibbles then lie in alternating halves of their bytes.
  const __m512i twice_low =
      _mm512_broadcast_i32x4(_mm_setr_epi8(0, 0, 1, 1, 4, 4, 5, 5, 8, 8, 9, 9, 12, 12, 13, 13));
  const __m512i twice_high =
      _mm512_broadcast_i32x4(_mm_setr_epi8(2, 2, 3, 3, 6, 6, 7, 7, 10, 10, 11, 11, 14, 14, 15, 15));
  const __m512i low = _mm512_shuffle_epi8(x.v, twice_low), high = _mm512_shuffle_epi8(x.v, twice_high);
  const __m512i even = _mm512_set1_epi16(0x00ff), nibble = _mm512_set1_epi8(15);
  // Even bytes want their high nibble, odd ones their low one.
  const __m512i of_low =
      _mm512_and_si512(_mm512_ternarylogic_epi32(even, _mm512_srli_epi16(low, 4), low, 0xca), nibble);
  const __m512i of_high = _mm512_ternarylogic_epi32(even, high, _mm512_slli_epi16(high, 4), 0xca);
  return {_mm512_ternarylogic_epi32(nibble, of_low, of_high, 0xca)};
}
static inline Bytes64 order_pairs(Bytes64 x) noexcept {
  const __m128i order = _mm_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15);
  return {_mm512_shuffle_epi8(x.v, _mm512_broadcast_i32x4(order))};
}
static inline Bytes64 part_halves(Bytes64 x) noexcept {
  const __m512i even =
      _mm512_cvtepu8_epi16(_mm256_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30, 1, 3,
                                            5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31));
  return {_mm512_permutexvar_epi16(even, x.v)};
}
static inline Bytes64 part_bytes(Bytes64 x) noexcept {
  const __m128i order = _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  const __m512i words = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  return {_mm512_permutexvar_epi32(words, _mm512_shuffle_epi8(x.v, _mm512_broadcast_i32x4(order)))};
}
static inline F32x16 low_half(Pairs16 x) noexcept {
  return {_mm512_castsi512_ps(_mm512_slli_epi32(x.v, 16))};
}
static inline F32x16 high_half(Pairs16 x) noexcept {
  return {_mm512_castsi512_ps(_mm512_and_si512(x.v, _mm512_set1_epi32(static_cast<int>(0xffff0000u))))};
}
static inline F32x16 fma16(F32x16 a, F32x16 b, F32x16 sum) noexcept {
  return {_mm512_fmadd_ps(a.v, b.v, sum.v)};
}
static inline F32x16 dot2(F32x16 sum, Pairs16 w, const uint16_t* x) noexcept {
  int32_t two;
  std::memcpy(&two, x, sizeof two);
  const __m512i all = _mm512_set1_epi32(two);
#if defined(__AVX512BF16__)
  return {_mm512_dpbf16_ps(sum.v, reinterpret_cast<__m512bh>(w.v), reinterpret_cast<__m512bh>(all))};
#else
  return fma16(low_half(w), low_half({all}), fma16(high_half(w), high_half({all}), sum));
#endif
}
static inline F32x16 to_float16(I32x16 x) noexcept {
  return {_mm512_cvtepi32_ps(x.v)};
}
#if defined(__AVX512VBMI__)
// One byte of the values that 64 codes stand for; `upper`: codes from 128 on.
static inline __m512i map_byte(const uint8_t* table, __m512i codes, __mmask64 upper) noexcept {
  const auto look_up = [&](int first) {
    return _mm512_permutex2var_epi8(_mm512_load_si512(table + first), codes,
                                    _mm512_load_si512(table + first + 64));
  };
  return _mm512_mask_blend_epi8(upper, look_up(0), look_up(128));
}
#endif
static inline void map_scales(const ScaleMap& map, const uint8_t* codes, int groups, float* output) noexcept {
#if defined(__AVX512VBMI__)
  if (groups == kMapGroups) {
    // Zips of bytes and words stay inside 16 bytes: four rows of every group there make four groups of them.
    const __m512i turn = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    const __m512i turned = _mm512_permutexvar_epi32(turn, _mm512_loadu_si512(codes));
    const __mmask64 upper = _mm512_movepi8_mask(turned);
    __m512i bytes[4];
    for (int i = 0; i < 4; ++i) bytes[i] = map_byte(map.bytes[i], turned, upper);
    const __m512i low[2] = {_mm512_unpacklo_epi8(bytes[0], bytes[1]),
                            _mm512_unpackhi_epi8(bytes[0], bytes[1])};
    const __m512i high[2] = {_mm512_unpacklo_epi8(bytes[2], bytes[3]),
                             _mm512_unpackhi_epi8(bytes[2], bytes[3])};
    for (int i = 0; i < 2; ++i) {
      _mm512_storeu_si512(output + 32 * i, _mm512_unpacklo_epi16(low[i], high[i]));
      _mm512_storeu_si512(output + 32 * i + 16, _mm512_unpackhi_epi16(low[i], high[i]));
    }
    return;
  }
#endif
  for (int g = 0; g < groups; ++g) {
    const __m128i some = _mm_loadu_si128(reinterpret_cast<const __m128i*>(codes + 16 * g));
    _mm512_storeu_ps(output + 16 * g, _mm512_i32gather_ps(_mm512_cvtepu8_epi32(some), map.values, 4));
  }
}
static inline F32x16 gather_shifted(const float* from, const int32_t* first, int32_t g, int shift) noexcept {
  const __m512i sum = _mm512_add_epi32(_mm512_loadu_si512(first), _mm512_set1_epi32(g));
  return {_mm512_i32gather_ps(_mm512_srl_epi32(sum, _mm_cvtsi32_si128(shift)), from, 4)};
}
static inline void prefetch(const uint8_t* at) noexcept {
  _mm_prefetch(reinterpret_cast<const char*>(at), _MM_HINT_T0);
}
static inline void prefetch_far(const uint8_t* at) noexcept {
  _mm_prefetch(reinterpret_cast<const char*>(at), _MM_HINT_T1);
}

}  // namespace nfloat::kernels::NFLOAT_TARGET_NAMESPACE

#endif  // NFLOAT_KERNELS_SIMD_DOT_AVX512_H_
