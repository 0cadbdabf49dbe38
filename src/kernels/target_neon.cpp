// SPDX-License-Identifier: Apache-2.0
#include "kernels/targets.h"

#define NFLOAT_TARGET_NAMESPACE neon
#include "kernels/quantize-inl.h"

namespace nfloat::kernels {

const KernelTable kNeonTable = {.name = "neon", .quantize = {}};

}  // namespace nfloat::kernels
