// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_MODEL_CONFIG_H_
#define NFLOAT_MODEL_CONFIG_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "nfloat/api.h"
#include "nfloat/tensor.h"

namespace nfloat {

// How rotary position embedding is stretched beyond the context that a model was first trained with.
enum class RopeScaling : uint8_t {
  kNone,
  kLinear,   // every frequency divided by `factor`
  kDynamic,  // NTK: theta grows with the sequence once it is longer than original_context
  kLlama3    // low frequencies divided by `factor`, high ones kept, a ramp between
};

struct RopeConfig {
  double theta = 10000;
  RopeScaling scaling = RopeScaling::kNone;
  double factor = 1;
  double low_frequency_factor = 1;   // kLlama3
  double high_frequency_factor = 4;  // kLlama3
  int64_t original_context = 0;      // kLlama3, kDynamic
};

// The shape of one decoder-only transformer, read from a Hugging Face config.json.
struct ModelConfig {
  std::string family;  // "llama", "mistral"
  int64_t layers = 0;
  int64_t hidden = 0;
  int64_t intermediate = 0;
  int64_t heads = 0;
  int64_t kv_heads = 0;  // divides heads
  int64_t head_dim = 0;  // even
  int64_t vocabulary = 0;
  int64_t context = 0;         // max_position_embeddings
  int64_t sliding_window = 0;  // a token sees itself and the window - 1 before it; 0: all
  double norm_epsilon = 1e-6;
  RopeConfig rope;
  bool attention_bias = false;  // on q, k, v
  bool output_bias = false;     // on o
  bool mlp_bias = false;        // on gate, up, down
  bool tied_head = false;
  int32_t bos_token = -1;           // -1: none
  std::vector<int32_t> eos_tokens;  // any of them ends a text

  int64_t query_size() const noexcept { return heads * head_dim; }
  int64_t kv_size() const noexcept { return kv_heads * head_dim; }
  // Weights of the whole model, embeddings and head included (once when tied).
  int64_t parameters() const noexcept;
};

// Reads the text of a config.json; `source` names it in errors. Every number is bounded, so that what follows
// from them cannot overflow. Throws kMalformedFile (not JSON, a number missing or out of range) or
// kUnsupported (an architecture, activation or RoPE scaling that is not known: says which, and which ones
// are).
NFLOAT_API ModelConfig parse_model_config(std::string_view json, const std::string& source);

// Names of the architectures that load ("llama", "mistral").
NFLOAT_API std::vector<std::string> model_families();

}  // namespace nfloat

#endif  // NFLOAT_MODEL_CONFIG_H_
