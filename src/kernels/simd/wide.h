// SPDX-License-Identifier: Apache-2.0
// Groups of 16 floats or integers, in as many registers as the target needs: the vocabulary of
// quantize-inl.h, fit-inl.h and dequantize-inl.h. Sixteen lanes on every target, so that sums over lanes have
// one order and every target gives the same bytes. Each header below defines, for types F32x16 and I32x16:
//   load16(from): 16 float, F16 or Bf16, any alignment; store16(to, x); stream16(to, x): past the caches, to
//   a multiple of 64, visible to others after stream_fence(); splat16(x)
//   add, multiply, divide: IEEE, not fused; bits_of(x); magnitude_bits(x): sign cleared
//   larger(a, b), largest16(x): of signed integers
//   descend(n, y, t): 2 * n + (y > t)
//   splat_pairs16(from): from[0] in the even lanes, from[1] in the odd ones, of floats or integers
//   change_above(x, y, t, c): where y > t, x with the bits of c turned; elsewhere x
//   smaller(x, y): of numbers; sum16(x): ((l[i] + l[i + 8]) + (l[i + 4] + l[i + 12])) ..., by halves
//   lookup8(table, i): lane i & 7 of a table whose lanes 8..15 repeat its lanes 0..7
//   lookup16(table, i): lane i & 15
//   expand_codes(from): the 16 codes in 8 bytes; only the low four bits of a lane count
//   store_codes(to, a, b, c, d, map): 64 ranks (low four bits of the lanes) to 32 bytes of codes, where
//   map = byte_table(16 bytes) gives the code of a rank
//   half_table(x, F16{} or Bf16{}): a HalfTable of 16 values rounded to 16 bits
//   decode_halves<stream>(codes, table, to): 32 of them by 16 bytes of codes
// A target that defines NFLOAT_PLAIN_VOCABULARY gets the plain one whatever its instructions.
// kHasBins tells whether a look-up in 32 floats is cheap; then there are also lookup32, bin_of and
// increment_above(n, y, t): n + (y > t).
#ifndef NFLOAT_KERNELS_SIMD_WIDE_H_
#define NFLOAT_KERNELS_SIMD_WIDE_H_

#if defined(__AVX512F__)
#include "kernels/simd/avx512.h"
#elif defined(__AVX2__)
#include "kernels/simd/avx2.h"
#elif defined(__aarch64__) && !defined(NFLOAT_PLAIN_VOCABULARY)
#include "kernels/simd/neon.h"
#else
#include "kernels/simd/scalar.h"
#endif

#endif  // NFLOAT_KERNELS_SIMD_WIDE_H_
