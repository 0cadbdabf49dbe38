// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_MEMORY_PLAN_H_
#define NFLOAT_MEMORY_PLAN_H_

#include <cstdint>
#include <string>
#include <vector>

#include "nfloat/api.h"

// How much memory a model needs, from its config.json alone: before any download.
namespace nfloat {

struct ModelSize {
  std::string model_type;
  int64_t layers = 0, hidden = 0, heads = 0, kv_heads = 0, head_dim = 0, vocabulary = 0;
  int64_t max_context = 0;  // max_position_embeddings; 0 when the configuration does not say
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
  // Keys of the configuration that change the counts in a way that is not known: then they are an estimate,
  // the parameters as well unless they were counted in the files.
  std::vector<std::string> not_understood;
  bool counted_in_files = false;
  std::vector<std::string> left_out;  // parts of the model that are not counted
  // Keys and values of one sequence and the state of recurrent layers, `bytes_per_value` each. Layers with a
  // window keep no more tokens than that; attention with compressed keys and values keeps the compressed.
  uint64_t kv_cache_bytes(int64_t context, double bytes_per_value) const noexcept;
};

// `path`: config.json, or a folder that holds one; with safetensors beside it the parameters are counted in
// the files, else, and when others than bitsandbytes quantized them, computed from the configuration. Throws
// kNotFound, kMalformedFile, kUnsupported naming the missing key.
NFLOAT_API ModelSize measure_model(const std::string& path);

struct MemoryPlanRow {
  std::string format;          // "NF4, blocks of 64, double quantization"
  double bits_per_weight = 0;  // of the linear weights
  uint64_t weight_bytes = 0;   // embeddings, head and the rest at 16 bits included
  uint64_t kv_cache_bytes = 0;
  uint64_t working_bytes = 0;  // activations of a prefill and the logits
  int64_t largest_context =
      0;  // that fits into the memory, at most max_context if that is known; 0: not even one token
  uint64_t peak_bytes() const noexcept { return weight_bytes + kv_cache_bytes + working_bytes; }
};

// One row a format, widest first. `memory_bytes` 0: no limit, largest_context stays 0. KV cache in f16.
NFLOAT_API std::vector<MemoryPlanRow> plan_memory(const ModelSize& model, uint64_t memory_bytes,
                                                  int64_t context);

}  // namespace nfloat

#endif  // NFLOAT_MEMORY_PLAN_H_
