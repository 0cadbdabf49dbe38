// SPDX-License-Identifier: Apache-2.0
#include "architecture/families.h"

namespace nfloat {
namespace {

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

constexpr FamilyAlias kGemmaAliases[] = {{"hidden_activation", "hidden_act"},
                                         {"attn_logit_softcapping", "attention_softcap"},
                                         {"final_logit_softcapping", "logit_softcap"},
                                         {"_sliding_window_pattern", "sliding_window_pattern"}};
constexpr FamilyAlias kGpt2Aliases[] = {
    {"n_layer", "num_hidden_layers"},           {"n_embd", "hidden_size"},
    {"n_head", "num_attention_heads"},          {"n_inner", "intermediate_size"},
    {"n_positions", "max_position_embeddings"}, {"activation_function", "hidden_act"},
    {"layer_norm_epsilon", "norm_epsilon"}};
constexpr FamilyAlias kNeoxAliases[] = {{"layer_norm_eps", "norm_epsilon"},
                                        {"rotary_emb_base", "rope_theta"},
                                        {"rotary_pct", "partial_rotary_factor"},
                                        {"use_parallel_residual", "parallel_blocks"}};
constexpr FamilyAlias kOptAliases[] = {{"ffn_dim", "intermediate_size"},
                                       {"activation_function", "hidden_act"},
                                       {"word_embed_proj_dim", "embedding_size"}};
constexpr FamilyAlias kGraniteAliases[] = {{"embedding_multiplier", "embedding_scale"},
                                           {"residual_multiplier", "residual_scale"},
                                           {"attention_multiplier", "attention_scale"}};
constexpr FamilyAlias kMixtralAliases[] = {{"num_local_experts", "num_experts"}};
constexpr FamilyAlias kGptOssAliases[] = {{"num_local_experts", "num_experts"},
                                          {"experts_per_token", "num_experts_per_tok"}};

constexpr const char* kAttentionBias = "attention_bias";
constexpr const char* kMlpBias = "mlp_bias";

constexpr Family kFamilies[] = {
    // Llama 2, 3, 3.1, 3.2; SmolLM2, TinyLlama and the many others that say they are Llama.
    {.name = "llama",
     .architecture = "LlamaForCausalLM",
     .prefix = "model.",
     .defaults = "{}",
     .aliases = {},
     .tensors = kLlamaTensors,
     .attention_bias = kAttentionBias,
     .output_bias = kAttentionBias,
     .mlp_bias = kMlpBias},
    {.name = "mistral",
     .architecture = "MistralForCausalLM",
     .prefix = "model.",
     .defaults = "{}",
     .aliases = {},
     .tensors = kLlamaTensors,
     .window = WindowRule::kAll},
    // Qwen2 and Qwen2.5.
    {.name = "qwen2",
     .architecture = "Qwen2ForCausalLM",
     .prefix = "model.",
     .defaults = R"({"attention_bias": true, "use_sliding_window": false, "max_window_layers": 28,
                     "sliding_window": 4096})",
     .aliases = {},
     .tensors = kLlamaTensors,
     .attention_bias = kAttentionBias,
     .window = WindowRule::kUpper},
    {.name = "qwen3",
     .architecture = "Qwen3ForCausalLM",
     .prefix = "model.",
     .defaults = R"({"head_dim": 128, "use_sliding_window": false, "max_window_layers": 28,
                     "sliding_window": 4096})",
     .aliases = {},
     .tensors = with_query_norm(kLlamaTensors),
     .attention_bias = kAttentionBias,
     .output_bias = kAttentionBias,
     .window = WindowRule::kUpper,
     .query_norm = QueryNorm::kHead},
    {.name = "gemma2",
     .architecture = "Gemma2ForCausalLM",
     .prefix = "model.",
     .defaults = R"({"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256,
                     "vocab_size": 256000, "max_position_embeddings": 8192, "sliding_window": 4096,
                     "sliding_window_pattern": 2, "query_pre_attn_scalar": 256,
                     "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0,
                     "hidden_activation": "gelu_pytorch_tanh", "embedding_scale": "sqrt_hidden",
                     "tie_word_embeddings": true})",
     .aliases = kGemmaAliases,
     .tensors = with_four_norms(kLlamaTensors),
     .attention_bias = kAttentionBias,
     .output_bias = kAttentionBias,
     .window = WindowRule::kPattern,
     .norm_place = NormPlace::kAround,
     .norm_plus_one = true},
    // The text model, alone or inside the one that sees.
    {.name = "gemma3_text",
     .architecture = "Gemma3ForCausalLM",
     .prefix = "model.",
     .defaults = R"({"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256,
                     "vocab_size": 262208, "max_position_embeddings": 131072, "sliding_window": 4096,
                     "sliding_window_pattern": 6, "query_pre_attn_scalar": 256, "rope_theta": 1000000.0,
                     "rope_local_base_freq": 10000.0, "hidden_activation": "gelu_pytorch_tanh",
                     "embedding_scale": "sqrt_hidden", "tie_word_embeddings": true})",
     .aliases = kGemmaAliases,
     .tensors = with_query_norm(with_four_norms(kLlamaTensors)),
     .attention_bias = kAttentionBias,
     .output_bias = kAttentionBias,
     .window = WindowRule::kPattern,
     .norm_place = NormPlace::kAround,
     .query_norm = QueryNorm::kHead,
     .norm_plus_one = true},
    // Phi-3, Phi-3.5, Phi-4, Phi-4-mini.
    {.name = "phi3",
     .architecture = "Phi3ForCausalLM",
     .prefix = "model.",
     .defaults = R"({"rms_norm_eps": 1e-5, "max_position_embeddings": 4096})",
     .aliases = {},
     .tensors = fused(kLlamaTensors),
     .window = WindowRule::kAll},
    {.name = "granite",
     .architecture = "GraniteForCausalLM",
     .prefix = "model.",
     .defaults = R"({"attention_multiplier": 1.0})",
     .aliases = kGraniteAliases,
     .tensors = kLlamaTensors,
     .attention_bias = kAttentionBias,
     .output_bias = kAttentionBias,
     .mlp_bias = kMlpBias},
    {.name = "olmo2",
     .architecture = "Olmo2ForCausalLM",
     .prefix = "model.",
     .defaults = R"({"rms_norm_eps": 1e-5})",
     .aliases = {},
     .tensors = with_query_norm(with_norms_after(kLlamaTensors)),
     .attention_bias = kAttentionBias,
     .output_bias = kAttentionBias,
     .norm_place = NormPlace::kAfter,
     .query_norm = QueryNorm::kWhole},
    {.name = "smollm3",
     .architecture = "SmolLM3ForCausalLM",
     .prefix = "model.",
     .defaults = R"({"rope_theta": 2000000.0, "no_rope_layer_interval": 4, "use_sliding_window": false,
                     "max_position_embeddings": 32768, "tie_word_embeddings": true})",
     .aliases = {},
     .tensors = kLlamaTensors,
     .attention_bias = kAttentionBias,
     .output_bias = kAttentionBias,
     .mlp_bias = kMlpBias,
     .window = WindowRule::kNoRope},
    {.name = "gpt2",
     .architecture = "GPT2LMHeadModel",
     .prefix = "transformer.",
     .defaults = R"({"activation_function": "gelu_new", "n_positions": 1024, "layer_norm_epsilon": 1e-5,
                     "tie_word_embeddings": true, "attention_bias": true, "mlp_bias": true})",
     .aliases = kGpt2Aliases,
     .tensors = kGpt2Tensors,
     .attention_bias = kAttentionBias,
     .output_bias = kAttentionBias,
     .mlp_bias = kMlpBias,
     .norm = NormKind::kLayer,
     .gated = false,
     .rotary = false,
     .stored_transposed = true},
    // GPT-NeoX and Pythia.
    {.name = "gpt_neox",
     .architecture = "GPTNeoXForCausalLM",
     .prefix = "gpt_neox.",
     .defaults = R"({"hidden_act": "gelu", "layer_norm_eps": 1e-5, "rotary_pct": 0.25,
                     "use_parallel_residual": true, "attention_bias": true, "mlp_bias": true})",
     .aliases = kNeoxAliases,
     .tensors = kNeoxTensors,
     .attention_bias = kAttentionBias,
     .output_bias = kAttentionBias,
     .mlp_bias = kMlpBias,
     .norm = NormKind::kLayer,
     .gated = false,
     .interleaved_heads = true},
    {.name = "opt",
     .architecture = "OPTForCausalLM",
     .prefix = "model.",
     .defaults = R"({"activation_function": "relu", "norm_epsilon": 1e-5, "do_layer_norm_before": true,
                     "enable_bias": true, "tie_word_embeddings": true})",
     .aliases = kOptAliases,
     .tensors = kOptTensors,
     .attention_bias = "enable_bias",
     .output_bias = "enable_bias",
     .mlp_bias = "enable_bias",
     .norm = NormKind::kLayer,
     .gated = false,
     .rotary = false,
     .position_offset = 2},
    {.name = "mixtral",
     .architecture = "MixtralForCausalLM",
     .prefix = "model.",
     .defaults = R"({"num_local_experts": 8, "num_experts_per_tok": 2, "norm_topk_prob": true,
                     "rms_norm_eps": 1e-5, "rope_theta": 1000000.0})",
     .aliases = kMixtralAliases,
     .tensors = mixtral_tensors(),
     .window = WindowRule::kAll},
    {.name = "qwen3_moe",
     .architecture = "Qwen3MoeForCausalLM",
     .prefix = "model.",
     .defaults = R"({"num_experts": 128, "num_experts_per_tok": 8, "norm_topk_prob": false,
                     "moe_intermediate_size": 768, "use_sliding_window": false, "sliding_window": 4096})",
     .aliases = {},
     .tensors = with_query_norm(with_experts(kLlamaTensors)),
     .attention_bias = kAttentionBias,
     .output_bias = kAttentionBias,
     .window = WindowRule::kUpper,
     .query_norm = QueryNorm::kHead},
    {.name = "olmoe",
     .architecture = "OlmoeForCausalLM",
     .prefix = "model.",
     .defaults = R"({"num_experts": 64, "num_experts_per_tok": 8, "norm_topk_prob": false,
                     "rms_norm_eps": 1e-5})",
     .aliases = {},
     .tensors = with_query_norm(with_experts(kLlamaTensors)),
     .attention_bias = kAttentionBias,
     .output_bias = kAttentionBias,
     .query_norm = QueryNorm::kWhole},
    {.name = "gpt_oss",
     .architecture = "GptOssForCausalLM",
     .prefix = "model.",
     .defaults = R"({"num_local_experts": 128, "num_experts_per_tok": 4, "norm_topk_prob": true,
                     "head_dim": 64, "sliding_window": 128, "sliding_window_pattern": 2,
                     "rope_theta": 150000.0, "rms_norm_eps": 1e-5, "swiglu_limit": 7.0,
                     "attention_bias": true, "mlp_bias": true,
                     "rope_scaling": {"rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0,
                                      "beta_slow": 1.0, "truncate": false,
                                      "original_max_position_embeddings": 4096}})",
     .aliases = kGptOssAliases,
     .tensors = gpt_oss_tensors(),
     .attention_bias = kAttentionBias,
     .output_bias = kAttentionBias,
     .mlp_bias = kMlpBias,
     .window = WindowRule::kPattern,
     .experts_transposed = true},
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
  if (!weight.ends_with(kSuffix)) return weight + "_bias";
  return weight.substr(0, weight.size() - kSuffix.size()) + ".bias";
}

}  // namespace nfloat
