// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_KERNELS_UNROLL_H_
#define NFLOAT_KERNELS_UNROLL_H_

// GCC turns an array of accumulators into registers only when its loops are gone early.
#if defined(__clang__)
#define NFLOAT_UNROLL _Pragma("unroll")
#else
#define NFLOAT_UNROLL _Pragma("GCC unroll 16")
#endif

// On Arm accumulators stay in registers only where what adds to them is no call, however often it is written.
// On x86 the compiler's own choice is measured to be better: one row of int8 on AVX2 loses a third of its
// speed when forced.
#if defined(__aarch64__)
#define NFLOAT_INLINE inline __attribute__((always_inline))
#else
#define NFLOAT_INLINE inline
#endif

#endif  // NFLOAT_KERNELS_UNROLL_H_
