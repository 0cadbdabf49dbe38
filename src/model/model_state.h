// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_MODEL_MODEL_STATE_H_
#define NFLOAT_MODEL_MODEL_STATE_H_

#include <memory>
#include <utility>
#include <vector>

#include "engine/layer_engine.h"
#include "model/embedding.h"
#include "model/sequence_tables.h"
#include "nfloat/checkpoint.h"
#include "nfloat/model.h"

namespace nfloat {

struct LayerWeights {
  NormWeights attention_norm, attention_post_norm;
  LinearGroup query_key_value;
  NormWeights query_norm, key_norm;
  Constant sinks;  // one a head, or none
  LinearGroup output;
  NormWeights mlp_norm, mlp_post_norm;
  LinearGroup gate_up;  // gate, then up; up alone where nothing is gated
  LinearGroup down;
  LinearGroup router;  // of a mixture, which has these instead of gate_up and down
  std::vector<ExpertWeights> experts;
};

class LayerReader;
class RankLeader;

struct Model::State {
  State() : State(default_device()) {}
  explicit State(std::shared_ptr<Device> where) : device(std::move(where)) {}

  std::shared_ptr<const Checkpoint> checkpoint;  // what it was loaded from; null where it was made
  ModelConfig config;
  ModelOptions options;
  const std::shared_ptr<Device> device;  // where the weights are
  ModelMemory memory;
  Embedding embedding;
  Constant positions;           // [rows][hidden], learned ones only
  int64_t position_offset = 0;  // rows of them before that of position 0
  LinearGroup project_in, project_out;
  std::vector<LayerWeights> layers;           // none when they are streamed
  std::shared_ptr<const LayerReader> reader;  // of streamed layers, else null
  NormWeights final_norm;
  LinearGroup head;
  std::unique_ptr<SequenceTables> tables = std::make_unique<SequenceTables>(device);

  // Sees every product before RunOptions' observer: adapters (nfloat/adapter.h), or null.
  mutable std::shared_ptr<LinearObserver> beside;

  // On rank 0 where that leads (nfloat/lead.h), and which of its models this is.
  mutable std::shared_ptr<RankLeader> leader;
  mutable size_t led_number = 0;

  bool streamed() const noexcept { return reader != nullptr; }
  // The weights of a layer, read from the file when they are streamed. The pointer of a resident layer is
  // valid as long as the model.
  std::shared_ptr<const LayerWeights> layer(int64_t index) const;
};

}  // namespace nfloat

#endif  // NFLOAT_MODEL_MODEL_STATE_H_
