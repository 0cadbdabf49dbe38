// SPDX-License-Identifier: Apache-2.0
// Every family in the layout of its own checkpoints, against the plain forward pass in double precision.
#include <gtest/gtest.h>

#include "random_model.h"
#include "reference/transformer.h"

namespace nfloat {
namespace {

using reference::at_layer;
using reference::Options;
using reference::Transformer;
using reference::Vector;
using reference::Weights;
using testing::RandomModel;
using testing::root_mean_square;

struct Layout {
  const char* name;
  const char* config;
  Options (*options)();
  ExpertLayout experts = ExpertLayout::kSingle;
  const char* prefix = "";
};

Options llama_like(int hidden, int heads, int kv_heads, int head_dim, double theta) {
  Options o;
  o.hidden = hidden, o.heads = heads, o.kv_heads = kv_heads, o.head_dim = head_dim;
  o.frequencies = [=](int) { return reference::plain_frequencies(theta, head_dim); };
  return o;
}

void add_query_norms(Options& o) {
  o.q_norm = "model.layers.%d.self_attn.q_norm";
  o.k_norm = "model.layers.%d.self_attn.k_norm";
}

Options qwen2() {
  Options o = llama_like(48, 6, 2, 8, 1e6);
  o.head = "";
  o.window = [](int layer) { return layer >= 1 ? 23 : 0; };
  return o;
}

Options qwen3() {
  Options o = llama_like(40, 4, 2, 16, 1e6);
  add_query_norms(o);
  return o;
}

Options gemma2() {
  Options o = llama_like(48, 4, 2, 16, 1e4);
  o.head = "";
  o.unit_offset = true;
  o.post1 = "model.layers.%d.post_attention_layernorm";
  o.norm2 = "model.layers.%d.pre_feedforward_layernorm";
  o.post2 = "model.layers.%d.post_feedforward_layernorm";
  o.activation = reference::gelu_tanh;
  o.embedding_scale = std::sqrt(48.0);
  o.score_scale = 1 / std::sqrt(24.0);
  o.score_cap = 5;
  o.logit_cap = 3;
  o.window = [](int layer) { return layer % 2 == 0 ? 23 : 0; };
  return o;
}

Options gemma3() {
  Options o = gemma2();
  o.layers = 3;
  o.score_cap = o.logit_cap = 0;
  add_query_norms(o);
  o.window = [](int layer) { return (layer + 1) % 3 != 0 ? 17 : 0; };
  o.frequencies = [](int layer) {
    Vector list = reference::plain_frequencies((layer + 1) % 3 != 0 ? 1e4 : 1e6, 16);
    if ((layer + 1) % 3 == 0)
      for (double& one : list) one /= 8;
    return list;
  };
  return o;
}

constexpr const char* kGemma3 = R"({"model_type": "gemma3_text", "hidden_size": 48, "intermediate_size": 56,
  "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 61,
  "max_position_embeddings": 200, "sliding_window": 17, "sliding_window_pattern": 3,
  "query_pre_attn_scalar": 24, "rope_scaling": {"rope_type": "linear", "factor": 8.0}})";
constexpr const char* kGemma3Nested = R"({"model_type": "gemma3", "architectures":
  ["Gemma3ForConditionalGeneration"], "eos_token_id": [1, 60], "vision_config": {"hidden_size": 8},
  "text_config": {"model_type": "gemma3_text", "hidden_size": 48, "intermediate_size": 56,
  "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 61,
  "max_position_embeddings": 200, "sliding_window": 17, "query_pre_attn_scalar": 24,
  "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
  "rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000000.0},
                      "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0}}}})";

Options phi3() {
  Options o = llama_like(48, 6, 2, 8, 1e4);
  o.qkv = "model.layers.%d.self_attn.qkv_proj";
  o.gate_up = "model.layers.%d.mlp.gate_up_proj";
  o.epsilon = 1e-5;
  o.window = [](int) { return 40; };
  return o;
}

Options phi4_mini() {
  Options o = phi3();
  o.window = [](int) { return 0; };
  // 6 of 8 dimensions turn, each pair with its own divisor; the context of 200 is beyond the trained 64.
  o.frequencies = [](int) {
    Vector list = reference::plain_frequencies(1e4, 6);
    const double divisors[] = {1.5, 3, 7};
    for (size_t i = 0; i < 3; ++i) list[i] /= divisors[i];
    return list;
  };
  o.rope_magnitude = std::sqrt(1 + std::log(200.0 / 64) / std::log(64.0));
  return o;
}

Options granite() {
  Options o = llama_like(48, 6, 2, 8, 1e4);
  o.head = "";
  o.embedding_scale = 12;
  o.residual_scale = 0.22;
  o.score_scale = 0.1;
  o.logit_divisor = 8;
  return o;
}

Options olmo2() {
  Options o = llama_like(48, 6, 2, 8, 5e5);
  o.norm1 = o.norm2 = "";
  o.post1 = "model.layers.%d.post_attention_layernorm";
  o.post2 = "model.layers.%d.post_feedforward_layernorm";
  add_query_norms(o);
  o.whole_qk_norm = true;
  return o;
}

Options smollm3() {
  Options o = llama_like(48, 6, 2, 8, 2e6);
  o.layers = 4;
  o.head = "";
  o.frequencies = [](int layer) { return layer == 3 ? Vector() : reference::plain_frequencies(2e6, 8); };
  return o;
}

Options gpt2() {
  Options o;
  o.hidden = 48, o.heads = o.kv_heads = 6, o.head_dim = 8;
  o.epsilon = 1e-5;
  o.layer_norm = o.conv1d = true;
  o.embedding = "transformer.wte", o.positions = "transformer.wpe", o.final_norm = "transformer.ln_f",
  o.head = "";
  o.norm1 = "transformer.h.%d.ln_1", o.norm2 = "transformer.h.%d.ln_2";
  o.qkv = "transformer.h.%d.attn.c_attn", o.o = "transformer.h.%d.attn.c_proj";
  o.gate = "", o.up = "transformer.h.%d.mlp.c_fc", o.down = "transformer.h.%d.mlp.c_proj";
  o.activation = reference::gelu_tanh;
  return o;
}

Options neox_in_order() {
  Options o;
  o.hidden = 48, o.heads = o.kv_heads = 3, o.head_dim = 16;
  o.epsilon = 1e-5;
  o.layer_norm = o.qkv_by_head = true;
  o.embedding = "gpt_neox.embed_in", o.final_norm = "gpt_neox.final_layer_norm", o.head = "embed_out";
  o.norm1 = "gpt_neox.layers.%d.input_layernorm", o.norm2 = "gpt_neox.layers.%d.post_attention_layernorm";
  o.qkv = "gpt_neox.layers.%d.attention.query_key_value", o.o = "gpt_neox.layers.%d.attention.dense";
  o.gate = "", o.up = "gpt_neox.layers.%d.mlp.dense_h_to_4h", o.down = "gpt_neox.layers.%d.mlp.dense_4h_to_h";
  o.activation = reference::gelu;
  o.frequencies = [](int) { return reference::plain_frequencies(1e4, 4); };
  return o;
}

Options neox() {
  Options o = neox_in_order();
  o.parallel = true;
  return o;
}

Options opt() {
  Options o;
  o.hidden = 48, o.heads = o.kv_heads = 6, o.head_dim = 8;
  o.epsilon = 1e-5;
  o.layer_norm = true;
  const std::string decoder = "model.decoder.", layer = decoder + "layers.%d.";
  o.embedding = decoder + "embed_tokens", o.positions = decoder + "embed_positions", o.position_offset = 2;
  o.final_norm = decoder + "final_layer_norm", o.head = "";
  o.norm1 = layer + "self_attn_layer_norm", o.norm2 = layer + "final_layer_norm";
  o.q = layer + "self_attn.q_proj", o.k = layer + "self_attn.k_proj", o.v = layer + "self_attn.v_proj";
  o.o = layer + "self_attn.out_proj", o.gate = "", o.up = layer + "fc1", o.down = layer + "fc2";
  o.activation = [](double x) { return std::max(x, 0.0); };
  return o;
}

Options opt_350m() {
  Options o = opt();
  o.norm_after_residual = true;
  o.final_norm = "";
  o.project_in = "model.decoder.project_in", o.project_out = "model.decoder.project_out";
  return o;
}

const Layout kLayouts[] = {
    {"Qwen2", R"({"model_type": "qwen2", "hidden_size": 48, "intermediate_size": 72, "num_hidden_layers": 2,
      "num_attention_heads": 6, "num_key_value_heads": 2, "vocab_size": 61, "max_position_embeddings": 200,
      "rope_theta": 1000000.0, "tie_word_embeddings": true, "use_sliding_window": true, "sliding_window": 23,
      "max_window_layers": 1})",
     qwen2},
    {"Qwen3", R"({"model_type": "qwen3", "hidden_size": 40, "intermediate_size": 72, "num_hidden_layers": 2,
      "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 61,
      "max_position_embeddings": 200, "rope_theta": 1000000.0, "use_sliding_window": false,
      "sliding_window": null, "attention_bias": true})",
     qwen3},
    {"Gemma2", R"({"model_type": "gemma2", "hidden_size": 48, "intermediate_size": 56, "num_hidden_layers": 2,
      "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 61,
      "max_position_embeddings": 200, "sliding_window": 23, "query_pre_attn_scalar": 24, "hidden_act": "gelu",
      "hidden_activation": "gelu_pytorch_tanh", "attn_logit_softcapping": 5.0, "final_logit_softcapping": 3.0})",
     gemma2},
    {"Gemma3", kGemma3, gemma3},
    {"Gemma3Nested", kGemma3Nested, gemma3, ExpertLayout::kSingle, "language_model."},
    {"Phi3", R"({"model_type": "phi3", "hidden_size": 48, "intermediate_size": 40, "num_hidden_layers": 2,
      "num_attention_heads": 6, "num_key_value_heads": 2, "vocab_size": 61, "max_position_embeddings": 200,
      "sliding_window": 40})",
     phi3},
    {"Phi4Mini", R"({"model_type": "phi3", "hidden_size": 48, "intermediate_size": 40, "num_hidden_layers": 2,
      "num_attention_heads": 6, "num_key_value_heads": 2, "vocab_size": 61, "max_position_embeddings": 200,
      "original_max_position_embeddings": 64, "partial_rotary_factor": 0.75, "sliding_window": null,
      "rope_scaling": {"type": "longrope", "short_factor": [1, 1.5, 2], "long_factor": [1.5, 3, 7]}})",
     phi4_mini},
    {"Granite",
     R"({"model_type": "granite", "hidden_size": 48, "intermediate_size": 72, "num_hidden_layers": 2,
      "num_attention_heads": 6, "num_key_value_heads": 2, "vocab_size": 61, "max_position_embeddings": 200,
      "embedding_multiplier": 12.0, "residual_multiplier": 0.22, "attention_multiplier": 0.1,
      "logits_scaling": 8.0, "tie_word_embeddings": true})",
     granite},
    {"Olmo2", R"({"model_type": "olmo2", "hidden_size": 48, "intermediate_size": 72, "num_hidden_layers": 2,
      "num_attention_heads": 6, "num_key_value_heads": 2, "vocab_size": 61, "max_position_embeddings": 200,
      "rope_theta": 500000.0, "rms_norm_eps": 1e-6})",
     olmo2},
    {"SmolLM3",
     R"({"model_type": "smollm3", "hidden_size": 48, "intermediate_size": 72, "num_hidden_layers": 4,
      "num_attention_heads": 6, "num_key_value_heads": 2, "vocab_size": 61, "max_position_embeddings": 200,
      "no_rope_layers": [1, 1, 1, 0]})",
     smollm3},
    {"Gpt2", R"({"model_type": "gpt2", "n_embd": 48, "n_layer": 2, "n_head": 6, "n_inner": null,
      "vocab_size": 61, "n_positions": 200, "n_ctx": 200, "activation_function": "gelu_new"})",
     gpt2},
    {"Pythia",
     R"({"model_type": "gpt_neox", "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2,
      "num_attention_heads": 3, "vocab_size": 61, "max_position_embeddings": 200, "rotary_pct": 0.25,
      "rotary_emb_base": 10000})",
     neox},
    {"NeoxInOrder", R"({"model_type": "gpt_neox", "hidden_size": 48, "intermediate_size": 64,
      "num_hidden_layers": 2, "num_attention_heads": 3, "vocab_size": 61, "max_position_embeddings": 200,
      "use_parallel_residual": false})",
     neox_in_order},
    {"Opt", R"({"model_type": "opt", "hidden_size": 48, "ffn_dim": 64, "num_hidden_layers": 2,
      "num_attention_heads": 6, "vocab_size": 61, "max_position_embeddings": 200, "word_embed_proj_dim": 48})",
     opt},
    {"Opt350m", R"({"model_type": "opt", "hidden_size": 48, "ffn_dim": 64, "num_hidden_layers": 2,
      "num_attention_heads": 6, "vocab_size": 61, "max_position_embeddings": 200, "word_embed_proj_dim": 32,
      "do_layer_norm_before": false})",
     opt_350m},
};

class Layouts : public ::testing::TestWithParam<Layout> {
 protected:
  static constexpr size_t kTokens = 150;  // more than one block of attention
  RandomModel random_{GetParam().config, {}, GetParam().experts, GetParam().prefix};

  // Takes the tokens in by pieces of the given sizes (the last repeats); 1e-5 is what the documentation says.
  void expect_reference(const std::vector<size_t>& pieces) {
    const std::vector<int32_t> tokens = random_.tokens(kTokens);
    Transformer reference(GetParam().options(), random_.weights);
    std::vector<Vector> expected;
    for (int32_t token : tokens) expected.push_back(reference.step(token));
    const Model model = Model::load(random_.folder.path());
    Session session(model, {.kv_cache = KvCacheType::kF32, .precision = Precision::kF32});
    for (size_t done = 0, piece = 0; done < tokens.size();) {
      const size_t count = std::min(pieces[std::min(piece++, pieces.size() - 1)], tokens.size() - done);
      const BatchEntry entry{&session, std::span(tokens).subspan(done, count)};
      forward_batch({&entry, 1}, [&](size_t, int64_t index, std::span<const float> logits) {
        Vector difference = expected[done + static_cast<size_t>(index)];
        const double size = root_mean_square(difference);
        ASSERT_EQ(logits.size(), difference.size());
        for (size_t i = 0; i < logits.size(); ++i) difference[i] -= static_cast<double>(logits[i]);
        ASSERT_LE(root_mean_square(difference), 1e-5 * size) << "token " << done + static_cast<size_t>(index);
      });
      if (HasFatalFailure()) return;
      done += count;
    }
  }
};

TEST_P(Layouts, Whole) {
  expect_reference({kTokens});
}
TEST_P(Layouts, InPieces) {
  expect_reference({1, 7, 60, 16, 33});
}
TEST_P(Layouts, TokenByToken) {
  expect_reference({1});
}

INSTANTIATE_TEST_SUITE_P(Every, Layouts, ::testing::ValuesIn(kLayouts),
                         [](const auto& one) { return std::string(one.param.name); });

}  // namespace
}  // namespace nfloat
