// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_KERNELS_UNROLL_H_
#define NFLOAT_KERNELS_UNROLL_H_

// GCC turns an array of accumulators into registers only when its loops are gone early.
#if defined(__clang__)
#define NFLOAT_UNROLL _Pragma("unroll")
#else
#define NFLOAT_UNROLL _Pragma("GCC unroll 16")
#endif

#endif  // NFLOAT_KERNELS_UNROLL_H_
