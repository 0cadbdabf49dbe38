// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_MODEL_ADD_WEIGHTS_H_
#define NFLOAT_MODEL_ADD_WEIGHTS_H_

#include <vector>

#include "engine/linear_group.h"
#include "nfloat/checkpoint.h"
#include "nfloat/quantize.h"

namespace nfloat {

// Add a matrix [out, in] of a checkpoint to a group. `release` as PackSource's.
// As it is stored.
void add_weights(LinearGroup& group, Device& device, const TensorView& weight, const std::vector<float>& bias,
                 int threads, const LinearGroup::Release& release = nullptr);
// 4-bit codes. Quantized checkpoints and what is quantized while loading keep their scales as they are.
void add_weights(LinearGroup& group, Device& device, const QuantizedView& weight,
                 const std::vector<float>& bias, int threads, const LinearGroup::Release& release = nullptr);
void add_weights(LinearGroup& group, Device& device, const QuantizedTensor& weight,
                 const std::vector<float>& bias, int threads);

}  // namespace nfloat

#endif  // NFLOAT_MODEL_ADD_WEIGHTS_H_
