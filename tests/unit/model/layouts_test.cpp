// SPDX-License-Identifier: Apache-2.0
// Every family in the layout of its own checkpoints, against the plain forward pass in double precision.
#include <gtest/gtest.h>

#include "nfloat/convert.h"
#include "nfloat/error.h"
#include "random_model.h"
#include "rank_models.h"
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

struct Chosen {
  size_t expert;
  double share;
};

// Softmax over all experts, the largest `chosen`, weights summing to one if `normalize`.
std::vector<Chosen> choose(const Vector& logits, size_t chosen, bool normalize) {
  std::vector<size_t> order(logits.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) { return logits[a] > logits[b]; });
  double all = 0, best = 0;
  for (double logit : logits) all += std::exp(logit);
  for (size_t i = 0; i < chosen; ++i) best += std::exp(logits[order[i]]);
  std::vector<Chosen> list;
  for (size_t i = 0; i < chosen; ++i)
    list.push_back({order[i], std::exp(logits[order[i]]) / (normalize ? best : all)});
  return list;
}

// Experts one by one: names of a layer's block, and of gate, up and down.
Options mixture(Options o, const std::string& block, const char* gate, const char* up, const char* down,
                size_t chosen, bool normalize) {
  o.mixture = [=](const Weights& weights, int layer, const Vector& x) {
    const std::string prefix = at_layer(block, layer);
    const Vector& router = weights.at(prefix + "gate.weight");
    Vector sum(x.size(), 0.0);
    for (const Chosen& one :
         choose(reference::multiply(router, 0, router.size() / x.size(), x), chosen, normalize)) {
      const auto matrix = [&](const char* name) -> const Vector& {
        return weights.at(prefix + "experts." + std::to_string(one.expert) + "." + name + ".weight");
      };
      const size_t width = matrix(up).size() / x.size();
      Vector inner = reference::multiply(matrix(gate), 0, width, x);
      const Vector other = reference::multiply(matrix(up), 0, width, x);
      for (size_t i = 0; i < width; ++i) inner[i] = o.activation(inner[i]) * other[i];
      const Vector output = reference::multiply(matrix(down), 0, x.size(), inner);
      for (size_t i = 0; i < x.size(); ++i) sum[i] += one.share * output[i];
    }
    return sum;
  };
  return o;
}

Options mixtral() {
  Options o = llama_like(48, 6, 2, 8, 1e6);
  o.epsilon = 1e-5;
  return mixture(o, "model.layers.%d.block_sparse_moe.", "w1", "w3", "w2", 2, true);
}

// The same weights, all experts of a layer in one tensor.
Options mixtral_fused() {
  Options o = mixtral();
  o.mixture = [](const Weights& weights, int layer, const Vector& x) {
    const std::string prefix = at_layer("model.layers.%d.block_sparse_moe.", layer);
    Vector sum(x.size(), 0.0);
    for (const Chosen& one :
         choose(reference::multiply(weights.at(prefix + "gate.weight"), 0, 4, x), 2, true)) {
      const size_t width = 40;
      const Vector both = reference::multiply(weights.at(prefix + "experts.gate_up_proj"),
                                              one.expert * 2 * width * x.size(), 2 * width, x);
      Vector inner(width);
      for (size_t i = 0; i < width; ++i) inner[i] = both[i] / (1 + std::exp(-both[i])) * both[width + i];
      const Vector output = reference::multiply(weights.at(prefix + "experts.down_proj"),
                                                one.expert * width * x.size(), x.size(), inner);
      for (size_t i = 0; i < x.size(); ++i) sum[i] += one.share * output[i];
    }
    return sum;
  };
  return o;
}

Options qwen3_moe() {
  Options o = llama_like(40, 4, 2, 16, 1e6);
  o.layers = 4;
  add_query_norms(o);
  o.is_mixture = [](int layer) { return layer == 3; };  // every second, but not the second
  return mixture(o, "model.layers.%d.mlp.", "gate_proj", "up_proj", "down_proj", 3, true);
}

Options olmoe() {
  Options o = llama_like(48, 6, 2, 8, 1e4);
  o.epsilon = 1e-5;
  o.whole_qk_norm = true;
  add_query_norms(o);
  return mixture(o, "model.layers.%d.mlp.", "gate_proj", "up_proj", "down_proj", 3, false);
}

// One row of an expert's matrix: plain ones are [experts, in, out], those in MXFP4 [experts, out, in].
double gpt_oss_weight(const Weights& weights, const std::string& name, size_t expert, size_t out, size_t in,
                      size_t outputs, size_t inputs) {
  if (const auto plain = weights.find(name); plain != weights.end())
    return plain->second[(expert * inputs + in) * outputs + out];
  const double levels[] = {0, 0.5, 1, 1.5, 2, 3, 4, 6};
  const size_t element = (expert * outputs + out) * inputs + in;
  const int pair = static_cast<int>(weights.at(name + "_blocks")[element / 2]);
  const int code = element % 2 == 0 ? pair % 16 : pair / 16;
  const double magnitude = levels[code % 8] * std::pow(2.0, weights.at(name + "_scales")[element / 32] - 127);
  return code >= 8 ? -magnitude : magnitude;
}

Options gpt_oss() {
  Options o = llama_like(64, 4, 2, 16, 150000);
  o.epsilon = 1e-5;
  o.sinks = "model.layers.%d.self_attn.sinks";
  o.window = [](int layer) { return layer % 2 == 0 ? 19 : 0; };
  o.rope_magnitude = 0.1 * std::log(32.0) + 1;
  o.frequencies = [](int) {
    // YaRN (arXiv:2309.00071) without whole-number borders, trained context 4096.
    Vector list = reference::plain_frequencies(150000, 16);
    const auto border = [](double turns) {
      return 16 * std::log(4096 / (turns * 2 * std::acos(-1.0))) / (2 * std::log(150000.0));
    };
    for (size_t i = 0; i < list.size(); ++i) {
      const double ramp = (static_cast<double>(i) - border(32)) / (border(1) - border(32));
      const double divided = std::min(1.0, std::max(0.0, ramp));
      list[i] = list[i] * (1 - divided) + list[i] / 32 * divided;
    }
    return list;
  };
  o.mixture = [](const Weights& weights, int layer, const Vector& x) {
    const std::string prefix = at_layer("model.layers.%d.mlp.", layer);
    const size_t width = 32, hidden = x.size();
    Vector logits = reference::multiply(weights.at(prefix + "router.weight"), 0, 4, x);
    for (size_t e = 0; e < 4; ++e) logits[e] += weights.at(prefix + "router.bias")[e];
    Vector sum(hidden, 0.0);
    for (const Chosen& one : choose(logits, 2, true)) {
      const auto row = [&](const char* matrix, size_t out, size_t outputs, const Vector& input) {
        const std::string name = prefix + "experts." + matrix;
        double total = weights.at(name + "_bias")[one.expert * outputs + out];
        for (size_t i = 0; i < input.size(); ++i)
          total += gpt_oss_weight(weights, name, one.expert, out, i, outputs, input.size()) * input[i];
        return total;
      };
      Vector inner(width);
      for (size_t i = 0; i < width; ++i) {
        const double gate = std::min(row("gate_up_proj", 2 * i, 2 * width, x), 1.5);
        const double up = std::max(-1.5, std::min(row("gate_up_proj", 2 * i + 1, 2 * width, x), 1.5));
        inner[i] = (up + 1) * gate / (1 + std::exp(-1.702 * gate));
      }
      for (size_t i = 0; i < hidden; ++i) sum[i] += one.share * row("down_proj", i, hidden, inner);
    }
    return sum;
  };
  return o;
}

constexpr const char* kMixtral = R"({"model_type": "mixtral", "hidden_size": 48, "intermediate_size": 40,
  "num_hidden_layers": 2, "num_attention_heads": 6, "num_key_value_heads": 2, "vocab_size": 61,
  "max_position_embeddings": 200, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": null})";
constexpr const char* kGptOss = R"({"model_type": "gpt_oss", "hidden_size": 64, "intermediate_size": 32,
  "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 61,
  "max_position_embeddings": 200, "num_local_experts": 4, "experts_per_token": 2, "sliding_window": 19,
  "layer_types": ["sliding_attention", "full_attention"], "swiglu_limit": 1.5})";

const Layout kLayouts[] = {
    {"Mixtral", kMixtral, mixtral},
    {"MixtralFused", kMixtral, mixtral_fused, ExpertLayout::kFused},
    {"Qwen3Moe", R"({"model_type": "qwen3_moe", "hidden_size": 40, "intermediate_size": 72,
      "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
      "vocab_size": 61, "max_position_embeddings": 200, "rope_theta": 1000000.0, "num_experts": 6,
      "num_experts_per_tok": 3, "moe_intermediate_size": 24, "norm_topk_prob": true, "decoder_sparse_step": 2,
      "mlp_only_layers": [1]})",
     qwen3_moe},
    {"Olmoe", R"({"model_type": "olmoe", "hidden_size": 48, "intermediate_size": 24, "num_hidden_layers": 2,
      "num_attention_heads": 6, "num_key_value_heads": 2, "vocab_size": 61, "max_position_embeddings": 200,
      "num_experts": 7, "num_experts_per_tok": 3, "clip_qkv": null})",
     olmoe},
    {"GptOssMxfp4", kGptOss, gpt_oss, ExpertLayout::kMxfp4},
    {"GptOssPlain", kGptOss, gpt_oss, ExpertLayout::kFused},
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

// Logits of every token, by whatever way they are computed: one way gives the bits of the other.
TEST_P(Layouts, StreamedLayersAndWholeSequencesGiveTheSameBits) {
  const std::vector<int32_t> tokens = random_.tokens(kTokens);
  ModelOptions options;
  options.stream_layers = true;
  const Model resident = Model::load(random_.folder.path());
  const Model streamed = Model::load(random_.folder.path(), options);
  EXPECT_LT(streamed.memory().projection_bytes, resident.memory().projection_bytes);
  for (const Precision precision : {Precision::kF32, Precision::kBF16, Precision::kInt8}) {
    std::vector<std::vector<float>> passes;
    const auto keep = [&](size_t, int64_t, std::span<const float> logits) {
      passes.back().insert(passes.back().end(), logits.begin(), logits.end());
    };
    for (const Model& model : {resident, streamed}) {
      Session session(model, {.precision = precision});
      const BatchEntry entry{&session, tokens};
      passes.emplace_back();
      forward_batch({&entry, 1}, keep);
      const std::span<const int32_t> whole(tokens);
      passes.emplace_back();
      forward_sequences(model, {&whole, 1}, {.precision = precision}, keep);
    }
    ASSERT_EQ(passes[0].size(), kTokens * static_cast<size_t>(random_.config.vocabulary));
    for (size_t i = 1; i < passes.size(); ++i) EXPECT_EQ(passes[i], passes[0]) << i;
  }
}

// What `nfloat quantize` makes of each family loads, and gives what its decoded weights give; routers, heads,
// embeddings and norms stay as they were.
TEST_P(Layouts, Quantized) {
  const std::string& folder = random_.folder.path();
  const testing::OwnFolder outputs;
  const std::string nf4 = outputs.path() + "/nf4", plain = outputs.path() + "/plain";
  QuantizeCheckpointOptions options;
  options.quantize_experts = true;
  options.quantize.double_quantization = true;
  const ConvertResult result = quantize_checkpoint(Checkpoint(folder), nf4, options);
  int64_t quantized = 0;
  for (const TensorPlan& plan : result.plan.tensors) {
    const std::string& name = plan.input.name;
    quantized += plan.quantize;
    for (const char* part :
         {"norm", "ln_", "lm_head", "embed", "wte", "wpe", "router", "moe.gate.", "mlp.gate.", "bias"})
      if (name.find(part) != std::string::npos) {
        EXPECT_FALSE(plan.quantize) << name;
      }
  }
  EXPECT_GT(quantized, 4);
  dequantize_checkpoint(Checkpoint(nf4), plain, DType::kF32);
  ModelOptions once_more;
  once_more.quantize = make_codebook("nf4");
  EXPECT_THROW(Model::load(nf4, once_more), Error) << "nothing is left to quantize";
  EXPECT_NO_THROW(Model::load(plain, once_more));
  const std::vector<int32_t> tokens = random_.tokens(30);
  const auto logits_of = [&](const std::string& path) {
    const Model model = Model::load(path);
    Session session(model, {.kv_cache = KvCacheType::kF32, .precision = Precision::kF32});
    const std::span<const float> logits = session.prefill(tokens);
    return Vector(logits.begin(), logits.end());
  };
  const Vector found = logits_of(nf4), original = logits_of(folder);
  Vector expected = logits_of(plain), lost = expected;
  const double size = root_mean_square(expected);
  for (size_t i = 0; i < found.size(); ++i) expected[i] -= found[i], lost[i] -= original[i];
  EXPECT_LE(root_mean_square(expected), 1e-5 * size);
  EXPECT_GT(root_mean_square(lost), 1e-3 * size) << "nothing was quantized";
}

// Every rank computes its rows, whatever their shares: the bits of one process. Plain weights, and quantized
// ones with scales in 8 bits.
TEST_P(Layouts, RanksGiveTheSameBits) {
  const testing::OwnFolder outputs;
  const std::string nf4 = outputs.path() + "/nf4";
  QuantizeCheckpointOptions options;
  options.quantize_experts = true;
  options.quantize.double_quantization = true;
  quantize_checkpoint(Checkpoint(random_.folder.path()), nf4, options);
  const std::vector<int32_t> tokens = random_.tokens(40);
  for (const std::string& folder : {random_.folder.path(), nf4}) {
    const auto expected = testing::logits_of(folder, tokens, nullptr, {});
    for (const std::vector<double>& shares :
         {std::vector<double>{1}, {1, 1}, {1, 1, 1}, {1, 1, 1, 1}, {3, 1}, {5, 1, 2}}) {
      const auto found = testing::logits_by_ranks(folder, tokens, shares);
      ASSERT_EQ(found.size(), shares.size());
      for (const auto& rank : found)
        EXPECT_TRUE(rank == expected) << folder << ", " << shares.size() << " ranks";
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Every, Layouts, ::testing::ValuesIn(kLayouts),
                         [](const auto& one) { return std::string(one.param.name); });

}  // namespace
}  // namespace nfloat
