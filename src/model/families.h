// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_MODEL_FAMILIES_H_
#define NFLOAT_MODEL_FAMILIES_H_

#include <fmt/format.h>

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

// What distinguishes one architecture from another, as data: the forward pass, the loader and the
// configuration reader read these tables and know no family by name.
namespace nfloat {

// Where a property of the layers comes from: fixed by the family, or a boolean key of config.json.
struct FamilyFlag {
  bool fixed = false;
  const char* key = nullptr;  // read when not null; `fixed` is then the default
};

// Names of the tensors; "{}" stands for the layer's number. A bias has the name of its weight with ".bias".
struct FamilyTensors {
  const char* embedding;
  const char* final_norm;
  const char* head;
  const char* attention_norm;
  const char* query;
  const char* key;
  const char* value;
  const char* output;
  const char* mlp_norm;
  const char* gate;
  const char* up;
  const char* down;
};

struct Family {
  const char* name;          // model_type of config.json
  const char* architecture;  // entry of its "architectures"
  FamilyTensors tensors;
  FamilyFlag attention_bias;
  FamilyFlag output_bias;
  FamilyFlag mlp_bias;
  bool sliding_window;  // the key "sliding_window" counts
  bool tied_by_default;
};

std::span<const Family> families() noexcept;

// Null when there is none of that name.
const Family* find_family(std::string_view name) noexcept;

// "model.layers.{}.mlp.up_proj.weight" -> "model.layers.3.mlp.up_proj.weight".
inline std::string layer_tensor(const char* pattern, int64_t layer) {
  return fmt::format(fmt::runtime(pattern), layer);
}

// "x.weight" -> "x.bias".
std::string bias_name(const std::string& weight);

}  // namespace nfloat

#endif  // NFLOAT_MODEL_FAMILIES_H_
