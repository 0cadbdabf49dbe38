// SPDX-License-Identifier: Apache-2.0
#include "kernels/targets.h"

#define NFLOAT_TARGET_NAMESPACE avx512bf16
#include "kernels/attention-inl.h"
#include "kernels/calibrate-inl.h"
#include "kernels/dequantize-inl.h"
#include "kernels/fit-inl.h"
#include "kernels/gemm-inl.h"
#include "kernels/train-inl.h"

namespace nfloat::kernels {

const KernelTable kAvx512Bf16Table = {.name = "avx512bf16",
                                      .quantize = avx512bf16::kQuantizeKernels,
                                      .transformer = avx512bf16::kTransformerKernels,
                                      .gemm = avx512bf16::kGemmKernels,
                                      .train = avx512bf16::kTrainKernels,
                                      .calibrate = avx512bf16::kCalibrateKernels};

static constexpr GemmKernels with_tiles(GemmKernels kernels) noexcept {
  kernels.tiles = &kAmxTiles;
  kernels.exact_tiles = &kAmxExactTiles;
  kernels.byte_tiles = &kAmxByteTiles;
  return kernels;
}

const KernelTable kAmxTable = {.name = "amx",
                               .quantize = avx512bf16::kQuantizeKernels,
                               .transformer = avx512bf16::kTransformerKernels,
                               .gemm = with_tiles(avx512bf16::kGemmKernels),
                               .train = avx512bf16::kTrainKernels,
                               .calibrate = avx512bf16::kCalibrateKernels};

}  // namespace nfloat::kernels
