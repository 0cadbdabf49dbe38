// SPDX-License-Identifier: Apache-2.0
// The vocabulary of dot.h on AVX2; AVX-VNNI where compiled with it. Compiled once per target; includer
// defines NFLOAT_TARGET_NAMESPACE.
#ifndef NFLOAT_KERNELS_SIMD_DOT_AVX2_H_
#define NFLOAT_KERNELS_SIMD_DOT_AVX2_H_

#include <immintrin.h>

#include <cstring>

#include "kernels/gemm.h"

namespace nfloat::kernels::NFLOAT_TARGET_NAMESPACE {

inline constexpr int kTilePanels = 1;
inline constexpr int kTileRows = 4;
inline constexpr int kDenseRows = 4;
inline constexpr int kDenseBf16Rows = 4;
inline constexpr int kMapGroups = 1;
inline constexpr bool kMultipliesBf16 = false;

// Rows 0..7 and 8..15 in a register each.
struct Bytes64 {
  __m256i a, b;
};
struct Pairs16 {
  __m256i a, b;
};
struct ByteLevels {
  __m256i v;
};
struct PairLevels {
  __m256i low, high;  // the bytes of 16 bf16, twice
};
struct FloatLevels {
  __m256 low, high;  // levels 0..7, 8..15
};

static inline __m256i load_part(const void* from) noexcept {
  return _mm256_loadu_si256(static_cast<const __m256i*>(from));
}
static inline void store_part(void* to, __m256i x) noexcept {
  _mm256_storeu_si256(static_cast<__m256i*>(to), x);
}
static inline PairLevels pair_levels(const LevelTables& t) noexcept {
  uint8_t low[32], high[32];
  for (int i = 0; i < 32; ++i) {
    low[i] = static_cast<uint8_t>(t.bf16[i] & 255);
    high[i] = static_cast<uint8_t>(t.bf16[i] >> 8);
  }
  return {load_part(low), load_part(high)};
}
static inline FloatLevels float_levels(const LevelTables& t) noexcept {
  return {_mm256_load_ps(t.f32), _mm256_load_ps(t.f32 + 8)};
}
static inline Bytes64 load_bytes(const uint8_t* from) noexcept {
  return {load_part(from), load_part(from + 32)};
}
static inline void store_bytes(uint8_t* to, Bytes64 x) noexcept {
  store_part(to, x.a);
  store_part(to + 32, x.b);
}
static inline void stream_bytes(uint8_t* to, Bytes64 x) noexcept {
  _mm256_stream_si256(reinterpret_cast<__m256i*>(to), x.a);
  _mm256_stream_si256(reinterpret_cast<__m256i*>(to) + 1, x.b);
}
static inline Pairs16 load_pairs(const uint8_t* from) noexcept {
  return {load_part(from), load_part(from + 32)};
}
static inline void store_pairs(uint8_t* to, Pairs16 x) noexcept {
  store_part(to, x.a);
  store_part(to + 32, x.b);
}
static inline Bytes64 zip_words(__m256i a, __m256i b) noexcept {
  const __m256i low = _mm256_unpacklo_epi32(a, b), high = _mm256_unpackhi_epi32(a, b);
  return {_mm256_permute2x128_si256(low, high, 0x20), _mm256_permute2x128_si256(low, high, 0x31)};
}
static inline Bytes64 zip_low_words(Bytes64 a, Bytes64 b) noexcept {
  return zip_words(a.a, b.a);
}
static inline Bytes64 zip_high_words(Bytes64 a, Bytes64 b) noexcept {
  return zip_words(a.b, b.b);
}
static inline __m256i pack_nibbles_part(__m256i x) noexcept {
  // As in dot_avx512.h.
  const __m256i twice_low =
      _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 0, 1, 1, 4, 4, 5, 5, 8, 8, 9, 9, 12, 12, 13, 13));
  const __m256i low = _mm256_shuffle_epi8(x, twice_low);
  const __m256i high = _mm256_shuffle_epi8(x, _mm256_add_epi8(twice_low, _mm256_set1_epi8(2)));
  const __m256i odd = _mm256_set1_epi16(-256), nibble = _mm256_set1_epi8(15);
  const __m256i of_low = _mm256_blendv_epi8(_mm256_srli_epi16(low, 4), low, odd);
  const __m256i of_high = _mm256_blendv_epi8(high, _mm256_slli_epi16(high, 4), odd);
  return _mm256_or_si256(_mm256_and_si256(of_low, nibble), _mm256_andnot_si256(nibble, of_high));
}
static inline Bytes64 pack_nibbles(Bytes64 x) noexcept {
  return {pack_nibbles_part(x.a), pack_nibbles_part(x.b)};
}
static inline Bytes64 order_pairs(Bytes64 x) noexcept {
  const __m256i order =
      _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15));
  return {_mm256_shuffle_epi8(x.a, order), _mm256_shuffle_epi8(x.b, order)};
}
static inline Bytes64 part_halves(Bytes64 x) noexcept {
  const Bytes64 parted = order_pairs(x);  // four even words, four odd ones, and again
  const __m256i a = _mm256_permute4x64_epi64(parted.a, 0xd8), b = _mm256_permute4x64_epi64(parted.b, 0xd8);
  return {_mm256_permute2x128_si256(a, b, 0x20), _mm256_permute2x128_si256(a, b, 0x31)};
}
static inline Bytes64 part_bytes(Bytes64 x) noexcept {
  const __m256i order =
      _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
  const __m256i words = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  const __m256i a = _mm256_permutevar8x32_epi32(_mm256_shuffle_epi8(x.a, order), words);
  const __m256i b = _mm256_permutevar8x32_epi32(_mm256_shuffle_epi8(x.b, order), words);
  const __m256i even = _mm256_unpacklo_epi64(a, b), odd = _mm256_unpackhi_epi64(a, b);
  return {_mm256_permute2x128_si256(even, odd, 0x20), _mm256_permute2x128_si256(even, odd, 0x31)};
}
template <int kShift>
static inline Bytes64 lookup_bytes(Bytes64 codes, ByteLevels levels) noexcept {
  const __m256i nibble = _mm256_set1_epi8(15);
  return {_mm256_shuffle_epi8(levels.v, _mm256_and_si256(_mm256_srli_epi16(codes.a, kShift), nibble)),
          _mm256_shuffle_epi8(levels.v, _mm256_and_si256(_mm256_srli_epi16(codes.b, kShift), nibble))};
}
template <int kShift>
static inline __m256i lookup_pairs_part(__m256i codes, PairLevels levels) noexcept {
  // The code in the low byte of each word; a high byte of 128 makes vpshufb give zero there.
  const __m256i index = _mm256_or_si256(
      _mm256_and_si256(_mm256_srli_epi16(codes, kShift), _mm256_set1_epi16(15)), _mm256_set1_epi16(-32768));
  return _mm256_or_si256(_mm256_shuffle_epi8(levels.low, index),
                         _mm256_slli_epi16(_mm256_shuffle_epi8(levels.high, index), 8));
}
template <int kShift>
static inline Pairs16 lookup_pairs(Bytes64 codes, PairLevels levels) noexcept {
  return {lookup_pairs_part<kShift>(codes.a, levels), lookup_pairs_part<kShift>(codes.b, levels)};
}
template <int kShift>
static inline __m256 lookup_floats_part(__m256i codes, FloatLevels levels) noexcept {
  const __m256i index = _mm256_srli_epi32(codes, kShift);
  const __m256 upper = _mm256_castsi256_ps(_mm256_slli_epi32(index, 28));  // bit 3 as the sign
  return _mm256_blendv_ps(_mm256_permutevar8x32_ps(levels.low, index),
                          _mm256_permutevar8x32_ps(levels.high, index), upper);
}
template <int kShift>
static inline F32x16 lookup_floats(Bytes64 codes, FloatLevels levels) noexcept {
  return {lookup_floats_part<kShift>(codes.a, levels), lookup_floats_part<kShift>(codes.b, levels)};
}
// Keeps GCC from adding products to each other before the sums: they do not fit 16 registers.
static inline I32x16 settled(I32x16 sum) noexcept {
  __asm__ volatile("" : "+x"(sum.a), "+x"(sum.b));
  return sum;
}
// AVX-VNNI multiplies unsigned bytes, as they are stored; AVX2 alone signed ones, since 255 * 127 + 255 * 127
// would not fit the words in which vpmaddubsw adds two products, and 127 * 127 + 127 * 127 = 32258 does.
#if defined(__AVXVNNI__)
inline constexpr bool kSignedBytes = false;
static inline Bytes64 turn_sign(Bytes64 x) noexcept {
  return x;
}
#else
inline constexpr bool kSignedBytes = true;
static inline Bytes64 turn_sign(Bytes64 x) noexcept {
  const __m256i top = _mm256_set1_epi8(-128);
  return {_mm256_xor_si256(x.a, top), _mm256_xor_si256(x.b, top)};
}
#endif
static inline ByteLevels byte_levels(const LevelTables& t) noexcept {
  return {turn_sign(load_bytes(t.u8)).a};
}
static inline I32x16 dot4(I32x16 sum, Bytes64 w, const int8_t* x) noexcept {
  int32_t four;
  std::memcpy(&four, x, sizeof four);
  const __m256i all = _mm256_set1_epi32(four);
#if defined(__AVXVNNI__)
  return {_mm256_dpbusd_avx_epi32(sum.a, w.a, all), _mm256_dpbusd_avx_epi32(sum.b, w.b, all)};
#else
  const __m256i magnitudes = _mm256_abs_epi8(all), ones = _mm256_set1_epi16(1);
  const auto part = [&](__m256i total, __m256i bytes) {
    const __m256i pairs = _mm256_maddubs_epi16(magnitudes, _mm256_sign_epi8(bytes, all));
    return _mm256_add_epi32(total, _mm256_madd_epi16(pairs, ones));
  };
  return settled({part(sum.a, w.a), part(sum.b, w.b)});
#endif
}
#if !defined(__AVXVNNI__)
// Words need no turn of signs: weights widened once are multiplied fastest so.
#define NFLOAT_WORD_PRODUCTS
static inline Pairs16 even_words(Bytes64 x) noexcept {
  return {_mm256_srai_epi16(_mm256_slli_epi16(x.a, 8), 8), _mm256_srai_epi16(_mm256_slli_epi16(x.b, 8), 8)};
}
static inline Pairs16 odd_words(Bytes64 x) noexcept {
  return {_mm256_srai_epi16(x.a, 8), _mm256_srai_epi16(x.b, 8)};
}
static inline Pairs16 broadcast_words(const int16_t* x) noexcept {
  int32_t two;
  std::memcpy(&two, x, sizeof two);
  const __m256i all = _mm256_set1_epi32(two);
  return {all, all};
}
static inline Pairs16 add(Pairs16 x, Pairs16 y) noexcept {
  return {_mm256_add_epi16(x.a, y.a), _mm256_add_epi16(x.b, y.b)};
}
static inline I32x16 dot2(I32x16 sum, Pairs16 x, Pairs16 y) noexcept {
  return settled({_mm256_add_epi32(sum.a, _mm256_madd_epi16(x.a, y.a)),
                  _mm256_add_epi32(sum.b, _mm256_madd_epi16(x.b, y.b))});
}
static inline I32x16 load_integers(const uint8_t* from) noexcept {
  return {load_part(from), load_part(from + 32)};
}
static inline void store_integers(uint8_t* to, I32x16 x) noexcept {
  store_part(to, x.a);
  store_part(to + 32, x.b);
}
static inline I32x16 negative(I32x16 x) noexcept {
  const __m256i zero = _mm256_setzero_si256();
  return {_mm256_sub_epi32(zero, x.a), _mm256_sub_epi32(zero, x.b)};
}
#endif
static inline F32x16 low_half(Pairs16 x) noexcept {
  return {_mm256_castsi256_ps(_mm256_slli_epi32(x.a, 16)), _mm256_castsi256_ps(_mm256_slli_epi32(x.b, 16))};
}
static inline F32x16 high_half(Pairs16 x) noexcept {
  const __m256i high = _mm256_set1_epi32(static_cast<int>(0xffff0000u));
  return {_mm256_castsi256_ps(_mm256_and_si256(x.a, high)), _mm256_castsi256_ps(_mm256_and_si256(x.b, high))};
}
static inline F32x16 fma16(F32x16 a, F32x16 b, F32x16 sum) noexcept {
  return {_mm256_fmadd_ps(a.a, b.a, sum.a), _mm256_fmadd_ps(a.b, b.b, sum.b)};
}
static inline F32x16 dot2(F32x16 sum, Pairs16 w, const uint16_t* x) noexcept {
  int32_t two;
  std::memcpy(&two, x, sizeof two);
  const __m256i all = _mm256_set1_epi32(two);
  const Pairs16 pair = {all, all};
  return fma16(low_half(w), low_half(pair), fma16(high_half(w), high_half(pair), sum));
}
static inline F32x16 to_float16(I32x16 x) noexcept {
  return {_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)};
}
static inline __m128i map_four(const ScaleMap& map, const uint8_t* codes) noexcept {
  const auto bits = [&](int i) {
    int32_t word;
    std::memcpy(&word, map.values + codes[i], sizeof word);
    return word;
  };
  const __m128i two = _mm_insert_epi32(_mm_cvtsi32_si128(bits(0)), bits(1), 1);
  return _mm_insert_epi32(_mm_insert_epi32(two, bits(2), 2), bits(3), 3);
}
static inline void map_scales(const ScaleMap& map, const uint8_t* codes, int groups, float* output) noexcept {
  for (int i = 0; i < kPanelRows * groups; i += 8)
    store_part(output + i, _mm256_setr_m128i(map_four(map, codes + i), map_four(map, codes + i + 4)));
}
static inline F32x16 gather_shifted(const float* from, const int32_t* first, int32_t g, int shift) noexcept {
  float values[16];
  for (int i = 0; i < 16; ++i) values[i] = from[(first[i] + g) >> shift];
  return load16(values);
}
static inline void prefetch(const uint8_t* at) noexcept {
  _mm_prefetch(reinterpret_cast<const char*>(at), _MM_HINT_T0);
}
static inline void prefetch_far(const uint8_t* at) noexcept {
  _mm_prefetch(reinterpret_cast<const char*>(at), _MM_HINT_T1);
}

}  // namespace nfloat::kernels::NFLOAT_TARGET_NAMESPACE

#endif  // NFLOAT_KERNELS_SIMD_DOT_AVX2_H_
