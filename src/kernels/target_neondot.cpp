// SPDX-License-Identifier: Apache-2.0
#include "kernels/targets.h"

#define NFLOAT_TARGET_NAMESPACE neondot
#include "kernels/attention-inl.h"
#include "kernels/calibrate-inl.h"
#include "kernels/dequantize-inl.h"
#include "kernels/fit-inl.h"
#include "kernels/gemm-inl.h"
#include "kernels/train-inl.h"

namespace nfloat::kernels {

const KernelTable kNeonDotTable = {.name = "neondot",
                                   .quantize = neondot::kQuantizeKernels,
                                   .transformer = neondot::kTransformerKernels,
                                   .gemm = neondot::kGemmKernels,
                                   .train = neondot::kTrainKernels,
                                   .calibrate = neondot::kCalibrateKernels};

}  // namespace nfloat::kernels
