// SPDX-License-Identifier: Apache-2.0
#include "kernels/targets.h"

#define NFLOAT_TARGET_NAMESPACE avx512
#include "kernels/quantize-inl.h"

namespace nfloat::kernels {

const KernelTable kAvx512Table = {.name = "avx512", .quantize = {}};

}  // namespace nfloat::kernels
