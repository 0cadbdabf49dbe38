// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_MODEL_SIZE_H_
#define NFLOAT_MODEL_SIZE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "nfloat/api.h"

namespace nfloat {

// Numbers of parameters and cached values of a configuration.
struct ModelSize {
  std::string model_type;
  int64_t layers = 0, hidden = 0, heads = 0, kv_heads = 0, head_dim = 0, vocabulary = 0;
  int64_t max_context = 0;  // max_position_embeddings; 0 when the configuration has none
  int64_t intermediate = 0;
  int64_t experts = 0, active_experts = 0;  // 0 in a dense model
  bool tied_head = false;
  int64_t linear_parameters = 0;     // what 4-bit formats quantize
  int64_t embedding_parameters = 0;  // token (and learned position) embeddings
  int64_t head_parameters = 0;       // 0 when tied to the embedding
  int64_t other_parameters = 0;      // norms, biases, routers
  int64_t parameters() const noexcept {
    return linear_parameters + embedding_parameters + head_parameters + other_parameters;
  }
  // What differs between layers that keep keys and values: layers, values a token, window (0: all tokens).
  struct CachedLayers {
    int64_t layers = 0, values = 0, window = 0;
  };
  std::vector<CachedLayers> cached_layers;
  int64_t state_values = 0;  // of recurrent layers, whatever the context
  // Keys of the configuration with an unknown effect on the counts. If any, the counts are estimates, except
  // for parameters that were counted in the files.
  std::vector<std::string> not_understood;
  bool counted_in_files = false;
  std::vector<std::string> left_out;  // parts of the model that are not counted
  std::string why_not;                // why Model does not load a model of this configuration; empty: it does
  // Keys and values of one sequence and the state of recurrent layers, `bytes_per_value` each. Layers with a
  // window keep no more tokens than that; attention with compressed keys and values keeps the compressed.
  NFLOAT_API uint64_t kv_cache_bytes(int64_t context, double bytes_per_value) const noexcept;
};

}  // namespace nfloat

#endif  // NFLOAT_MODEL_SIZE_H_
