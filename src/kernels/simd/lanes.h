// SPDX-License-Identifier: Apache-2.0
// Float vectors of the target's natural width on the compiler's vector extension: arithmetic needs no names
// of its own, only what the operators lack is here. Compiled once per target; includer defines
// NFLOAT_TARGET_NAMESPACE.
#ifndef NFLOAT_KERNELS_SIMD_LANES_H_
#define NFLOAT_KERNELS_SIMD_LANES_H_

#include <cstdint>
#include <cstring>

#if defined(__F16C__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#include "base/float16.h"

namespace nfloat::kernels::NFLOAT_TARGET_NAMESPACE {

#if defined(__AVX512F__)
inline constexpr int kLaneBytes = 64;
#elif defined(__AVX2__)
inline constexpr int kLaneBytes = 32;
#else
inline constexpr int kLaneBytes = 16;
#endif
inline constexpr int kLanes = kLaneBytes / 4;

typedef float Floats __attribute__((vector_size(kLaneBytes)));
typedef int32_t Ints __attribute__((vector_size(kLaneBytes)));

static inline Floats load(const float* from) noexcept {
  Floats x;
  std::memcpy(&x, from, sizeof x);
  return x;
}
static inline void store(float* to, Floats x) noexcept {
  std::memcpy(to, &x, sizeof x);
}
static inline Floats broadcast(float x) noexcept {
  return x - Floats{};
}

// a * b + c, fused where the target fuses.
static inline Floats multiply_add(Floats a, Floats b, Floats c) noexcept {
#if defined(__AVX512F__)
  return _mm512_fmadd_ps(a, b, c);
#elif defined(__FMA__)
  return _mm256_fmadd_ps(a, b, c);
#elif defined(__aarch64__)
  return vfmaq_f32(c, a, b);
#else
  return a * b + c;
#endif
}

static inline Floats load_f16(const uint16_t* from) noexcept {
#if defined(__AVX512F__)
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
#elif defined(__F16C__)
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
#elif defined(__aarch64__)
  return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(from)));
#else
  Floats x;
  for (int i = 0; i < kLanes; ++i) x[i] = f16_to_float(from[i]);
  return x;
#endif
}

static inline Floats load_int8(const int8_t* from) noexcept {
#if defined(__AVX512F__)
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))));
#elif defined(__AVX2__)
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from))));
#else
  Floats x;
  for (int i = 0; i < kLanes; ++i) x[i] = static_cast<float>(from[i]);
  return x;
#endif
}

static inline Floats maximum(Floats a, Floats b) noexcept {
  return a > b ? a : b;
}
static inline float sum_of_lanes(Floats x) noexcept {
  float sums[kLanes];
  store(sums, x);
  for (int width = kLanes / 2; width > 0; width /= 2)
    for (int i = 0; i < width; ++i) sums[i] += sums[i + width];
  return sums[0];
}
static inline float largest_lane(Floats x) noexcept {
  float largest = x[0];
  for (int i = 1; i < kLanes; ++i) largest = x[i] > largest ? x[i] : largest;
  return largest;
}

// e^x to 2 ulp for x <= 88; 0 below -87.3, minus infinity included.
static inline Floats exponential(Floats x) noexcept {
  const Floats lowest = broadcast(-87.3365f);
  const Floats clamped = maximum(x, lowest);
  // The multiple of ln 2, rounded by the addition of 1.5 * 2^23, then a polynomial on [-ln2/2, ln2/2].
  const Floats magic = broadcast(12582912.0f);
  const Floats shifted = multiply_add(clamped, broadcast(1.44269504f), magic);
  const Floats multiple = shifted - magic;
  Floats r = multiply_add(multiple, broadcast(-0.693359375f), clamped);
  r = multiply_add(multiple, broadcast(2.12194440e-4f), r);
  Floats y = broadcast(1.0f / 5040);
  y = multiply_add(y, r, broadcast(1.0f / 720));
  y = multiply_add(y, r, broadcast(1.0f / 120));
  y = multiply_add(y, r, broadcast(1.0f / 24));
  y = multiply_add(y, r, broadcast(1.0f / 6));
  y = multiply_add(y, r, broadcast(0.5f));
  y = multiply_add(y, r, broadcast(1.0f));
  y = multiply_add(y, r, broadcast(1.0f));
  Ints bits, exponent;
  std::memcpy(&exponent, &shifted, sizeof exponent);
  std::memcpy(&bits, &y, sizeof bits);
  bits += exponent << 23;  // the low bits of `shifted` are the multiple
  Floats scaled;
  std::memcpy(&scaled, &bits, sizeof scaled);
  return x < lowest ? Floats{} : scaled;
}

}  // namespace nfloat::kernels::NFLOAT_TARGET_NAMESPACE

#endif  // NFLOAT_KERNELS_SIMD_LANES_H_
