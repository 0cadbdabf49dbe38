// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_ARCHITECTURE_SHAPE_FAMILIES_H_
#define NFLOAT_ARCHITECTURE_SHAPE_FAMILIES_H_

#include <span>
#include <string_view>

namespace nfloat {

// Norms of queries and keys: none, one of a head's size for all heads, one as wide as all heads.
enum class QkNorm { kNone, kHead, kWide };

// What a family of models has that its config.json need not say.
struct ShapeFamily {
  std::string_view names;  // model_type, several apart by blanks
  bool gated = true;       // three matrices in the feed-forward part instead of two
  int norm_vectors = 1;    // see ModelShape
  int norms_per_layer = 2;
  // Keys that switch biases on; "+": always, "": never.
  const char* attention_bias = "";
  bool output_bias = true;  // the attention's output goes with the other three
  const char* mlp_bias = "";
  QkNorm qk_norm = QkNorm::kNone;
  const char* qk_norm_key = "+";  // switches it
  const char* defaults = "{}";    // a JSON object: values of keys that are absent
};

// All that are known.
std::span<const ShapeFamily> shape_families() noexcept;
// Null for a family that is not known.
const ShapeFamily* find_shape_family(std::string_view model_type) noexcept;

}  // namespace nfloat

#endif  // NFLOAT_ARCHITECTURE_SHAPE_FAMILIES_H_
