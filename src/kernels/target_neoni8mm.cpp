// SPDX-License-Identifier: Apache-2.0
#include "kernels/targets.h"

#define NFLOAT_TARGET_NAMESPACE neoni8mm
#include "kernels/attention-inl.h"
#include "kernels/calibrate-inl.h"
#include "kernels/dequantize-inl.h"
#include "kernels/fit-inl.h"
#include "kernels/gemm-inl.h"
#include "kernels/train-inl.h"

namespace nfloat::kernels {

const KernelTable kNeonI8mmTable = {.name = "neoni8mm",
                                    .quantize = neoni8mm::kQuantizeKernels,
                                    .transformer = neoni8mm::kTransformerKernels,
                                    .gemm = neoni8mm::kGemmKernels,
                                    .train = neoni8mm::kTrainKernels,
                                    .calibrate = neoni8mm::kCalibrateKernels};

}  // namespace nfloat::kernels
