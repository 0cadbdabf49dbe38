// SPDX-License-Identifier: Apache-2.0
#include "kernels/targets.h"

#define NFLOAT_TARGET_NAMESPACE avx512
#include "kernels/attention-inl.h"
#include "kernels/calibrate-inl.h"
#include "kernels/dequantize-inl.h"
#include "kernels/fit-inl.h"
#include "kernels/gemm-inl.h"
#include "kernels/train-inl.h"

namespace nfloat::kernels {

const KernelTable kAvx512Table = {.name = "avx512",
                                  .quantize = avx512::kQuantizeKernels,
                                  .transformer = avx512::kTransformerKernels,
                                  .gemm = avx512::kGemmKernels,
                                  .train = avx512::kTrainKernels,
                                  .calibrate = avx512::kCalibrateKernels};

}  // namespace nfloat::kernels
