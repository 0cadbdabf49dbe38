// SPDX-License-Identifier: Apache-2.0
#include "kernels/targets.h"

#define NFLOAT_TARGET_NAMESPACE neon
#include "kernels/attention-inl.h"
#include "kernels/calibrate-inl.h"
#include "kernels/dequantize-inl.h"
#include "kernels/fit-inl.h"
#include "kernels/gemm-inl.h"
#include "kernels/train-inl.h"

namespace nfloat::kernels {

const KernelTable kNeonTable = {.name = "neon",
                                .quantize = neon::kQuantizeKernels,
                                .transformer = neon::kTransformerKernels,
                                .gemm = neon::kGemmKernels,
                                .train = neon::kTrainKernels,
                                .calibrate = neon::kCalibrateKernels};

}  // namespace nfloat::kernels
