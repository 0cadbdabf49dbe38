// SPDX-License-Identifier: Apache-2.0
#include "model/families.h"

namespace nfloat {
namespace {

constexpr FamilyTensors kLlamaTensors{
    .embedding = "model.embed_tokens.weight",
    .final_norm = "model.norm.weight",
    .head = "lm_head.weight",
    .attention_norm = "model.layers.{}.input_layernorm.weight",
    .query = "model.layers.{}.self_attn.q_proj.weight",
    .key = "model.layers.{}.self_attn.k_proj.weight",
    .value = "model.layers.{}.self_attn.v_proj.weight",
    .output = "model.layers.{}.self_attn.o_proj.weight",
    .mlp_norm = "model.layers.{}.post_attention_layernorm.weight",
    .gate = "model.layers.{}.mlp.gate_proj.weight",
    .up = "model.layers.{}.mlp.up_proj.weight",
    .down = "model.layers.{}.mlp.down_proj.weight",
};

constexpr Family kFamilies[] = {
    // Llama 2, 3, 3.1, 3.2; SmolLM2, TinyLlama and the many others that say they are Llama.
    {.name = "llama",
     .architecture = "LlamaForCausalLM",
     .tensors = kLlamaTensors,
     .attention_bias = {false, "attention_bias"},
     .output_bias = {false, "attention_bias"},
     .mlp_bias = {false, "mlp_bias"},
     .sliding_window = false,
     .tied_by_default = false},
    {.name = "mistral",
     .architecture = "MistralForCausalLM",
     .tensors = kLlamaTensors,
     .attention_bias = {},
     .output_bias = {},
     .mlp_bias = {},
     .sliding_window = true,
     .tied_by_default = false},
};

}  // namespace

std::span<const Family> families() noexcept {
  return kFamilies;
}

const Family* find_family(std::string_view name) noexcept {
  for (const Family& family : kFamilies)
    if (name == family.name) return &family;
  return nullptr;
}

std::string bias_name(const std::string& weight) {
  constexpr std::string_view kSuffix = ".weight";
  return weight.substr(0, weight.size() - kSuffix.size()) + ".bias";
}

}  // namespace nfloat
