// SPDX-License-Identifier: Apache-2.0
#include "kernels/targets.h"

#define NFLOAT_TARGET_NAMESPACE scalar
#define NFLOAT_PLAIN_VOCABULARY
#include "kernels/attention-inl.h"
#include "kernels/calibrate-inl.h"
#include "kernels/dequantize-inl.h"
#include "kernels/fit-inl.h"
#include "kernels/gemm-inl.h"
#include "kernels/train-inl.h"

namespace nfloat::kernels {

const KernelTable kScalarTable = {.name = "scalar",
                                  .quantize = scalar::kQuantizeKernels,
                                  .transformer = scalar::kTransformerKernels,
                                  .gemm = scalar::kGemmKernels,
                                  .train = scalar::kTrainKernels,
                                  .calibrate = scalar::kCalibrateKernels};

}  // namespace nfloat::kernels
