// SPDX-License-Identifier: Apache-2.0
#include "architecture/shape_families.h"

namespace nfloat {
namespace {

constexpr QkNorm kNone = QkNorm::kNone, kHead = QkNorm::kHead, kWide = QkNorm::kWide;

// clang-format off
constexpr ShapeFamily kFamilies[] = {
    // names                                        gate  norm n/l  attention bias  o      MLP bias     q/k norm, its key
    {"llama",                                       true,  1, 2, "attention_bias", true,  "mlp_bias"},
    {"mistral ministral3",                          true,  1, 2, "",               false, "", kNone, "", R"({"sliding_window":4096})"},
    {"mixtral",                                     true,  1, 2},
    {"qwen2 qwen2_vl qwen2_5_vl qwen2_vl_text qwen2_5_vl_text",
                                                    true,  1, 2, "+",              false, "", kNone, "", R"({"use_sliding_window":false,"max_window_layers":28})"},
    {"qwen2_moe",                                   true,  1, 2, "qkv_bias",       false, "", kNone, "",
     R"({"use_sliding_window":false,"max_window_layers":28,"qkv_bias":true,"moe_intermediate_size":1408,"shared_expert_intermediate_size":5632,"num_experts":60})"},
    {"qwen3 qwen3_vl_text",                         true,  1, 2, "attention_bias", true,  "", kHead, "+",
     R"({"head_dim":128,"use_sliding_window":false,"max_window_layers":28})"},
    {"qwen3_moe qwen3_vl_moe_text",                 true,  1, 2, "attention_bias", true,  "", kHead, "+",
     R"({"use_sliding_window":false,"max_window_layers":28,"num_experts":128,"moe_intermediate_size":768})"},
    {"qwen3_next",                                  true,  1, 2, "attention_bias", true,  "", kHead, "+",
     R"({"head_dim":256,"full_attention_interval":4,"shared_expert_intermediate_size":512,"linear_conv_kernel_dim":4})"},
    {"gemma",                                       true,  1, 2, "attention_bias", true,  "", kNone, "", R"({"tie_word_embeddings":true,"head_dim":256})"},
    {"gemma2",                                      true,  1, 4, "attention_bias", true,  "", kNone, "",
     R"({"tie_word_embeddings":true,"head_dim":256,"sliding_window":4096,"sliding_window_pattern":2})"},
    {"gemma3_text gemma3",                          true,  1, 4, "attention_bias", true,  "", kHead, "+",
     R"({"tie_word_embeddings":true,"head_dim":256,"sliding_window":4096,"sliding_window_pattern":6,"num_attention_heads":8,"num_key_value_heads":4,)"
     R"("vocab_size":262208,"hidden_size":2304,"intermediate_size":9216,"num_hidden_layers":26,"max_position_embeddings":131072})"},
    {"phi3",                                        true,  1, 2},
    {"phi",                                         false, 2, 1, "+",              true,  "+", kWide, "qk_layernorm", R"({"lm_head_bias":true})"},
    {"phimoe",                                      true,  2, 2, "attention_bias", true,  "", kNone, "", R"({"num_local_experts":16})"},
    {"opt",                                         false, 2, 2, "enable_bias",    true,  "enable_bias", kNone, "", R"({"tie_word_embeddings":true,"enable_bias":true})"},
    {"gpt2",                                        false, 2, 2, "+",              true,  "+", kNone, "", R"({"tie_word_embeddings":true,"n_positions":1024})"},
    {"gpt_bigcode",                                 false, 2, 2, "+",              true,  "+", kNone, "",
     R"({"tie_word_embeddings":true,"multi_query":true,"n_positions":1024})"},
    {"gpt_neox",                                    false, 2, 2, "attention_bias", true,  "+", kNone, "", R"({"attention_bias":true})"},
    {"gptj",                                        false, 2, 1, "",               false, "+", kNone, "", R"({"lm_head_bias":true})"},
    {"bloom",                                       false, 2, 2, "+",              true,  "+", kNone, "", R"({"tie_word_embeddings":true})"},
    {"falcon",                                      false, 2, 2, "bias",           true,  "bias", kNone, "",
     R"({"tie_word_embeddings":true,"multi_query":true,"parallel_attn":true})"},
    {"mpt",                                         false, 1, 2, "",               false, "", kNone, "", R"({"tie_word_embeddings":true,"expansion_ratio":4})"},
    {"starcoder2",                                  false, 2, 2, "use_bias",       true,  "use_bias", kNone, "", R"({"tie_word_embeddings":true,"use_bias":true})"},
    {"smollm3",                                     true,  1, 2, "attention_bias", true,  "mlp_bias", kNone, "", R"({"tie_word_embeddings":true,"use_sliding_window":false})"},
    {"stablelm",                                    true,  2, 2, "use_qkv_bias",   false, "", kWide, "qk_layernorm"},
    {"olmo",                                        true,  0, 2, "attention_bias", true},
    {"olmo2",                                       true,  1, 2, "attention_bias", true,  "", kWide, "+"},
    {"olmo3",                                       true,  1, 2, "attention_bias", true,  "", kWide, "+", R"({"sliding_window":4096,"sliding_window_pattern":4})"},
    {"olmoe",                                       true,  1, 2, "attention_bias", true,  "", kWide, "+", R"({"num_experts":64})"},
    {"cohere",                                      true,  1, 1, "attention_bias", true,  "", kWide, "use_qk_norm", R"({"tie_word_embeddings":true})"},
    {"cohere2",                                     true,  1, 1, "attention_bias", true,  "", kNone, "",
     R"({"tie_word_embeddings":true,"sliding_window":4096,"sliding_window_pattern":4})"},
    {"granite",                                     true,  1, 2, "attention_bias", true,  "mlp_bias"},
    {"granitemoe granitemoeshared",                 true,  1, 2, "attention_bias", true},
    {"granitemoehybrid",                            true,  1, 2, "attention_bias", true,  "", kNone, "",
     R"({"mamba_n_heads":128,"mamba_n_groups":1,"mamba_d_state":256,"mamba_d_conv":4,"mamba_expand":2,"mamba_conv_bias":true})"},
    {"glm",                                         true,  1, 2, "attention_bias", false, "", kNone, "", R"({"attention_bias":true})"},
    {"seed_oss",                                    true,  1, 2, "attention_bias", false, "mlp_bias", kNone, "", R"({"attention_bias":true,"head_dim":128})"},
    {"internlm2",                                   true,  1, 2, "bias",           true},
    {"exaone4",                                     true,  1, 2, "",               false, "", kHead, "+", R"({"sliding_window_pattern":4})"},
    {"ernie4_5",                                    true,  1, 2, "use_bias",       true,  "use_bias", kNone, "", R"({"tie_word_embeddings":true,"head_dim":128})"},
    {"glm4",                                        true,  1, 4, "attention_bias", false, "", kNone, "", R"({"attention_bias":true})"},
    {"glm4_moe",                                    true,  1, 2, "attention_bias", false, "", kHead, "use_qk_norm", R"({"n_routed_experts":128,"first_k_dense_replace":1,"n_shared_experts":1})"},
    {"nemotron",                                    false, 2, 2, "attention_bias", true,  "mlp_bias"},
    {"deepseek_v2",                                 true,  1, 2, "attention_bias", true},
    {"deepseek_v3 kimi_k2",                         true,  1, 2, "attention_bias", true,  "", kNone, "",
     R"({"n_routed_experts":256,"n_shared_experts":1,"moe_intermediate_size":2048,"first_k_dense_replace":3})"},
    {"llama4_text",                                 true,  1, 2, "attention_bias", true,  "", kNone, "",
     R"({"interleave_moe_layer_step":1,"intermediate_size_mlp":16384,"intermediate_size":8192,"num_local_experts":16,"head_dim":128,)"
     R"("sliding_window_pattern":4,"attention_chunk_size":8192})"},
    {"gpt_oss",                                     true,  1, 2, "attention_bias", true,  "", kNone, "",
     R"({"attention_bias":true,"num_local_experts":128,"sliding_window":128,"sliding_window_pattern":2,"head_dim":64})"},
    {"nemotron_h",                                  false, 1, 1, "attention_bias", true,  "mlp_bias", kNone, "",
     R"({"head_dim":128,"num_key_value_heads":8,"mamba_num_heads":128,"mamba_head_dim":64,"n_groups":8,"ssm_state_size":128,"conv_kernel":4,"use_conv_bias":true})"},
    {"jamba",                                       true,  1, 2, "",               false, "", kNone, "",
     R"({"attn_layer_period":8,"attn_layer_offset":4,"expert_layer_period":2,"expert_layer_offset":1,"num_experts":16,"num_key_value_heads":8,)"
     R"("mamba_d_state":16,"mamba_d_conv":4,"mamba_expand":2,"mamba_conv_bias":true})"},
    {"bamba",                                       true,  1, 2, "attention_bias", true,  "mlp_bias", kNone, "",
     R"({"mamba_n_heads":128,"mamba_n_groups":1,"mamba_d_state":256,"mamba_d_conv":4,"mamba_expand":2,"mamba_conv_bias":true,"num_key_value_heads":8})"},
    {"falcon_h1",                                   true,  1, 2, "attention_bias", true,  "mlp_bias", kNone, "",
     R"({"mamba_d_ssm":1024,"mamba_n_heads":128,"mamba_n_groups":1,"mamba_d_state":256,"mamba_d_conv":4,"mamba_expand":2,"mamba_conv_bias":true,"num_key_value_heads":8})"},
    {"mamba",                                       true,  1, 1, "",               false, "", kNone, "",
     R"({"tie_word_embeddings":true,"state_size":16,"conv_kernel":4,"expand":2,"use_conv_bias":true})"},
    {"mamba2",                                      true,  1, 1, "",               false, "", kNone, "",
     R"({"num_heads":128,"n_groups":8,"state_size":128,"conv_kernel":4,"expand":2,"use_conv_bias":true})"},
};
// clang-format on

}  // namespace

std::span<const ShapeFamily> shape_families() noexcept {
  return kFamilies;
}

const ShapeFamily* find_shape_family(std::string_view model_type) noexcept {
  if (model_type.empty()) return nullptr;
  for (const ShapeFamily& family : kFamilies) {
    for (std::string_view names = family.names; !names.empty();) {
      const size_t blank = names.find(' ');
      if (names.substr(0, blank) == model_type) return &family;
      names = blank == std::string_view::npos ? std::string_view{} : names.substr(blank + 1);
    }
  }
  return nullptr;
}

}  // namespace nfloat
