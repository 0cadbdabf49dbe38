// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_KERNELS_KERNEL_TABLE_H_
#define NFLOAT_KERNELS_KERNEL_TABLE_H_

#include "kernels/attention.h"
#include "kernels/calibrate.h"
#include "kernels/gemm.h"
#include "kernels/quantize.h"
#include "kernels/train.h"

namespace nfloat::kernels {

// Everything one instruction set offers. Each target_*.cpp fills one.
struct KernelTable {
  const char* name;  // what NFLOAT_TARGET takes
  QuantizeKernels quantize;
  TransformerKernels transformer;
  GemmKernels gemm;
  TrainKernels train;
  CalibrateKernels calibrate;
};

}  // namespace nfloat::kernels

#endif  // NFLOAT_KERNELS_KERNEL_TABLE_H_
