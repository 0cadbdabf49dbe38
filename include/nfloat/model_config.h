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

// How rotary position embedding (RoPE) extends beyond the context of the original training.
enum class RopeScaling : uint8_t {
  kNone,
  kLinear,    // every frequency divided by `factor`
  kDynamic,   // NTK: theta grows with the sequence once it is longer than original_context
  kLlama3,    // low frequencies divided by `factor`, high ones kept, a ramp between
  kYarn,      // the same with the ramp of arXiv:2309.00071, and cosines and sines times attention_factor
  kLongRope,  // a divisor for every frequency (arXiv:2402.13753), one list up to original_context, one beyond
};

struct RopeConfig {
  double theta = 10000;
  RopeScaling scaling = RopeScaling::kNone;
  double factor = 1;
  double low_frequency_factor = 1;   // kLlama3
  double high_frequency_factor = 4;  // kLlama3
  int64_t original_context = 0;      // kLlama3, kDynamic, kYarn, kLongRope
  double beta_fast = 32;        // kYarn: rotations within original_context from which a frequency is kept
  double beta_slow = 1;         // kYarn: rotations below which it is divided
  bool truncate = true;         // kYarn: the ramp begins and ends at whole pairs
  double attention_factor = 1;  // of cosines and sines: kYarn, kLongRope
  std::vector<double> short_factors, long_factors;  // kLongRope: rotary_dim / 2 each
};

enum class NormKind : uint8_t { kRms, kLayer };

// Where a layer has its norms.
enum class NormPlace : uint8_t {
  kBefore,         // x += block(norm(x))
  kAround,         // x += norm(block(norm(x)))
  kAfter,          // x += norm(block(x))
  kAfterResidual,  // x = norm(x + block(x))
};

// Norms of queries and keys before they are rotated: none, one over each head, one over all heads together.
enum class QueryNorm : uint8_t { kNone, kHead, kWhole };

enum class Activation : uint8_t { kSilu, kGelu, kGeluTanh, kQuickGelu, kRelu };

// Which rotary embedding a layer has: the model's, the second one (Gemma 3's local layers), none.
enum class LayerRope : uint8_t { kMain, kLocal, kNone };

struct LayerConfig {
  int64_t window = 0;  // as ModelConfig::sliding_window
  LayerRope rope = LayerRope::kMain;
  bool experts = false;  // its feed-forward block is a mixture
};

// A mixture of experts in place of the feed-forward block.
struct ExpertsConfig {
  int64_t count = 0;         // 0: none
  int64_t chosen = 0;        // of them, for a token
  int64_t intermediate = 0;  // of one expert
  bool normalize = true;     // the weights of the chosen ones sum to 1
  bool bias = false;         // of routers and experts
  double limit = 0;          // > 0: (up + 1) * gate * sigmoid(1.702 gate), both clamped to it; rows alternate
};

// The shape of one decoder-only transformer, read from a Hugging Face config.json.
struct ModelConfig {
  std::string family;  // model_type: "llama", "mistral", ...
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

  std::vector<LayerConfig> each_layer;  // empty: all alike
  RopeConfig local_rope;                // of LayerRope::kLocal
  int64_t rotary_dim = 0;               // the first dimensions of a head, which are rotated; 0: all of them
  int64_t position_rows = 0;            // learned positions: rows of their table; 0: none
  int64_t embedding_size = 0;           // of a token before its projection to `hidden`; 0: hidden
  NormKind norm = NormKind::kRms;
  NormPlace norm_place = NormPlace::kBefore;
  QueryNorm query_norm = QueryNorm::kNone;
  bool norm_plus_one = false;  // the factor of a norm is 1 + its weight
  bool final_norm = true;
  bool parallel_blocks = false;    // x += attention(norm1(x)) + mlp(norm2(x))
  bool interleaved_heads = false;  // query, key and value of a head lie together
  bool gated = true;               // activation(gate) * up, else activation(up)
  bool attention_sinks = false;
  Activation activation = Activation::kSilu;
  double attention_scale = 0;    // of query times key; 0: 1 / sqrt(head_dim)
  double attention_softcap = 0;  // > 0: scores are c * tanh(score / c)
  double logit_softcap = 0;
  double embedding_scale = 1;
  double residual_scale = 1;  // of what a block adds
  double logit_scale = 1;
  ExpertsConfig experts;

  int64_t query_size() const noexcept { return heads * head_dim; }
  int64_t kv_size() const noexcept { return kv_heads * head_dim; }
  LayerConfig layer(int64_t index) const noexcept {
    return each_layer.empty() ? LayerConfig{.window = sliding_window, .experts = experts.count > 0}
                              : each_layer[static_cast<size_t>(index)];
  }
  // Weights of the whole model, embeddings and head included (once when tied).
  int64_t parameters() const;
};

// Reads the text of a config.json; `source` names it in errors. Every number is bounded, so that sizes
// computed from them cannot overflow. Throws kMalformedFile (not JSON, a number missing or out of range) or
// kUnsupported (an architecture, activation or RoPE scaling that is not known: says which, and which ones
// are).
NFLOAT_API ModelConfig parse_model_config(std::string_view json, const std::string& source);

// Names of the architectures that load ("llama", "mistral", ...).
NFLOAT_API std::vector<std::string> model_families();

}  // namespace nfloat

#endif  // NFLOAT_MODEL_CONFIG_H_
