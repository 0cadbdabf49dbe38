// SPDX-License-Identifier: Apache-2.0
#include "kernels/targets.h"

#define NFLOAT_TARGET_NAMESPACE avx2
#include "kernels/attention-inl.h"
#include "kernels/calibrate-inl.h"
#include "kernels/dequantize-inl.h"
#include "kernels/fit-inl.h"
#include "kernels/gemm-inl.h"
#include "kernels/train-inl.h"

namespace nfloat::kernels {

const KernelTable kAvx2Table = {.name = "avx2",
                                .quantize = avx2::kQuantizeKernels,
                                .transformer = avx2::kTransformerKernels,
                                .gemm = avx2::kGemmKernels,
                                .train = avx2::kTrainKernels,
                                .calibrate = avx2::kCalibrateKernels};

}  // namespace nfloat::kernels
