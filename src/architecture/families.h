// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_ARCHITECTURE_FAMILIES_H_
#define NFLOAT_ARCHITECTURE_FAMILIES_H_

#include <fmt/format.h>

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "nfloat/model_config.h"

// What distinguishes one architecture from another, as data: the forward pass, the loader, the configuration
// reader and the counts read these tables.
namespace nfloat {

// Names of the tensors, null where a family has none; "{}" stands for the layer's number, and in names of
// single experts a second one for the expert's. A bias has the name of its weight with ".bias".
struct FamilyTensors {
  const char* embedding = nullptr;
  const char* positions = nullptr;  // learned
  const char* project_in = nullptr;
  const char* project_out = nullptr;
  const char* final_norm = nullptr;
  const char* head = nullptr;
  const char* attention_norm = nullptr;
  const char* attention_post_norm = nullptr;
  const char* query = nullptr;
  const char* key = nullptr;
  const char* value = nullptr;
  const char* query_key_value = nullptr;  // in one, instead of the three
  const char* query_norm = nullptr;
  const char* key_norm = nullptr;
  const char* sinks = nullptr;
  const char* output = nullptr;
  const char* mlp_norm = nullptr;
  const char* mlp_post_norm = nullptr;
  const char* gate = nullptr;
  const char* up = nullptr;
  const char* gate_up = nullptr;  // in one, instead of the two
  const char* down = nullptr;
  const char* router = nullptr;
  const char* expert_gate = nullptr;  // one by one
  const char* expert_up = nullptr;
  const char* expert_down = nullptr;
  const char* experts_gate_up = nullptr;  // all in one, [experts, out, in]
  const char* experts_down = nullptr;
};

// Which layers look back through a window when config.json has no "layer_types".
enum class WindowRule : uint8_t {
  kNever,
  kAll,      // every layer, if "sliding_window" is set
  kUpper,    // from "max_window_layers" on, if "use_sliding_window"
  kNoRope,   // those without rotary embedding, if "use_sliding_window"
  kPattern,  // all but every "sliding_window_pattern"-th
};

// A key of config.json that stands for another one.
struct FamilyAlias {
  const char* key;
  const char* means;
};

struct Family {
  const char* name;                    // model_type of config.json
  const char* architecture = nullptr;  // entry of its "architectures"
  const char* prefix = nullptr;        // what names begin with; a checkpoint may have another one, or none
  const char* defaults = "{}";         // JSON: what config.json may leave out
  std::span<const FamilyAlias> aliases = {};
  FamilyTensors tensors = {};
  // Each the name of a boolean key, null: without. "attention_bias" and so on are set by `defaults` where a
  // family has no key of its own.
  const char* attention_bias = nullptr;
  const char* output_bias = nullptr;
  const char* mlp_bias = nullptr;
  WindowRule window = WindowRule::kNever;
  NormKind norm = NormKind::kRms;
  NormPlace norm_place = NormPlace::kBefore;
  QueryNorm query_norm = QueryNorm::kNone;
  bool norm_plus_one = false;
  bool gated = true;
  bool rotary = true;
  bool interleaved_heads = false;
  bool stored_transposed = false;   // plain matrices of the layers are [in, out]
  bool experts_transposed = false;  // plain fused experts are [experts, in, out]
  int64_t position_offset = 0;      // rows of the position table before that of position 0

  // Of families that do not run: they are counted by these and the biases, norms and gates above.
  const char* like = nullptr;  // the family whose shapes it has
  int norm_vectors = -1;       // of a norm; -1: a weight, and a bias if the norm is a LayerNorm
  int norms_per_layer = 2;
  const char* query_norm_key = nullptr;  // switches norms of queries and keys; null: always there

  // Whether the forward pass knows it.
  bool runs() const noexcept { return tensors.embedding != nullptr; }
};

// All that are known, those that run first.
std::span<const Family> families() noexcept;

// Null when there is none of that name.
const Family* find_family(std::string_view name) noexcept;

// The family whose shapes this one has: itself, unless it is `like` another.
const Family& shape_family(const Family& family) noexcept;

// "model.layers.{}.mlp.up_proj.weight" -> "model.layers.3.mlp.up_proj.weight".
inline std::string layer_tensor(const char* pattern, int64_t layer, int64_t expert = 0) {
  return fmt::format(fmt::runtime(pattern), layer, expert);
}

// "x.weight" -> "x.bias"; "x_proj" of fused experts -> "x_proj_bias".
std::string bias_name(const std::string& weight);

}  // namespace nfloat

#endif  // NFLOAT_ARCHITECTURE_FAMILIES_H_
