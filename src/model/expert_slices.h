// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_MODEL_EXPERT_SLICES_H_
#define NFLOAT_MODEL_EXPERT_SLICES_H_

#include <cstdint>
#include <vector>

#include "engine/linear_group.h"
#include "nfloat/checkpoint.h"
#include "nfloat/tensor.h"

// The matrix of one expert out of a tensor [experts, rows, cols].
namespace nfloat {

TensorView slice_of(const TensorView& fused, int64_t expert);

// With its own scales: of a double-quantized tensor they are decoded where an expert begins inside of a
// second-level block. An expert that shares a block of weights with its neighbour is decoded whole.
void add_quantized_slice(LinearGroup& group, Device& device, const QuantizedView& fused, int64_t expert,
                         const std::vector<float>& bias, int threads);

// Decoded to float32.
Tensor decoded_slice(const QuantizedView& fused, int64_t expert);

// `blocks`: U8 [experts, rows, cols / 32, 16], the first of two codes in the low nibble; `scales`: U8
// [experts, rows, cols / 32], powers of two with a bias of 127.
void add_mxfp4_slice(LinearGroup& group, Device& device, const TensorView& blocks, const TensorView& scales,
                     int64_t expert, const std::vector<float>& bias, int threads);

}  // namespace nfloat

#endif  // NFLOAT_MODEL_EXPERT_SLICES_H_
