// SPDX-License-Identifier: Apache-2.0
// The vocabulary of wide.h in plain C++. Compiled once per target; includer defines NFLOAT_TARGET_NAMESPACE.
#ifndef NFLOAT_KERNELS_SIMD_SCALAR_H_
#define NFLOAT_KERNELS_SIMD_SCALAR_H_

#include <bit>
#include <cstdint>
#include <cstring>

#include "kernels/simd/elements.h"

namespace nfloat::kernels::NFLOAT_TARGET_NAMESPACE {

struct F32x16 {
  float v[16];
};
struct I32x16 {
  int32_t v[16];
};

// For the other targets' loops (avx512.h); arrays stay where they are.
static inline void hold(F32x16&) noexcept {}
static inline void hold(I32x16&) noexcept {}

// Arguments are read and never written: GCC 12 for Arm stores into the wrong one of inlined copies at -O3.
#define NFLOAT_EACH_LANE for (int i = 0; i < 16; ++i)

template <typename Element>
static inline F32x16 load16(const Element* from) noexcept {
  Element copy[16];
  std::memcpy(copy, from, sizeof copy);
  F32x16 x;
  NFLOAT_EACH_LANE x.v[i] = widen(copy[i]);
  return x;
}
static inline void store16(float* to, F32x16 x) noexcept {
  std::memcpy(to, x.v, sizeof x.v);
}
static inline void stream16(float* to, F32x16 x) noexcept {
  store16(to, x);
}
static inline void stream_fence() noexcept {}
static inline F32x16 splat16(float value) noexcept {
  F32x16 x;
  NFLOAT_EACH_LANE x.v[i] = value;
  return x;
}
static inline F32x16 splat_pairs16(const float* from) noexcept {
  F32x16 x;
  NFLOAT_EACH_LANE x.v[i] = from[i % 2];
  return x;
}
static inline I32x16 splat_pairs16(const int32_t* from) noexcept {
  I32x16 x;
  NFLOAT_EACH_LANE x.v[i] = from[i % 2];
  return x;
}
static inline F32x16 change_above(const F32x16& x, const F32x16& y, const F32x16& t,
                                  const I32x16& change) noexcept {
  int32_t bits[16];
  std::memcpy(bits, x.v, sizeof bits);
  NFLOAT_EACH_LANE bits[i] ^= y.v[i] > t.v[i] ? change.v[i] : 0;
  F32x16 changed;
  std::memcpy(changed.v, bits, sizeof bits);
  return changed;
}
static inline F32x16 smaller(const F32x16& a, const F32x16& b) noexcept {
  F32x16 x;
  NFLOAT_EACH_LANE x.v[i] = b.v[i] < a.v[i] ? b.v[i] : a.v[i];
  return x;
}
static inline float sum16(const F32x16& from) noexcept {
  F32x16 x = from;
  for (int width = 8; width > 0; width /= 2)
    for (int i = 0; i < width; ++i) x.v[i] += x.v[i + width];
  return x.v[0];
}
static inline I32x16 splat16(int32_t value) noexcept {
  I32x16 x;
  NFLOAT_EACH_LANE x.v[i] = value;
  return x;
}
static inline I32x16 add(const I32x16& a, const I32x16& b) noexcept {
  I32x16 x;
  NFLOAT_EACH_LANE x.v[i] = a.v[i] + b.v[i];
  return x;
}
static inline F32x16 add(const F32x16& a, const F32x16& b) noexcept {
  F32x16 x;
  NFLOAT_EACH_LANE x.v[i] = a.v[i] + b.v[i];
  return x;
}
static inline F32x16 multiply(const F32x16& a, const F32x16& b) noexcept {
  F32x16 x;
  NFLOAT_EACH_LANE x.v[i] = a.v[i] * b.v[i];
  return x;
}
static inline F32x16 divide(const F32x16& a, const F32x16& b) noexcept {
  F32x16 x;
  NFLOAT_EACH_LANE x.v[i] = a.v[i] / b.v[i];
  return x;
}
static inline I32x16 bits_of(F32x16 x) noexcept {
  I32x16 bits;
  std::memcpy(bits.v, x.v, sizeof x.v);
  return bits;
}
static inline I32x16 magnitude_bits(F32x16 x) noexcept {
  I32x16 bits = bits_of(x);
  NFLOAT_EACH_LANE bits.v[i] &= 0x7fffffff;
  return bits;
}
static inline I32x16 larger(const I32x16& a, const I32x16& b) noexcept {
  I32x16 x;
  NFLOAT_EACH_LANE x.v[i] = a.v[i] > b.v[i] ? a.v[i] : b.v[i];
  return x;
}
static inline int32_t largest16(I32x16 x) noexcept {
  int32_t largest = x.v[0];
  NFLOAT_EACH_LANE largest = x.v[i] > largest ? x.v[i] : largest;
  return largest;
}
static inline I32x16 descend(const I32x16& n, const F32x16& y, const F32x16& t) noexcept {
  I32x16 x;
  NFLOAT_EACH_LANE x.v[i] = 2 * n.v[i] + (y.v[i] > t.v[i] ? 1 : 0);
  return x;
}
static inline F32x16 lookup8(const F32x16& table, I32x16 index) noexcept {
  F32x16 x;
  NFLOAT_EACH_LANE x.v[i] = table.v[index.v[i] & 7];
  return x;
}
static inline F32x16 lookup16(const F32x16& table, I32x16 index) noexcept {
  F32x16 x;
  NFLOAT_EACH_LANE x.v[i] = table.v[index.v[i] & 15];
  return x;
}

struct ByteTable {
  uint8_t v[16];
};
static inline ByteTable byte_table(const uint8_t* from) noexcept {
  ByteTable table;
  std::memcpy(table.v, from, sizeof table.v);
  return table;
}
static inline void store_codes(uint8_t* to, I32x16 a, I32x16 b, I32x16 c, I32x16 d,
                               const ByteTable& map) noexcept {
  const I32x16* ranks[4] = {&a, &b, &c, &d};
  for (int k = 0; k < 4; ++k)
    for (int i = 0; i < 8; ++i)
      to[8 * k + i] =
          static_cast<uint8_t>(map.v[ranks[k]->v[2 * i] & 15] << 4 | map.v[ranks[k]->v[2 * i + 1] & 15]);
}
static inline I32x16 expand_codes(const uint8_t* from) noexcept {
  I32x16 x;
  NFLOAT_EACH_LANE x.v[i] = from[i / 2] >> (i % 2 == 0 ? 4 : 0) & 15;
  return x;
}

struct HalfTable {
  uint16_t v[16];
};
static inline HalfTable half_table(F32x16 x, F16) noexcept {
  HalfTable table;
  NFLOAT_EACH_LANE table.v[i] = float_to_f16(x.v[i]);
  return table;
}
static inline HalfTable half_table(F32x16 x, Bf16) noexcept {
  HalfTable table;
  NFLOAT_EACH_LANE table.v[i] = float_to_bf16(x.v[i]);
  return table;
}
template <bool kStream>
static inline void decode_halves(const uint8_t* codes, const HalfTable& table, uint16_t* to) noexcept {
  uint16_t values[32];
  for (int i = 0; i < 16; ++i) {
    values[2 * i] = table.v[codes[i] >> 4];
    values[2 * i + 1] = table.v[codes[i] & 15];
  }
  std::memcpy(to, values, sizeof values);
}

#undef NFLOAT_EACH_LANE

inline constexpr bool kHasBins = false;

}  // namespace nfloat::kernels::NFLOAT_TARGET_NAMESPACE

#endif  // NFLOAT_KERNELS_SIMD_SCALAR_H_
