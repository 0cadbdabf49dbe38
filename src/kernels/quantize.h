// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_KERNELS_QUANTIZE_H_
#define NFLOAT_KERNELS_QUANTIZE_H_

#include <cstdint>

namespace nfloat::kernels {

enum class ElementType : uint8_t { kF32, kF16, kBF16 };

// A code of at most 16 levels as the kernels want it. Fewer than 16: the last level repeats and the spare
// thresholds are +infinity.
struct CodeTable {
  float levels[16];      // by code
  float thresholds[16];  // ascending; [15] = +infinity
  uint8_t code_of_rank[16];
};

// The quantize and dequantize entries of KernelTable.
struct QuantizeKernels {};

}  // namespace nfloat::kernels

#endif  // NFLOAT_KERNELS_QUANTIZE_H_
