// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_MODEL_WORKSPACE_H_
#define NFLOAT_MODEL_WORKSPACE_H_

#include <cstdint>
#include <vector>

#include "nfloat/linear.h"
#include "nfloat/model_config.h"
#include "nfloat/tensor.h"

namespace nfloat {

inline constexpr int64_t kMaxRows = 512;        // tokens that go through the layers together
inline constexpr int64_t kMaxLogitRows = 64;    // rows of logits that exist at once when all are wanted
inline constexpr int64_t kAttentionRows = 16;   // tokens of one attention unit in prefill
inline constexpr int64_t kAttentionHeads = 16;  // query heads of one key-value head taken together

// The buffers of one forward pass, grown to the largest number of rows seen and kept.
struct Workspace {
  void reserve(const ModelConfig& config, int64_t rows, int threads);

  float* x = nullptr;          // [rows][hidden]: the residual stream
  float* normed = nullptr;     // [rows][hidden]
  float* projected = nullptr;  // [rows][query + 2 * kv]
  float* attended = nullptr;   // [rows][query]
  float* gate_up = nullptr;    // [rows][2 * intermediate], of the layers or of an expert
  float* added = nullptr;      // [rows][hidden]: what a block adds to x
  float* scratch = nullptr;    // [threads][scratch_floats]
  int64_t scratch_floats = 0;
  Activations activations;  // of the matrix products

  float* embedded = nullptr;  // [rows][embedding_size]: before and after the projections to `hidden`

  float* router_logits = nullptr;  // [rows][experts]
  float* expert_input = nullptr;   // [rows][hidden]
  float* expert_output = nullptr;  // [rows][hidden]
  std::vector<int32_t> chosen;     // [rows][experts of a token]
  std::vector<float> expert_shares;
  std::vector<int64_t> expert_rows;
  Activations inner_activations;  // of the second product of an expert

 private:
  int64_t rows_ = 0;
  int threads_ = 0;
  Buffer buffer_;
};

}  // namespace nfloat

#endif  // NFLOAT_MODEL_WORKSPACE_H_
