// SPDX-License-Identifier: Apache-2.0
#include "kernels/targets.h"

#define NFLOAT_TARGET_NAMESPACE avxvnni
#include "kernels/attention-inl.h"
#include "kernels/calibrate-inl.h"
#include "kernels/dequantize-inl.h"
#include "kernels/fit-inl.h"
#include "kernels/gemm-inl.h"
#include "kernels/train-inl.h"

namespace nfloat::kernels {

const KernelTable kAvxVnniTable = {.name = "avxvnni",
                                   .quantize = avxvnni::kQuantizeKernels,
                                   .transformer = avxvnni::kTransformerKernels,
                                   .gemm = avxvnni::kGemmKernels,
                                   .train = avxvnni::kTrainKernels,
                                   .calibrate = avxvnni::kCalibrateKernels};

}  // namespace nfloat::kernels
