// SPDX-License-Identifier: Apache-2.0
// The vocabulary of dot.h in plain C++. Compiled once per target; includer defines NFLOAT_TARGET_NAMESPACE.
#ifndef NFLOAT_KERNELS_SIMD_DOT_SCALAR_H_
#define NFLOAT_KERNELS_SIMD_DOT_SCALAR_H_

#include <cmath>
#include <cstring>

#include "kernels/gemm.h"

namespace nfloat::kernels::NFLOAT_TARGET_NAMESPACE {

inline constexpr int kTilePanels = 1;
inline constexpr int kTileRows = 4;
inline constexpr int kDenseRows = 4;
inline constexpr int kDenseBf16Rows = 4;
inline constexpr int kMapGroups = 1;
inline constexpr bool kMultipliesBf16 = false;

struct Bytes64 {
  uint8_t v[64];
};
struct Pairs16 {
  uint16_t v[32];
};
struct ByteLevels {
  const uint8_t* v;
};
struct PairLevels {
  const uint16_t* v;
};
struct FloatLevels {
  const float* v;
};

static inline ByteLevels byte_levels(const LevelTables& t) noexcept {
  return {t.u8};
}
static inline PairLevels pair_levels(const LevelTables& t) noexcept {
  return {t.bf16};
}
static inline FloatLevels float_levels(const LevelTables& t) noexcept {
  return {t.f32};
}
static inline Bytes64 load_bytes(const uint8_t* from) noexcept {
  Bytes64 x;
  std::memcpy(x.v, from, sizeof x.v);
  return x;
}
static inline void store_bytes(uint8_t* to, const Bytes64& x) noexcept {
  std::memcpy(to, x.v, sizeof x.v);
}
static inline void stream_bytes(uint8_t* to, const Bytes64& x) noexcept {
  store_bytes(to, x);
}
static inline Pairs16 load_pairs(const uint8_t* from) noexcept {
  Pairs16 x;
  std::memcpy(x.v, from, sizeof x.v);
  return x;
}
static inline void store_pairs(uint8_t* to, const Pairs16& x) noexcept {
  std::memcpy(to, x.v, sizeof x.v);
}
static inline Bytes64 zip_words(const uint8_t* a, const uint8_t* b) noexcept {
  Bytes64 x;
  for (int i = 0; i < 8; ++i) {
    std::memcpy(x.v + 8 * i, a + 4 * i, 4);
    std::memcpy(x.v + 8 * i + 4, b + 4 * i, 4);
  }
  return x;
}
static inline Bytes64 zip_low_words(const Bytes64& a, const Bytes64& b) noexcept {
  return zip_words(a.v, b.v);
}
static inline Bytes64 zip_high_words(const Bytes64& a, const Bytes64& b) noexcept {
  return zip_words(a.v + 32, b.v + 32);
}
static inline Bytes64 pack_nibbles(const Bytes64& x) noexcept {
  Bytes64 y;
  for (int i = 0; i < 64; ++i) {
    const uint8_t low = x.v[i / 4 * 4 + i % 4 / 2], high = x.v[i / 4 * 4 + 2 + i % 4 / 2];
    const uint8_t column = i % 2 == 0 ? low >> 4 : low & 15, later = i % 2 == 0 ? high >> 4 : high & 15;
    y.v[i] = static_cast<uint8_t>(column | later << 4);
  }
  return y;
}
static inline Bytes64 order_pairs(const Bytes64& x) noexcept {
  Bytes64 y;
  for (int i = 0; i < 64; ++i) y.v[i] = x.v[i / 16 * 16 + i % 8 / 2 * 4 + i % 16 / 8 * 2 + i % 2];
  return y;
}
static inline Bytes64 part_halves(const Bytes64& x) noexcept {
  Bytes64 y;
  for (int i = 0; i < 64; ++i) y.v[i] = x.v[i % 32 / 2 * 4 + i / 32 * 2 + i % 2];
  return y;
}
static inline Bytes64 part_bytes(const Bytes64& x) noexcept {
  Bytes64 y;
  for (int i = 0; i < 64; ++i) y.v[i] = x.v[i % 16 * 4 + i / 16];
  return y;
}
template <int kShift>
static inline Bytes64 lookup_bytes(const Bytes64& codes, const ByteLevels& levels) noexcept {
  Bytes64 x;
  for (int i = 0; i < 64; ++i) x.v[i] = levels.v[(codes.v[i] >> kShift) & 15];
  return x;
}
template <int kShift>
static inline Pairs16 lookup_pairs(const Bytes64& codes, const PairLevels& levels) noexcept {
  Pairs16 x;
  for (int i = 0; i < 32; ++i) x.v[i] = levels.v[(codes.v[2 * i + kShift / 8] >> (kShift % 8)) & 15];
  return x;
}
template <int kShift>
static inline F32x16 lookup_floats(const Bytes64& codes, const FloatLevels& levels) noexcept {
  F32x16 x;
  for (int i = 0; i < 16; ++i) x.v[i] = levels.v[(codes.v[4 * i + kShift / 8] >> (kShift % 8)) & 15];
  return x;
}
inline constexpr bool kSignedBytes = false;
static inline const Bytes64& turn_sign(const Bytes64& x) noexcept {
  return x;
}
static inline I32x16 dot4(I32x16 sum, const Bytes64& w, const int8_t* x) noexcept {
  for (int i = 0; i < 16; ++i)
    for (int j = 0; j < 4; ++j) sum.v[i] += int32_t{w.v[4 * i + j]} * x[j];
  return sum;
}
static inline F32x16 dot2(F32x16 sum, const Pairs16& w, const uint16_t* x) noexcept {
  for (int i = 0; i < 16; ++i)
    sum.v[i] +=
        bf16_to_float(w.v[2 * i]) * bf16_to_float(x[0]) + bf16_to_float(w.v[2 * i + 1]) * bf16_to_float(x[1]);
  return sum;
}
static inline F32x16 fma16(const F32x16& a, const F32x16& b, F32x16 sum) noexcept {
  for (int i = 0; i < 16; ++i) sum.v[i] += a.v[i] * b.v[i];
  return sum;
}
static inline F32x16 to_float16(const I32x16& x) noexcept {
  F32x16 y;
  for (int i = 0; i < 16; ++i) y.v[i] = static_cast<float>(x.v[i]);
  return y;
}
static inline F32x16 low_half(const Pairs16& x) noexcept {
  F32x16 y;
  for (int i = 0; i < 16; ++i) y.v[i] = bf16_to_float(x.v[2 * i]);
  return y;
}
static inline F32x16 high_half(const Pairs16& x) noexcept {
  F32x16 y;
  for (int i = 0; i < 16; ++i) y.v[i] = bf16_to_float(x.v[2 * i + 1]);
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
static inline void prefetch(const uint8_t*) noexcept {}
static inline void prefetch_far(const uint8_t*) noexcept {}

}  // namespace nfloat::kernels::NFLOAT_TARGET_NAMESPACE

#endif  // NFLOAT_KERNELS_SIMD_DOT_SCALAR_H_
