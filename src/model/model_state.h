// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_MODEL_MODEL_STATE_H_
#define NFLOAT_MODEL_MODEL_STATE_H_

#include <memory>
#include <vector>

#include "model/embedding.h"
#include "model/linear_group.h"
#include "nfloat/model.h"

namespace nfloat {

struct LayerWeights {
  std::vector<float> attention_norm;
  LinearGroup query_key_value;
  LinearGroup output;
  std::vector<float> mlp_norm;
  LinearGroup gate_up;
  LinearGroup down;
};

struct Model::State {
  ModelConfig config;
  ModelOptions options;
  ModelMemory memory;
  Embedding embedding;
  std::vector<LayerWeights> layers;
  std::vector<float> final_norm;
  LinearGroup head;
};

}  // namespace nfloat

#endif  // NFLOAT_MODEL_MODEL_STATE_H_
