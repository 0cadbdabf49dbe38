// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_TENSOR_ROLE_H_
#define NFLOAT_TENSOR_ROLE_H_

#include <cstdint>

namespace nfloat {

// What a tensor of a checkpoint is in the model that the Transformers library builds around it.
enum class TensorRole : uint8_t {
  kOther,              // a parameter that is not a weight of a layer below
  kNorm,               // 1-D: a norm or a bias
  kConvolution,        // more than two dimensions, not experts
  kExpert,             // the weights of all experts in one 3-D tensor
  kLinear,             // nn.Linear, [out, in]
  kConv1D,             // GPT-2's linear layer, stored [in, out]
  kHead,               // a linear layer that makes the model's output: logits, scores, pooled features
  kRouter,             // the linear layer that chooses experts
  kKeptFloat,          // a linear layer that the loader never quantizes, such as T5's wo
  kEmbedding,          // a table whose rows are looked up
  kEmbeddingOrLinear,  // named like an embedding; the name does not decide the kind
};

// Whether the loader may build a 4-bit layer for it: plain tensors among these must be named in
// llm_int8_skip_modules.
constexpr bool is_linear_layer(TensorRole role) noexcept {
  return role == TensorRole::kLinear || role == TensorRole::kConv1D || role == TensorRole::kHead ||
         role == TensorRole::kRouter || role == TensorRole::kKeptFloat ||
         role == TensorRole::kEmbeddingOrLinear;
}

}  // namespace nfloat

#endif  // NFLOAT_TENSOR_ROLE_H_
