// SPDX-License-Identifier: Apache-2.0
#include "kernels/targets.h"

#define NFLOAT_TARGET_NAMESPACE scalar
#include "kernels/attention-inl.h"
#include "kernels/quantize-inl.h"

namespace nfloat::kernels {

const KernelTable kScalarTable = {
    .name = "scalar", .quantize = {}, .transformer = scalar::kTransformerKernels};

}  // namespace nfloat::kernels
