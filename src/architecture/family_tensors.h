// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_ARCHITECTURE_FAMILY_TENSORS_H_
#define NFLOAT_ARCHITECTURE_FAMILY_TENSORS_H_

#include "architecture/families.h"

// What the families that run call their tensors.
namespace nfloat {

#define NFLOAT_LAYER "model.layers.{}."

constexpr FamilyTensors kLlamaTensors{
    .embedding = "model.embed_tokens.weight",
    .final_norm = "model.norm.weight",
    .head = "lm_head.weight",
    .attention_norm = NFLOAT_LAYER "input_layernorm.weight",
    .query = NFLOAT_LAYER "self_attn.q_proj.weight",
    .key = NFLOAT_LAYER "self_attn.k_proj.weight",
    .value = NFLOAT_LAYER "self_attn.v_proj.weight",
    .output = NFLOAT_LAYER "self_attn.o_proj.weight",
    .mlp_norm = NFLOAT_LAYER "post_attention_layernorm.weight",
    .gate = NFLOAT_LAYER "mlp.gate_proj.weight",
    .up = NFLOAT_LAYER "mlp.up_proj.weight",
    .down = NFLOAT_LAYER "mlp.down_proj.weight",
};

constexpr FamilyTensors with_query_norm(FamilyTensors tensors) {
  tensors.query_norm = NFLOAT_LAYER "self_attn.q_norm.weight";
  tensors.key_norm = NFLOAT_LAYER "self_attn.k_norm.weight";
  return tensors;
}

constexpr FamilyTensors with_four_norms(FamilyTensors tensors) {
  tensors.attention_post_norm = NFLOAT_LAYER "post_attention_layernorm.weight";
  tensors.mlp_norm = NFLOAT_LAYER "pre_feedforward_layernorm.weight";
  tensors.mlp_post_norm = NFLOAT_LAYER "post_feedforward_layernorm.weight";
  return tensors;
}

constexpr FamilyTensors with_norms_after(FamilyTensors tensors) {
  tensors = with_four_norms(tensors);
  tensors.attention_norm = tensors.mlp_norm = nullptr;
  return tensors;
}

constexpr FamilyTensors fused(FamilyTensors tensors) {
  tensors.query = tensors.key = tensors.value = tensors.gate = tensors.up = nullptr;
  tensors.query_key_value = NFLOAT_LAYER "self_attn.qkv_proj.weight";
  tensors.gate_up = NFLOAT_LAYER "mlp.gate_up_proj.weight";
  return tensors;
}

constexpr FamilyTensors with_experts(FamilyTensors tensors) {
  tensors.router = NFLOAT_LAYER "mlp.gate.weight";
  tensors.expert_gate = NFLOAT_LAYER "mlp.experts.{}.gate_proj.weight";
  tensors.expert_up = NFLOAT_LAYER "mlp.experts.{}.up_proj.weight";
  tensors.expert_down = NFLOAT_LAYER "mlp.experts.{}.down_proj.weight";
  tensors.experts_gate_up = NFLOAT_LAYER "mlp.experts.gate_up_proj";
  tensors.experts_down = NFLOAT_LAYER "mlp.experts.down_proj";
  return tensors;
}

constexpr FamilyTensors mixtral_tensors() {
  FamilyTensors tensors = with_experts(kLlamaTensors);
  tensors.router = NFLOAT_LAYER "block_sparse_moe.gate.weight";
  tensors.expert_gate = NFLOAT_LAYER "block_sparse_moe.experts.{}.w1.weight";
  tensors.expert_up = NFLOAT_LAYER "block_sparse_moe.experts.{}.w3.weight";
  tensors.expert_down = NFLOAT_LAYER "block_sparse_moe.experts.{}.w2.weight";
  tensors.experts_gate_up = NFLOAT_LAYER "block_sparse_moe.experts.gate_up_proj";
  tensors.experts_down = NFLOAT_LAYER "block_sparse_moe.experts.down_proj";
  return tensors;
}

constexpr FamilyTensors gpt_oss_tensors() {
  FamilyTensors tensors = with_experts(kLlamaTensors);
  tensors.router = NFLOAT_LAYER "mlp.router.weight";
  tensors.sinks = NFLOAT_LAYER "self_attn.sinks";
  tensors.expert_gate = tensors.expert_up = tensors.expert_down = nullptr;
  return tensors;
}

#undef NFLOAT_LAYER
#define NFLOAT_LAYER "transformer.h.{}."

constexpr FamilyTensors kGpt2Tensors{
    .embedding = "transformer.wte.weight",
    .positions = "transformer.wpe.weight",
    .final_norm = "transformer.ln_f.weight",
    .head = "lm_head.weight",
    .attention_norm = NFLOAT_LAYER "ln_1.weight",
    .query_key_value = NFLOAT_LAYER "attn.c_attn.weight",
    .output = NFLOAT_LAYER "attn.c_proj.weight",
    .mlp_norm = NFLOAT_LAYER "ln_2.weight",
    .up = NFLOAT_LAYER "mlp.c_fc.weight",
    .down = NFLOAT_LAYER "mlp.c_proj.weight",
};

#undef NFLOAT_LAYER
#define NFLOAT_LAYER "gpt_neox.layers.{}."

constexpr FamilyTensors kNeoxTensors{
    .embedding = "gpt_neox.embed_in.weight",
    .final_norm = "gpt_neox.final_layer_norm.weight",
    .head = "embed_out.weight",
    .attention_norm = NFLOAT_LAYER "input_layernorm.weight",
    .query_key_value = NFLOAT_LAYER "attention.query_key_value.weight",
    .output = NFLOAT_LAYER "attention.dense.weight",
    .mlp_norm = NFLOAT_LAYER "post_attention_layernorm.weight",
    .up = NFLOAT_LAYER "mlp.dense_h_to_4h.weight",
    .down = NFLOAT_LAYER "mlp.dense_4h_to_h.weight",
};

#undef NFLOAT_LAYER
#define NFLOAT_LAYER "model.decoder.layers.{}."

constexpr FamilyTensors kOptTensors{
    .embedding = "model.decoder.embed_tokens.weight",
    .positions = "model.decoder.embed_positions.weight",
    .project_in = "model.decoder.project_in.weight",
    .project_out = "model.decoder.project_out.weight",
    .final_norm = "model.decoder.final_layer_norm.weight",
    .head = "lm_head.weight",
    .attention_norm = NFLOAT_LAYER "self_attn_layer_norm.weight",
    .query = NFLOAT_LAYER "self_attn.q_proj.weight",
    .key = NFLOAT_LAYER "self_attn.k_proj.weight",
    .value = NFLOAT_LAYER "self_attn.v_proj.weight",
    .output = NFLOAT_LAYER "self_attn.out_proj.weight",
    .mlp_norm = NFLOAT_LAYER "final_layer_norm.weight",
    .up = NFLOAT_LAYER "fc1.weight",
    .down = NFLOAT_LAYER "fc2.weight",
};
#undef NFLOAT_LAYER

}  // namespace nfloat

#endif  // NFLOAT_ARCHITECTURE_FAMILY_TENSORS_H_
