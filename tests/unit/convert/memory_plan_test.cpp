// SPDX-License-Identifier: Apache-2.0
#include "nfloat/memory_plan.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <gtest/gtest.h>

#include "support/files.h"
#include "support/paths.h"

namespace nfloat {
namespace {

class MemoryPlan : public testing::TemporaryFolder {
 protected:
  ModelSize measure(const std::string& config) {
    testing::write_file(path("config.json"), config);
    return measure_model(path("config.json"));
  }
};

// Parameter counts as the models' own cards and files have them.
TEST_F(MemoryPlan, CountsParametersOfKnownModels) {
  const ModelSize llama2 = measure(
      R"({"model_type":"llama","hidden_size":4096,"intermediate_size":11008,"num_hidden_layers":32,"num_attention_heads":32,)"
      R"("num_key_value_heads":32,"vocab_size":32000,"max_position_embeddings":4096,"tie_word_embeddings":false})");
  EXPECT_EQ(llama2.parameters(), 6738415616);
  const ModelSize llama32 = measure(
      R"({"model_type":"llama","hidden_size":2048,"intermediate_size":8192,"num_hidden_layers":16,"num_attention_heads":32,)"
      R"("num_key_value_heads":8,"head_dim":64,"vocab_size":128256,"max_position_embeddings":131072,"tie_word_embeddings":true})");
  EXPECT_EQ(llama32.parameters(), 1235814400);
  EXPECT_EQ(llama32.head_parameters, 0);
  EXPECT_EQ(llama32.kv_cache_bytes(1000, 2), 2u * 16 * 8 * 64 * 1000 * 2);
  const ModelSize mixtral = measure(
      R"({"model_type":"mixtral","hidden_size":4096,"intermediate_size":14336,"num_hidden_layers":32,"num_attention_heads":32,)"
      R"("num_key_value_heads":8,"vocab_size":32000,"num_local_experts":8,"num_experts_per_tok":2})");
  EXPECT_EQ(mixtral.parameters(), 46702792704);
}

// Sizes as the published configurations have them; counts as the files or cards have them, or, where those
// are rounded, added up by hand from the shapes.
struct PublishedModel {
  const char* name;
  int64_t parameters;
  const char* config;
};

const PublishedModel kPublished[] = {
    {"Qwen3-30B-A3B", 30532122624,
     R"({"model_type":"qwen3_moe","hidden_size":2048,"intermediate_size":6144)"
     R"(,"moe_intermediate_size":768,"num_hidden_layers":48,"num_attention_heads":32)"
     R"(,"num_key_value_heads":4,"head_dim":128,"num_experts":128,"num_experts_per_tok":8)"
     R"(,"decoder_sparse_step":1,"mlp_only_layers":[],"vocab_size":151936,"attention_bias":false)"
     R"(,"norm_topk_prob":true,"router_aux_loss_coef":0.001,"max_window_layers":48)"
     R"(,"tie_word_embeddings":false})"},
    {"DeepSeek-V3 without its drafting layer", 671026419200,
     R"({"model_type":"deepseek_v3","hidden_size":7168,"intermediate_size":18432)"
     R"(,"moe_intermediate_size":2048,"num_hidden_layers":61,"num_attention_heads":128)"
     R"(,"num_key_value_heads":128,"kv_lora_rank":512,"q_lora_rank":1536,"qk_nope_head_dim":128)"
     R"(,"qk_rope_head_dim":64,"v_head_dim":128,"n_routed_experts":256,"n_shared_experts":1)"
     R"(,"num_experts_per_tok":8,"first_k_dense_replace":3,"moe_layer_freq":1,"n_group":8)"
     R"(,"topk_group":4,"num_nextn_predict_layers":1,"vocab_size":129280,"attention_bias":false)"
     R"(,"ep_size":1,"topk_method":"noaux_tc","scoring_func":"sigmoid")"
     R"(,"tie_word_embeddings":false})"},
    {"DeepSeek-V2-Lite", 15706484224,
     R"({"model_type":"deepseek_v2","hidden_size":2048,"intermediate_size":10944)"
     R"(,"moe_intermediate_size":1408,"num_hidden_layers":27,"num_attention_heads":16)"
     R"(,"num_key_value_heads":16,"kv_lora_rank":512,"q_lora_rank":null,"qk_nope_head_dim":128)"
     R"(,"qk_rope_head_dim":64,"v_head_dim":128,"n_routed_experts":64,"n_shared_experts":2)"
     R"(,"num_experts_per_tok":6,"first_k_dense_replace":1,"moe_layer_freq":1)"
     R"(,"vocab_size":102400})"},
    {"Qwen1.5-MoE-A2.7B", 14315784192,
     R"({"model_type":"qwen2_moe","hidden_size":2048,"intermediate_size":5632)"
     R"(,"moe_intermediate_size":1408,"shared_expert_intermediate_size":5632)"
     R"(,"num_hidden_layers":24,"num_attention_heads":16,"num_key_value_heads":16)"
     R"(,"num_experts":60,"num_experts_per_tok":4,"vocab_size":151936})"},
    {"gpt-oss-20b", 20914757184,
     R"({"model_type":"gpt_oss","hidden_size":2880,"intermediate_size":2880)"
     R"(,"num_hidden_layers":24,"num_attention_heads":64,"num_key_value_heads":8,"head_dim":64)"
     R"(,"num_local_experts":32,"num_experts_per_tok":4,"experts_per_token":4)"
     R"(,"sliding_window":128,"attention_bias":true,"vocab_size":201088,"swiglu_limit":7.0})"},
    {"Llama 4 Scout, its text", 107769861120,
     R"({"model_type":"llama4_text","hidden_size":5120,"intermediate_size":8192)"
     R"(,"intermediate_size_mlp":16384,"num_hidden_layers":48,"num_attention_heads":40)"
     R"(,"num_key_value_heads":8,"head_dim":128,"num_local_experts":16,"num_experts_per_tok":1)"
     R"(,"interleave_moe_layer_step":1,"use_qk_norm":true,"vocab_size":202048})"},
    {"Gemma 2 9B", 9241705984,
     R"({"model_type":"gemma2","hidden_size":3584,"intermediate_size":14336)"
     R"(,"num_hidden_layers":42,"num_attention_heads":16,"num_key_value_heads":8,"head_dim":256)"
     R"(,"sliding_window":4096,"vocab_size":256000})"},
    {"Gemma 2B", 2506172416,
     R"({"model_type":"gemma","hidden_size":2048,"intermediate_size":16384,"num_hidden_layers":18)"
     R"(,"num_attention_heads":8,"num_key_value_heads":1,"head_dim":256,"vocab_size":256000})"},
    {"Gemma 3 1B", 999885952,
     R"({"model_type":"gemma3_text","hidden_size":1152,"intermediate_size":6912)"
     R"(,"num_hidden_layers":26,"num_attention_heads":4,"num_key_value_heads":1,"head_dim":256)"
     R"(,"sliding_window":512,"sliding_window_pattern":6,"vocab_size":262144})"},
    {"Gemma 3 4B, its text", 3880263168,
     R"({"model_type":"gemma3","vision_config":{},"text_config":{"model_type":"gemma3_text")"
     R"(,"hidden_size":2560,"intermediate_size":10240,"num_hidden_layers":34)"
     R"(,"sliding_window":1024}})"},
    {"Phi-3-mini", 3821079552,
     R"({"model_type":"phi3","hidden_size":3072,"intermediate_size":8192,"num_hidden_layers":32)"
     R"(,"num_attention_heads":32,"num_key_value_heads":32,"vocab_size":32064)"
     R"(,"sliding_window":2047})"},
    {"Phi-2", 2779683840,
     R"({"model_type":"phi","hidden_size":2560,"intermediate_size":10240,"num_hidden_layers":32)"
     R"(,"num_attention_heads":32,"num_key_value_heads":32,"vocab_size":51200)"
     R"(,"qk_layernorm":false})"},
    {"Qwen2-0.5B", 494032768,
     R"({"model_type":"qwen2","hidden_size":896,"intermediate_size":4864,"num_hidden_layers":24)"
     R"(,"num_attention_heads":14,"num_key_value_heads":2,"vocab_size":151936)"
     R"(,"tie_word_embeddings":true,"use_sliding_window":false,"sliding_window":32768})"},
    {"Qwen3-0.6B", 596049920,
     R"({"model_type":"qwen3","hidden_size":1024,"intermediate_size":3072,"num_hidden_layers":28)"
     R"(,"num_attention_heads":16,"num_key_value_heads":8,"head_dim":128,"vocab_size":151936)"
     R"(,"tie_word_embeddings":true})"},
    {"Mistral-7B", 7241732096,
     R"({"model_type":"mistral","hidden_size":4096,"intermediate_size":14336)"
     R"(,"num_hidden_layers":32,"num_attention_heads":32,"num_key_value_heads":8)"
     R"(,"vocab_size":32000,"sliding_window":4096})"},
    {"GPT-2", 124439808,
     R"({"model_type":"gpt2","n_embd":768,"n_layer":12,"n_head":12,"n_positions":1024)"
     R"(,"n_ctx":1024,"vocab_size":50257,"summary_use_proj":true})"},
    {"OPT-125M", 125239296,
     R"({"model_type":"opt","hidden_size":768,"ffn_dim":3072,"num_hidden_layers":12)"
     R"(,"num_attention_heads":12,"max_position_embeddings":2048,"word_embed_proj_dim":768)"
     R"(,"vocab_size":50272,"do_layer_norm_before":true,"enable_bias":true})"},
    {"OPT-350M", 331196416,
     R"({"model_type":"opt","hidden_size":1024,"ffn_dim":4096,"num_hidden_layers":24)"
     R"(,"num_attention_heads":16,"max_position_embeddings":2048,"word_embed_proj_dim":512)"
     R"(,"vocab_size":50272,"do_layer_norm_before":false})"},
    {"Pythia-410M", 405334016,
     R"({"model_type":"gpt_neox","hidden_size":1024,"intermediate_size":4096)"
     R"(,"num_hidden_layers":24,"num_attention_heads":16,"vocab_size":50304)"
     R"(,"use_parallel_residual":true})"},
    {"GPT-J-6B", 6050882784,
     R"({"model_type":"gptj","n_embd":4096,"n_layer":28,"n_head":16,"n_positions":2048)"
     R"(,"rotary_dim":64,"vocab_size":50400})"},
    {"BLOOM-7B1", 7069016064,
     R"({"model_type":"bloom","hidden_size":4096,"n_layer":30,"num_attention_heads":32)"
     R"(,"vocab_size":250880,"offset_alibi":100})"},
    {"Falcon-40B", 41303293952,
     R"({"model_type":"falcon","hidden_size":8192,"num_hidden_layers":60)"
     R"(,"num_attention_heads":128,"num_kv_heads":8,"new_decoder_architecture":true)"
     R"(,"multi_query":true,"parallel_attn":true,"bias":false,"vocab_size":65024})"},
    {"StarCoderBase-1B", 1137207296,
     R"({"model_type":"gpt_bigcode","n_embd":2048,"n_layer":24,"n_head":16,"n_inner":8192)"
     R"(,"n_positions":8192,"multi_query":true,"vocab_size":49152})"},
    {"StarCoder2-3B", 3030371328,
     R"({"model_type":"starcoder2","hidden_size":3072,"intermediate_size":12288)"
     R"(,"num_hidden_layers":30,"num_attention_heads":24,"num_key_value_heads":2,"use_bias":true)"
     R"(,"vocab_size":49152})"},
    {"MPT-7B", 6649286656,
     R"({"model_type":"mpt","d_model":4096,"n_layers":32,"n_heads":32,"expansion_ratio":4)"
     R"(,"max_seq_len":2048,"no_bias":true,"vocab_size":50432,"attn_config":{"alibi":true}})"},
    {"Mamba-130M", 129135360,
     R"({"model_type":"mamba","hidden_size":768,"num_hidden_layers":24,"state_size":16,"expand":2)"
     R"(,"conv_kernel":4,"intermediate_size":1536,"time_step_rank":48,"use_bias":false)"
     R"(,"use_conv_bias":true,"vocab_size":50280})"},
    {"Mamba-Codestral-7B", 7285403648,
     R"({"model_type":"mamba2","hidden_size":4096,"num_hidden_layers":64,"num_heads":128)"
     R"(,"head_dim":64,"n_groups":8,"state_size":128,"expand":2,"conv_kernel":4)"
     R"(,"vocab_size":32768,"tie_word_embeddings":false})"},
    {"Jamba-v0.1", 51570323328,
     R"({"model_type":"jamba","hidden_size":4096,"intermediate_size":14336,"num_hidden_layers":32)"
     R"(,"num_attention_heads":32,"num_key_value_heads":8,"attn_layer_offset":4)"
     R"(,"attn_layer_period":8,"expert_layer_offset":1,"expert_layer_period":2,"num_experts":16)"
     R"(,"num_experts_per_tok":2,"mamba_d_state":16,"mamba_d_conv":4,"mamba_expand":2)"
     R"(,"mamba_dt_rank":256,"mamba_conv_bias":true,"mamba_proj_bias":false,"vocab_size":65536})"},
    {"Falcon-H1-0.5B", 521411104,
     R"({"model_type":"falcon_h1","hidden_size":1024,"intermediate_size":2048)"
     R"(,"num_hidden_layers":36,"num_attention_heads":8,"num_key_value_heads":2,"head_dim":64)"
     R"(,"mamba_d_ssm":1536,"mamba_n_heads":24,"mamba_d_head":64,"mamba_n_groups":1)"
     R"(,"mamba_d_state":128,"mamba_d_conv":4,"mamba_expand":2,"mamba_rms_norm":false)"
     R"(,"mamba_conv_bias":true,"mamba_proj_bias":false,"projectors_bias":false)"
     R"(,"attention_bias":false,"mlp_bias":false,"vocab_size":32784,"tie_word_embeddings":false})"},
    {"Bamba-9B", 9780235392,
     R"({"model_type":"bamba","hidden_size":4096,"intermediate_size":14336,"num_hidden_layers":32)"
     R"(,"num_attention_heads":32,"num_key_value_heads":8,"attn_layer_indices":[9,18,27])"
     R"(,"mamba_n_heads":128,"mamba_d_head":64,"mamba_n_groups":1,"mamba_d_state":128)"
     R"(,"mamba_d_conv":4,"mamba_expand":2,"mamba_conv_bias":true,"mamba_proj_bias":false)"
     R"(,"vocab_size":128256})"},
    {"Nemotron-H-8B", 8100852736,
     R"({"model_type":"nemotron_h","hidden_size":4096,"intermediate_size":21504)"
     R"(,"num_hidden_layers":52,"num_attention_heads":32,"num_key_value_heads":8)"
     R"(,"attention_head_dim":128,"head_dim":128,"mamba_num_heads":128,"mamba_head_dim":64)"
     R"(,"n_groups":8,"ssm_state_size":128,"conv_kernel":4,"expand":2,"use_bias":false)"
     R"(,"use_conv_bias":true)"
     R"(,"hybrid_override_pattern":"M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M-")"
     R"(,"vocab_size":131072})"},
    {"Qwen3-Next-80B-A3B", 79674391296,
     R"({"model_type":"qwen3_next","hidden_size":2048,"intermediate_size":5120)"
     R"(,"moe_intermediate_size":512,"shared_expert_intermediate_size":512)"
     R"(,"num_hidden_layers":48,"num_attention_heads":16,"num_key_value_heads":2,"head_dim":256)"
     R"(,"full_attention_interval":4,"linear_conv_kernel_dim":4,"linear_key_head_dim":128)"
     R"(,"linear_num_key_heads":16,"linear_num_value_heads":32,"linear_value_head_dim":128)"
     R"(,"num_experts":512,"num_experts_per_tok":10,"decoder_sparse_step":1,"mlp_only_layers":[])"
     R"(,"vocab_size":151936})"},
    {"LFM2-1.2B", 1170340608,
     R"({"model_type":"lfm2","hidden_size":2048,"block_dim":2048,"block_ff_dim":12288)"
     R"(,"block_auto_adjust_ff_dim":true,"block_ffn_dim_multiplier":1.0,"block_multiple_of":256)"
     R"(,"block_mlp_init_scale":1.0,"block_use_swiglu":true,"conv_L_cache":3,"conv_bias":false)"
     R"(,"conv_dim":2048,"conv_dim_out":2048,"conv_use_xavier_init":true)"
     R"(,"full_attn_idxs":[2,5,8,10,12,14],"num_attention_heads":32,"num_heads":32)"
     R"(,"num_hidden_layers":16,"num_key_value_heads":8,"vocab_size":65536,"use_pos_enc":true)"
     R"(,"tie_embedding":true})"},
    {"LFM2-350M", 354483968,
     R"({"model_type":"lfm2","hidden_size":1024,"block_ff_dim":6656,"block_multiple_of":256)"
     R"(,"num_attention_heads":16,"num_hidden_layers":16,"num_key_value_heads":8,"vocab_size":65536)"
     R"(,"layer_types":["conv","conv","full_attention","conv","conv","full_attention","conv","conv")"
     R"(,"full_attention","conv","full_attention","conv","full_attention","conv","full_attention","conv"]})"},
    {"T5 small", 60506624,
     R"({"model_type":"t5","d_model":512,"d_kv":64,"d_ff":2048,"num_layers":6,"num_heads":8)"
     R"(,"n_positions":512,"relative_attention_num_buckets":32,"vocab_size":32128)"
     R"(,"is_encoder_decoder":true,"layer_norm_epsilon":1e-06,"output_past":true})"},
    {"Flan-T5 base", 247577856,
     R"({"model_type":"t5","d_model":768,"d_kv":64,"d_ff":2048,"num_layers":12,"num_decoder_layers":12)"
     R"(,"num_heads":12,"feed_forward_proj":"gated-gelu","is_gated_act":true,"dense_act_fn":"gelu_new")"
     R"(,"relative_attention_max_distance":128,"relative_attention_num_buckets":32,"vocab_size":32128)"
     R"(,"tie_word_embeddings":false,"n_positions":512})"},
    {"Zamba2-1.2B", 1215064704,
     R"({"model_type":"zamba2","hidden_size":2048,"intermediate_size":8192,"num_hidden_layers":38)"
     R"(,"num_attention_heads":32,"num_key_value_heads":32,"attention_head_dim":128)"
     R"(,"attention_hidden_size":4096,"ffn_hidden_size":8192,"kv_channels":64,"num_query_groups":32)"
     R"(,"mamba_d_state":128,"mamba_d_conv":4,"mamba_expand":2,"mamba_ngroups":1,"n_mamba_heads":64)"
     R"(,"mamba_headdim":64,"num_mem_blocks":1,"use_shared_attention_adapter":true)"
     R"(,"use_shared_mlp_adapter":true,"adapter_rank":128,"add_bias_linear":false,"vocab_size":32000)"
     R"(,"hybrid_layer_ids":[5,11,17,23,29,35])"
     R"(,"layers_block_type":["mamba","mamba","mamba","mamba","mamba","hybrid","mamba","mamba","mamba")"
     R"(,"mamba","mamba","hybrid","mamba","mamba","mamba","mamba","mamba","hybrid","mamba","mamba","mamba")"
     R"(,"mamba","mamba","hybrid","mamba","mamba","mamba","mamba","mamba","hybrid","mamba","mamba","mamba")"
     R"(,"mamba","mamba","hybrid","mamba","mamba"]})"},
    {"GPT-Neo-125M", 125198592,
     R"({"model_type":"gpt_neo","hidden_size":768,"intermediate_size":null,"num_layers":12,"num_heads":12)"
     R"(,"max_position_embeddings":2048,"attention_types":[[["global","local"],6]],"window_size":256)"
     R"(,"attention_layers":["global","local","global","local","global","local","global","local","global")"
     R"(,"local","global","local"],"vocab_size":50257,"embed_dropout":0,"resid_dropout":0})"},
    {"CodeGen-350M", 356712448,
     R"({"model_type":"codegen","n_embd":1024,"n_layer":20,"n_head":16,"n_ctx":2048,"n_positions":2048)"
     R"(,"n_inner":null,"rotary_dim":32,"vocab_size":51200,"tie_word_embeddings":false})"},
    {"EXAONE-3.5-2.4B", 2405327360,
     R"({"model_type":"exaone","hidden_size":2560,"intermediate_size":7168,"num_layers":30,"head_dim":80)"
     R"(,"num_attention_heads":32,"num_key_value_heads":8,"vocab_size":102400,"tie_word_embeddings":true})"},
    {"Baichuan2-7B", 7505973248,
     R"({"model_type":"baichuan","hidden_size":4096,"intermediate_size":11008,"num_hidden_layers":32)"
     R"(,"num_attention_heads":32,"vocab_size":125696,"tie_word_embeddings":false})"},
    {"ChatGLM3-6B", 6243584000,
     R"({"model_type":"chatglm","hidden_size":4096,"ffn_hidden_size":13696,"num_layers":28)"
     R"(,"num_attention_heads":32,"kv_channels":128,"multi_query_attention":true)"
     R"(,"multi_query_group_num":2,"padded_vocab_size":65024,"add_qkv_bias":true,"add_bias_linear":false)"
     R"(,"seq_length":8192,"bias_dropout_fusion":true,"apply_query_key_layer_scaling":true})"},
    {"Qwen-7B", 7721324544,
     R"({"model_type":"qwen","hidden_size":4096,"intermediate_size":22016,"num_hidden_layers":32)"
     R"(,"num_attention_heads":32,"kv_channels":128,"no_bias":true,"seq_length":8192)"
     R"(,"emb_dropout_prob":0.0,"vocab_size":151936,"tie_word_embeddings":false})"},
    {"DeepSeek-MoE-16B", 16375728128,
     R"({"model_type":"deepseek","hidden_size":2048,"intermediate_size":10944,"moe_intermediate_size":1408)"
     R"(,"num_hidden_layers":28,"num_attention_heads":16,"num_key_value_heads":16,"n_routed_experts":64)"
     R"(,"n_shared_experts":2,"num_experts_per_tok":6,"first_k_dense_replace":1,"moe_layer_freq":1)"
     R"(,"vocab_size":102400})"},
    {"OLMoE-1B-7B", 6919161856,
     R"({"model_type":"olmoe","hidden_size":2048,"intermediate_size":1024,"num_hidden_layers":16)"
     R"(,"num_attention_heads":16,"num_key_value_heads":16,"num_experts":64)"
     R"(,"num_experts_per_tok":8,"vocab_size":50304})"},
};

TEST_F(MemoryPlan, CountsEveryFamilyByItsOwnShapes) {
  for (const PublishedModel& model : kPublished) {
    SCOPED_TRACE(model.name);
    const ModelSize size = measure(model.config);
    EXPECT_EQ(size.parameters(), model.parameters);
    EXPECT_EQ(size.not_understood, std::vector<std::string>{});
  }
}

ModelSize::CachedLayers cached(const ModelSize& size, int64_t window) {
  for (const ModelSize::CachedLayers& layers : size.cached_layers)
    if (layers.window == window) return layers;
  return {};
}

TEST_F(MemoryPlan, CachesWhatEachLayerKeeps) {
  const auto find = [&](std::string_view name) {
    for (const PublishedModel& model : kPublished)
      if (name == model.name) return measure(model.config);
    ADD_FAILURE() << name;
    return ModelSize{};
  };
  const ModelSize gemma = find("Gemma 2 9B");  // every other layer sees 4096 tokens
  EXPECT_EQ(cached(gemma, 0).layers, 21);
  EXPECT_EQ(cached(gemma, 4096).layers, 21);
  EXPECT_EQ(gemma.kv_cache_bytes(8192, 2), 2u * 21 * (2 * 8 * 256) * (4096 + 8192));
  const ModelSize gemma3 = find("Gemma 3 1B");  // each sixth layer sees all
  EXPECT_EQ(cached(gemma3, 0).layers, 4);
  EXPECT_EQ(cached(gemma3, 512).layers, 22);
  const ModelSize deepseek = find("DeepSeek-V3 without its drafting layer");
  EXPECT_EQ(deepseek.kv_cache_bytes(1, 2), 2u * 61 * (512 + 64));
  EXPECT_EQ(find("StarCoderBase-1B").kv_cache_bytes(1, 2), 2u * 24 * 2 * 128);
  EXPECT_EQ(cached(find("Mistral-7B"), 4096).layers, 32);
  EXPECT_EQ(cached(find("Qwen2-0.5B"), 0).layers, 24);  // use_sliding_window is off
  const ModelSize nemotron = find("Nemotron-H-8B");
  EXPECT_EQ(cached(nemotron, 0).layers, 4);
  EXPECT_EQ(nemotron.state_values, 24 * ((8192 + 2 * 8 * 128) * 4 + 8192 * 128));
  EXPECT_EQ(nemotron.kv_cache_bytes(100, 2) - nemotron.kv_cache_bytes(0, 2), 100u * 2 * 4 * 2 * 8 * 128);
  EXPECT_EQ(find("Jamba-v0.1").cached_layers.front().layers, 4);
  EXPECT_TRUE(find("Mamba-130M").cached_layers.empty());
  EXPECT_EQ(find("Qwen3-Next-80B-A3B").cached_layers.front().layers, 12);
  EXPECT_EQ(cached(find("LFM2-1.2B"), 0).layers, 6);
  EXPECT_EQ(find("LFM2-1.2B").state_values, 10 * 3 * 2048);
  EXPECT_EQ(cached(find("Zamba2-1.2B"), 0).layers, 6);
  EXPECT_EQ(cached(find("Zamba2-1.2B"), 0).values, 2 * 32 * 128);
  EXPECT_EQ(cached(find("GPT-Neo-125M"), 256).layers, 6);
  EXPECT_EQ(cached(find("ChatGLM3-6B"), 0).values, 2 * 2 * 128);
  // The decoder's own and those of the input.
  EXPECT_EQ(find("T5 small").kv_cache_bytes(1, 2), 2u * 6 * 2 * 2 * 512);
}

// Published as 6.87 and 4.46 thousand millions without the parts that see and hear.
TEST_F(MemoryPlan, Gemma3nSharesKeysAndValues) {
  const auto text = [&](int layers, int width) {
    return measure(fmt::format(
        R"({{"model_type":"gemma3n","vision_config":{{}},"audio_config":{{}},"text_config":{{"model_type":"gemma3n_text",)"
        R"("num_hidden_layers":{},"num_kv_shared_layers":{},"intermediate_size":[{}],"altup_coef_clip":120.0,)"
        R"("activation_sparsity_pattern":[{}]}}}})",
        layers, layers == 35 ? 15 : 10, fmt::join(std::vector<int>(static_cast<size_t>(layers), width), ","),
        fmt::join(std::vector<double>(static_cast<size_t>(layers), 0.95), ",")));
  };
  const ModelSize large = text(35, 16384), small = text(30, 8192);
  EXPECT_NEAR(static_cast<double>(large.parameters()), 6.87e9, 0.005e9);
  EXPECT_NEAR(static_cast<double>(small.parameters()), 4.46e9, 0.005e9);
  EXPECT_EQ(large.not_understood, std::vector<std::string>{});
  EXPECT_EQ(large.left_out.size(), 2u);
  // Twenty layers of their own, each fifth of them sees all.
  EXPECT_EQ(cached(large, 0).layers, 4);
  EXPECT_EQ(cached(large, 512).layers, 16);
  EXPECT_EQ(cached(large, 512).values, 2 * 2 * 256);
}

// A whole layer; one without attention; one with a matrix in place of its attention and of its feed-forward
// part; a narrow one with a window.
TEST_F(MemoryPlan, BlockConfigsSayWhatEachLayerHas) {
  const ModelSize size = measure(
      R"({"model_type":"nemotron-nas","hidden_size":768,"intermediate_size":null,"num_hidden_layers":4,)"
      R"("num_attention_heads":8,"num_key_value_heads":null,"vocab_size":1000,"block_configs":[)"
      R"({"attention":{"n_heads_in_group":4,"no_op":false,"replace_with_linear":false,"window_length":null},"ffn":{"ffn_mult":1.5}},)"
      R"({"attention":{"n_heads_in_group":null,"no_op":true},"ffn":{"ffn_mult":0.5,"no_op":false}},)"
      R"({"attention":{"n_heads_in_group":null,"replace_with_linear":true},"ffn":{"ffn_mult":null,"replace_with_linear":true}},)"
      R"({"attention":{"n_heads_in_group":8,"window_length":64},"ffn":{"ffn_mult":null,"no_op":true}}]})");
  const int64_t h = 768, head = 96;
  const int64_t first = 2 * h * h + 2 * h * 2 * head + 3 * h * 768 + 2 * h, second = 3 * h * 256 + h,
                third = 2 * h * h + 2 * h, fourth = 2 * h * h + 2 * h * head + h;
  EXPECT_EQ(size.parameters(), first + second + third + fourth + h + 2 * 1000 * h);
  EXPECT_EQ(size.not_understood, std::vector<std::string>{});
  EXPECT_EQ(cached(size, 0).layers, 1);
  EXPECT_EQ(cached(size, 0).values, 2 * 2 * head);
  EXPECT_EQ(cached(size, 64).values, 2 * head);
  EXPECT_NFLOAT_ERROR(
      measure(
          R"({"model_type":"nemotron-nas","hidden_size":768,"num_hidden_layers":2,"num_attention_heads":8,"vocab_size":9,)"
          R"("block_configs":[{}]})"),
      ErrorCode::kMalformedFile, "describes 1 layers, expected 2");
}

constexpr char kSmall[] =
    R"("hidden_size":64,"intermediate_size":96,"num_hidden_layers":2,"num_attention_heads":4,"vocab_size":100)";

TEST_F(MemoryPlan, SaysWhatItDoesNotUnderstand) {
  const auto doubts = [&](const std::string& more) {
    return measure(fmt::format("{{{},{}}}", kSmall, more)).not_understood;
  };
  using Keys = std::vector<std::string>;
  EXPECT_EQ(doubts(R"("model_type":"llama")"), Keys{});
  EXPECT_EQ(doubts(R"("model_type":"no_such_family")"), Keys{"model_type 'no_such_family'"});
  EXPECT_EQ(doubts(R"("model_type":"llama","block_configs":[{"ffn":{"ffn_mult":2.5}}])"),
            Keys{"block_configs"});
  EXPECT_EQ(doubts(R"("model_type":"llama","num_kv_shared_layers":1)"), Keys{"num_kv_shared_layers"});
  EXPECT_EQ(doubts(R"("model_type":"qwen2","hidden_size_per_layer_input":256)"),
            Keys{"hidden_size_per_layer_input"});
  // Keys of other families.
  EXPECT_EQ(doubts(R"("model_type":"llama","hybrid_override_pattern":"M*")"),
            Keys{"hybrid_override_pattern"});
  EXPECT_EQ(doubts(R"("model_type":"mixtral","num_local_experts":4,"expert_layer_period":2)"),
            Keys{"expert_layer_period"});
  // Off, or without a shape.
  EXPECT_EQ(
      doubts(
          R"("model_type":"llama","num_experts_per_tok":2,"mlp_only_layers":[],"moe_intermediate_size":0)"),
      Keys{});
  EXPECT_EQ(
      doubts(R"("model_type":"llama","head_dim":null,"rope_scaling":{"factor":2.0},"initializer_range":0.1)"),
      Keys{});
}

TEST_F(MemoryPlan, DefaultsFillWhatIsAbsentAndNotNull) {
  const auto measured = [&](const std::string& more) {
    return measure(fmt::format("{{{},{}}}", kSmall, more));
  };
  EXPECT_EQ(measured(R"("model_type":"mistral")").cached_layers.front().window, 4096);
  EXPECT_EQ(measured(R"("model_type":"mistral","sliding_window":null)").cached_layers.front().window, 0);
  EXPECT_TRUE(measured(R"("model_type":"smollm3")").tied_head);
  EXPECT_FALSE(measured(R"("model_type":"smollm3","tie_word_embeddings":false)").tied_head);
  EXPECT_FALSE(measured(R"("model_type":"llama")").tied_head);
  // Biases of all four projections, of three.
  const int64_t plain = measured(R"("model_type":"llama")").parameters();
  EXPECT_EQ(measured(R"("model_type":"llama","attention_bias":true)").parameters(), plain + 2 * 4 * 64);
  EXPECT_EQ(measured(R"("model_type":"llama","mlp_bias":true)").parameters(), plain + 2 * (96 + 96 + 64));
  EXPECT_EQ(measured(R"("model_type":"qwen2")").parameters(), plain + 2 * 3 * 64);
}

TEST_F(MemoryPlan, TheEmbeddedModelCountsTheSameFromConfigAndFiles) {
  const std::string folder = testing::source_path("/models/nfloat-tiny");
  const ModelSize from_files = measure_model(folder), from_config = measure_model(folder + "/config.json");
  EXPECT_EQ(from_files.parameters(), 5770496);
  EXPECT_EQ(from_config.parameters(), 5770496);
  EXPECT_EQ(from_files.linear_parameters, from_config.linear_parameters);
}

TEST_F(MemoryPlan, PlansWhatOthersQuantizedFromItsConfiguration) {
  const auto config = [&](const std::string& method) {
    return fmt::format(R"({{{},"model_type":"llama","quantization_config":{{"quant_method":"{}"}}}})", kSmall,
                       method);
  };
  testing::write_file(path("model.safetensors"), "codes and scales that are not read");
  testing::write_file(path("config.json"), config("fp8"));
  const ModelSize size = measure_model(path(""));
  EXPECT_FALSE(size.counted_in_files);
  EXPECT_EQ(size.parameters(), 2 * (4 * 64 * 64 + 3 * 64 * 96 + 2 * 64) + 64 + 2 * 100 * 64);
}

TEST_F(MemoryPlan, SaysWhatFits) {
  const ModelSize model = measure_model(testing::source_path("/models/nfloat-tiny/config.json"));
  const auto rows = plan_memory(model, 15'000'000, 256);
  ASSERT_GE(rows.size(), 5u);
  EXPECT_GT(rows.front().peak_bytes(), 15'000'000u);
  EXPECT_EQ(rows.front().largest_context, 0);
  EXPECT_LT(rows.back().peak_bytes(), 15'000'000u);
  EXPECT_EQ(rows.back().largest_context, 512);
  for (size_t i = 1; i < rows.size(); ++i) EXPECT_LE(rows[i].weight_bytes, rows[i - 1].weight_bytes);
  for (const int64_t none : {int64_t{0}, int64_t{-1}, INT64_MIN, (int64_t{1} << 40) + 1, INT64_MAX})
    EXPECT_THROW(plan_memory(model, 0, none), Error) << none;
}

TEST_F(MemoryPlan, RefusesWhatItCannotKnow) {
  const auto check = [&](const std::string& config, ErrorCode code, const std::string& said) {
    EXPECT_NFLOAT_ERROR(measure(config), code, said);
  };
  check("[]", ErrorCode::kMalformedFile, "not a JSON object");
  check("{}", ErrorCode::kUnsupported, "no 'num_hidden_layers'");
  check(R"({"num_hidden_layers":-1})", ErrorCode::kMalformedFile, "expected a size");
  check(R"({"num_hidden_layers":1,"hidden_size":8,"num_attention_heads":0,"vocab_size":9})",
        ErrorCode::kMalformedFile, "zero");
  check(R"({"num_hidden_layers":4294967296,"hidden_size":4294967296,"num_attention_heads":1,"vocab_size":9})",
        ErrorCode::kMalformedFile, "10^17");
  check(R"({"num_hidden_layers":1,"hidden_size":8,"num_attention_heads":1,"vocab_size":9,"kv_lora_rank":4})",
        ErrorCode::kUnsupported, "qk_rope_head_dim");
  check(
      R"({"model_type":"nemotron_h","num_hidden_layers":2,"hidden_size":8,"num_attention_heads":1,"vocab_size":9,)"
      R"("hybrid_override_pattern":"MX"})",
      ErrorCode::kUnsupported, "'X'");
  check(
      R"({"model_type":"nemotron_h","num_hidden_layers":3,"hidden_size":8,"num_attention_heads":1,"vocab_size":9,)"
      R"("hybrid_override_pattern":"MX"})",
      ErrorCode::kMalformedFile, "describes 2 layers, expected 3");
  check(
      R"({"model_type":"llama","num_hidden_layers":1,"hidden_size":8,"intermediate_size":8,"num_attention_heads":1,"vocab_size":9,)"
      R"("layer_types":["linear_attention"]})",
      ErrorCode::kUnsupported, "linear_attention");
  check(R"({"model_type":"olmo3","num_hidden_layers":1,"hidden_size":8,"intermediate_size":8,"vocab_size":9,)"
        R"("num_attention_heads":4294967296,"num_key_value_heads":4294967296,"head_dim":4294967296})",
        ErrorCode::kMalformedFile, "10^17");
  EXPECT_NFLOAT_ERROR(measure_model(path("absent")), ErrorCode::kNotFound, "absent");
}

}  // namespace
}  // namespace nfloat
