// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_ARCHITECTURE_TENSOR_LIST_H_
#define NFLOAT_ARCHITECTURE_TENSOR_LIST_H_

#include <cstdint>
#include <string>
#include <vector>

#include "nfloat/model_config.h"
#include "nfloat/tensor.h"
#include "nfloat/tensor_role.h"

namespace nfloat {

// One tensor that a model needs, with the shape that its configuration demands.
struct ExpectedTensor {
  std::string name;
  Shape shape;                     // of matrices: [out, in]; of fused experts: [experts, out, in]
  bool stored_transposed = false;  // when plain, the last two dimensions are exchanged
  bool bytes = false;              // U8: codes and scales of MXFP4
  TensorRole role = TensorRole::kNorm;
};

// How a checkpoint holds the matrices of experts.
enum class ExpertLayout : uint8_t {
  kSingle,  // one by one
  kFused,   // all experts of a layer in one tensor
  kMxfp4,   // the same in OCP MXFP4: "_blocks", two codes a byte, and "_scales", one for 32
};

// In the order of the forward pass, with the family's own names.
std::vector<ExpectedTensor> expected_tensors(const ModelConfig& config,
                                             ExpertLayout layout = ExpertLayout::kSingle);

}  // namespace nfloat

#endif  // NFLOAT_ARCHITECTURE_TENSOR_LIST_H_
