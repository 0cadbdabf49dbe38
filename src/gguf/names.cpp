// SPDX-License-Identifier: Apache-2.0
#include "gguf/names.h"

#include <iterator>

namespace nfloat {
namespace {

constexpr GgufArchitecture kArchitectures[] = {
    {"llama", "LlamaForCausalLM", "llama", true},
    {"mistral", "MistralForCausalLM", "llama", true},
    {"qwen2", "Qwen2ForCausalLM", "qwen2", false},
    {"qwen3", "Qwen3ForCausalLM", "qwen3", false},
};

struct NamePair {
  std::string_view huggingface, gguf;
};

constexpr NamePair kWhole[] = {
    {"model.embed_tokens.", "token_embd."}, {"model.norm.", "output_norm."}, {"lm_head.", "output."}};

constexpr NamePair kInLayer[] = {
    {"input_layernorm.", "attn_norm."},    {"self_attn.q_proj.", "attn_q."},
    {"self_attn.k_proj.", "attn_k."},      {"self_attn.v_proj.", "attn_v."},
    {"self_attn.o_proj.", "attn_output."}, {"self_attn.q_norm.", "attn_q_norm."},
    {"self_attn.k_norm.", "attn_k_norm."}, {"post_attention_layernorm.", "ffn_norm."},
    {"mlp.gate_proj.", "ffn_gate."},       {"mlp.up_proj.", "ffn_up."},
    {"mlp.down_proj.", "ffn_down."},
};

constexpr NamePair kLayerPrefix = {"model.layers.", "blk."};

// `from` and `to` choose the side of each pair.
std::string translate(std::string_view name, std::string_view NamePair::*from,
                      std::string_view NamePair::*to) {
  const auto whole_part = [](std::string_view rest) { return rest == "weight" || rest == "bias"; };
  for (const NamePair& pair : kWhole) {
    if (name.starts_with(pair.*from) && whole_part(name.substr((pair.*from).size())))
      return std::string(pair.*to) + std::string(name.substr((pair.*from).size()));
  }
  if (!name.starts_with(kLayerPrefix.*from)) return {};
  name.remove_prefix((kLayerPrefix.*from).size());
  const size_t dot = name.find('.');
  if (dot == 0 || dot > 6 || name.substr(0, dot).find_first_not_of("0123456789") != std::string_view::npos)
    return {};
  const std::string layer(name.substr(0, dot + 1));
  name.remove_prefix(dot + 1);
  for (const NamePair& pair : kInLayer) {
    if (name.starts_with(pair.*from) && whole_part(name.substr((pair.*from).size())))
      return std::string(kLayerPrefix.*to) + layer + std::string(pair.*to) +
             std::string(name.substr((pair.*from).size()));
  }
  return {};
}

}  // namespace

const GgufArchitecture* find_gguf_architecture(std::string_view gguf) noexcept {
  for (const GgufArchitecture& entry : kArchitectures)
    if (entry.gguf == gguf) return &entry;
  return nullptr;
}

const GgufArchitecture* find_huggingface_architecture(std::string_view model_type) noexcept {
  for (const GgufArchitecture& entry : kArchitectures)
    if (entry.model_type == model_type) return &entry;
  return nullptr;
}

std::string gguf_architecture_names() {
  std::string names;
  for (const GgufArchitecture& entry : kArchitectures) {
    if (!names.empty()) names += ", ";
    names += entry.model_type;
  }
  return names;
}

std::string gguf_tensor_name(std::string_view huggingface) {
  return translate(huggingface, &NamePair::huggingface, &NamePair::gguf);
}

std::string huggingface_tensor_name(std::string_view gguf) {
  return translate(gguf, &NamePair::gguf, &NamePair::huggingface);
}

char interleaved_rows(std::string_view huggingface) noexcept {
  if (huggingface.find(".self_attn.q_proj.") != std::string_view::npos) return 'q';
  if (huggingface.find(".self_attn.k_proj.") != std::string_view::npos) return 'k';
  return 0;
}

}  // namespace nfloat
