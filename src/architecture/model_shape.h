// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_ARCHITECTURE_MODEL_SHAPE_H_
#define NFLOAT_ARCHITECTURE_MODEL_SHAPE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "base/json.h"

// What a config.json says of a model's tensors: layers by kind, and the shapes that each kind has.
namespace nfloat {

struct Family;

struct AttentionShape {
  int64_t heads = 0, kv_heads = 0, head_dim = 0;
  bool input_bias = false, output_bias = false;  // of q, k and v; of o
  bool gated = false;                            // q makes a gate of its own width too
  int64_t norm_parameters = 0;                   // of queries and keys; attention sinks
  // Keys and values from one latent vector (MLA); 0: plain attention.
  int64_t latent = 0, rope_dim = 0, nope_dim = 0, value_dim = 0;
  int64_t query_latent = 0;  // 0: queries are projected at once
};

struct FeedForwardShape {
  int64_t width = 0;
  bool gated = true, bias = false;
};

struct ExpertsShape {
  int64_t count = 0, width = 0;
  int64_t shared_width = 0;  // of all shared experts together
  bool bias = false, shared_gate = false;
  int64_t router_bias = 0;
};

// Recurrent mixers: Mamba (heads 0), Mamba-2, gated delta rule (Qwen3-Next; delta_values > 0), and gated
// convolutions of `conv` tokens (LFM2).
struct RecurrentShape {
  int64_t inner = 0, state = 0, conv = 0, heads = 0, groups = 0;
  int64_t step_rank = 0;  // Mamba alone
  bool gated_conv = false;
  int64_t norm_parameters = 0;
  bool bias = false, output_bias = false, conv_bias = true;
  int64_t delta_keys = 0, delta_values = 0, delta_heads = 0;  // widths of all keys and of all values
};

inline constexpr int64_t kMostLayers = 1 << 20;
inline constexpr int64_t kCachesNothing = -1;

struct LayerShape {
  bool attention = false, recurrent = false, feed_forward = false, experts = false;
  int64_t window = 0;         // of its attention, in tokens; 0: the whole context
  int64_t width = 0;          // of its feed-forward part; 0: as in all layers
  int64_t kv_heads = 0;       // of its attention; 0: as in all layers
  bool borrowed = false;      // the matrices of its attention are counted elsewhere
  int64_t cached_values = 0;  // that it keeps of a token; kCachesNothing: those of another layer serve
};

// Beside what the layers have.
struct ExtraParameters {
  double linear = 0, embedding = 0, other = 0;
};

struct ModelShape {
  std::string model_type;
  std::string family;  // whose shapes it has; empty: not known
  int64_t hidden = 0, vocabulary = 0, max_context = 0, active_experts = 0;
  int64_t positions = 0;     // learned
  int64_t norm_vectors = 1;  // 1: a weight; 2: a bias too; 0: no parameters
  int64_t norms_per_layer = 2, final_norms = 1;
  bool tied_head = false, head_bias = false;
  AttentionShape attention;
  FeedForwardShape feed_forward;
  ExpertsShape experts;
  RecurrentShape recurrent;
  ExtraParameters extra;
  std::vector<LayerShape> layers;
  // Keys that change the counts in a way that is not known: the shape is an estimate. Sentences on parts
  // that are left out on purpose.
  std::vector<std::string> not_understood, left_out;
};

// Models of pictures and text keep the language model's part apart.
const Json& language_part(const Json& config);
std::string model_type_of(const Json& config);
// Sentences on parts that are not counted.
std::vector<std::string> parts_left_out(const Json& config);

// Of a family that does not run, or of none that is known. Throws kMalformedFile for sizes that are none,
// kUnsupported naming a missing key.
ModelShape read_model_shape(const Json& config, const Family* family, const std::string& path);

}  // namespace nfloat

#endif  // NFLOAT_ARCHITECTURE_MODEL_SHAPE_H_
