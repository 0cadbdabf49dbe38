// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_KERNELS_TARGETS_H_
#define NFLOAT_KERNELS_TARGETS_H_

#include "kernels/kernel_table.h"

// The tables that the target_*.cpp files define. Only dispatch.cpp chooses among them.
namespace nfloat::kernels {

extern const KernelTable kScalarTable;
#if defined(__x86_64__)
extern const KernelTable kAvx2Table;
extern const KernelTable kAvxVnniTable;
extern const KernelTable kAvx512Table;
extern const KernelTable kAvx512Bf16Table;
extern const KernelTable kAmxTable;  // the same with the matrix unit
extern const TileKernels kAmxTiles;
extern const TileKernels kAmxExactTiles;
extern const ByteTileKernels kAmxByteTiles;
#elif defined(__aarch64__)
extern const KernelTable kNeonTable;
extern const KernelTable kNeonDotTable;   // with dotprod
extern const KernelTable kNeonI8mmTable;  // with dotprod, i8mm and bf16
#endif

}  // namespace nfloat::kernels

#endif  // NFLOAT_KERNELS_TARGETS_H_
