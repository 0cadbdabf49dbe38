// SPDX-License-Identifier: Apache-2.0
#include "kernels/targets.h"

#define NFLOAT_TARGET_NAMESPACE avx2
#include "kernels/attention-inl.h"
#include "kernels/quantize-inl.h"

namespace nfloat::kernels {

const KernelTable kAvx2Table = {.name = "avx2", .quantize = {}, .transformer = avx2::kTransformerKernels};

}  // namespace nfloat::kernels
