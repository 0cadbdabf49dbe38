// SPDX-License-Identifier: Apache-2.0
// Small random models of every family: written to GGUF here and run there.
#include <cmath>
#include <cstdio>
#include <map>
#include <numeric>

#include "llama_cpp.h"
#include "nfloat/bridge.h"
#include "nfloat/model.h"
#include "parity.h"
#include "unit/model/random_model.h"

namespace judge {
namespace {

using namespace nfloat;
using nfloat::testing::RandomModel;

constexpr int kTokens = 64;
// Matrices keep the size of what they multiply, as trained ones do: rounding does not grow from layer to
// layer.
constexpr float kGain = 1;

struct Family {
  const char* name;
  const char* config;
  double tolerance;
  ExpertLayout experts = ExpertLayout::kSingle;
};

// GELU is looked up in a table of halves there. The ends of YaRN's ramp are rounded to whole pairs there, so
// gpt-oss has them at whole pairs. Blocks of 4 bits meet activations rounded to 8 bits there.
constexpr double kExact = 1e-4, kGelu = 1e-3, kBytes = 5e-2;

constexpr Family kFamilies[] = {
    {"llama", R"({"model_type": "llama", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
      "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "vocab_size": 96,
      "max_position_embeddings": 256, "rms_norm_eps": 1e-5})",
     kExact},
    {"llama, biases, tied", R"({"model_type": "llama", "hidden_size": 64, "intermediate_size": 96,
      "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 96, "max_position_embeddings": 256,
      "attention_bias": true, "mlp_bias": true, "tie_word_embeddings": true, "rms_norm_eps": 1e-5})",
     kExact},
    {"llama 3 rope", R"({"model_type": "llama", "hidden_size": 64, "intermediate_size": 96,
      "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 1, "vocab_size": 96,
      "max_position_embeddings": 256, "rope_theta": 500.0, "rope_scaling": {"rope_type": "llama3",
      "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
      "original_max_position_embeddings": 64}})",
     kExact},
    {"llama linear rope", R"({"model_type": "llama", "hidden_size": 64, "intermediate_size": 96,
      "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 96, "max_position_embeddings": 256,
      "rope_scaling": {"rope_type": "linear", "factor": 4.0}})",
     kExact},
    {"llama yarn rope", R"({"model_type": "llama", "hidden_size": 64, "intermediate_size": 96,
      "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 96, "max_position_embeddings": 256,
      "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}})",
     kExact},
    {"llama yarn, own factor", R"({"model_type": "llama", "hidden_size": 64, "intermediate_size": 96,
      "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 96, "max_position_embeddings": 256,
      "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64,
      "attention_factor": 1.3}})",
     kExact},
    {"mistral", R"({"model_type": "mistral", "hidden_size": 64, "intermediate_size": 96,
      "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 96,
      "max_position_embeddings": 256, "sliding_window": null, "rope_theta": 1000000.0})",
     kExact},
    {"mixtral", R"({"model_type": "mixtral", "hidden_size": 64, "intermediate_size": 96,
      "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 96,
      "max_position_embeddings": 256, "num_local_experts": 4, "num_experts_per_tok": 2,
      "sliding_window": null})",
     kExact},
    {"mixtral, fused experts", R"({"model_type": "mixtral", "hidden_size": 64, "intermediate_size": 96,
      "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 96,
      "max_position_embeddings": 256, "num_local_experts": 4, "num_experts_per_tok": 2,
      "sliding_window": null})",
     kExact, ExpertLayout::kFused},
    {"qwen2", R"({"model_type": "qwen2", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
      "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 96, "max_position_embeddings": 256,
      "rope_theta": 1000000.0, "tie_word_embeddings": true})",
     kExact},
    {"qwen3", R"({"model_type": "qwen3", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
      "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "vocab_size": 96,
      "max_position_embeddings": 256, "rope_theta": 1000000.0})",
     kExact},
    {"qwen3_moe", R"({"model_type": "qwen3_moe", "hidden_size": 64, "intermediate_size": 96,
      "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
      "vocab_size": 96, "max_position_embeddings": 256, "num_experts": 8, "num_experts_per_tok": 3,
      "moe_intermediate_size": 32, "norm_topk_prob": true})",
     kExact},
    {"gemma2", R"({"model_type": "gemma2", "hidden_size": 64, "intermediate_size": 96,
      "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32,
      "vocab_size": 96, "max_position_embeddings": 256, "sliding_window": 24, "query_pre_attn_scalar": 32})",
     kGelu},
    {"gemma3", R"({"model_type": "gemma3_text", "hidden_size": 64, "intermediate_size": 96,
      "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32,
      "vocab_size": 96, "max_position_embeddings": 256, "sliding_window": 24, "query_pre_attn_scalar": 32,
      "sliding_window_pattern": 3,
      "rope_scaling": {"rope_type": "linear", "factor": 8.0}})",
     kGelu},
    {"phi3", R"({"model_type": "phi3", "hidden_size": 96, "intermediate_size": 96, "num_hidden_layers": 2,
      "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 96, "max_position_embeddings": 256,
      "original_max_position_embeddings": 256})",
     kExact},
    {"phi3, partial, long rope", R"({"model_type": "phi3", "hidden_size": 64, "intermediate_size": 96,
      "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 96,
      "max_position_embeddings": 512, "original_max_position_embeddings": 256,
      "partial_rotary_factor": 0.75, "rope_scaling": {"type": "longrope",
      "short_factor": [1.0, 1.1, 1.2, 1.5, 1.7, 2.0], "long_factor": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]}})",
     kExact},
    {"granite", R"({"model_type": "granite", "hidden_size": 64, "intermediate_size": 96,
      "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 96,
      "max_position_embeddings": 256, "embedding_multiplier": 12.0, "residual_multiplier": 0.22,
      "attention_multiplier": 0.0625, "logits_scaling": 8.0, "rms_norm_eps": 1e-5})",
     kExact},
    {"olmo2", R"({"model_type": "olmo2", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
      "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 96, "max_position_embeddings": 256,
      "rope_theta": 500000.0})",
     kExact},
    {"olmoe", R"({"model_type": "olmoe", "hidden_size": 64, "intermediate_size": 32, "num_hidden_layers": 2,
      "num_attention_heads": 4, "num_key_value_heads": 4, "vocab_size": 96, "max_position_embeddings": 256,
      "num_experts": 8, "num_experts_per_tok": 3})",
     kExact},
    {"smollm3", R"({"model_type": "smollm3", "hidden_size": 64, "intermediate_size": 96,
      "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 96,
      "max_position_embeddings": 256})",
     kExact},
    {"gpt2", R"({"model_type": "gpt2", "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 128,
      "vocab_size": 96})",
     kGelu},
    {"gpt_neox", R"({"model_type": "gpt_neox", "hidden_size": 64, "intermediate_size": 96,
      "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 96, "max_position_embeddings": 256,
      "rotary_pct": 0.5, "use_parallel_residual": true})",
     kGelu},
    {"gpt_neox, in turn", R"({"model_type": "gpt_neox", "hidden_size": 64, "intermediate_size": 96,
      "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 96, "max_position_embeddings": 256,
      "rotary_pct": 0.25, "use_parallel_residual": false})",
     kGelu},
    {"gpt_oss", R"({"model_type": "gpt_oss", "hidden_size": 64, "intermediate_size": 32,
      "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32,
      "vocab_size": 96, "max_position_embeddings": 256, "num_local_experts": 4, "num_experts_per_tok": 2,
      "sliding_window": 24, "rope_theta": 15449.4520,
      "rope_scaling": {"rope_type": "yarn", "factor": 8.0, "beta_fast": 32.0,
      "beta_slow": 1.0, "truncate": false, "original_max_position_embeddings": 128}})",
     kExact, ExpertLayout::kFused},
    {"gpt_oss, MXFP4", R"({"model_type": "gpt_oss", "hidden_size": 64, "intermediate_size": 32,
      "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32,
      "vocab_size": 96, "max_position_embeddings": 256, "num_local_experts": 4, "num_experts_per_tok": 2,
      "sliding_window": 24, "rope_theta": 15449.4520,
      "rope_scaling": {"rope_type": "yarn", "factor": 8.0, "beta_fast": 32.0,
      "beta_slow": 1.0, "truncate": false, "original_max_position_embeddings": 128}})",
     kBytes, ExpertLayout::kMxfp4},
};

std::vector<float> own_logits(const std::string& path, const std::vector<int32_t>& tokens) {
  const Model model = Model::load(path, {.precision = Precision::kF32});
  Session session(model, {.context = kTokens, .kv_cache = KvCacheType::kF32, .precision = Precision::kF32});
  std::vector<float> rows;
  const BatchEntry entry{&session, tokens};
  forward_batch({&entry, 1}, [&](size_t, int64_t, std::span<const float> logits) {
    rows.insert(rows.end(), logits.begin(), logits.end());
  });
  return rows;
}

ConvertControl replacing() {
  ConvertControl control;
  control.overwrite = true;
  return control;
}

// Root mean square of the difference over that of what is expected.
double distance(const std::vector<float>& found, const std::vector<float>& expected) {
  if (found.size() != expected.size() || found.empty()) return INFINITY;
  double difference = 0, power = 0;
  for (size_t i = 0; i < found.size(); ++i) {
    const double e = static_cast<double>(expected[i]), d = static_cast<double>(found[i]) - e;
    difference += d * d;
    power += e * e;
  }
  return std::sqrt(difference / power);
}

int report(const char* name, double there, double back, double tolerance, const BridgeResult& result) {
  const bool good = there <= tolerance && back <= tolerance;
  std::printf("%-26s %9.2e %9.2e  (at most %.0e)%s\n", name, there, back, tolerance, good ? "" : "  FAILED");
  for (const std::string& note : result.notes)
    if (!note.starts_with("the file has no tokenizer")) std::printf("%-26s   %s\n", "", note.c_str());
  return good ? 0 : 1;
}

}  // namespace

int compare_families(const std::string& folder) {
  std::printf(
      "logits of %d tokens, relative root mean square: llama.cpp on our F32 file to this library\n"
      "on the folder; this library on the file to the folder\n",
      kTokens);
  int failures = 0;
  for (const Family& family : kFamilies) {
    const RandomModel random(family.config, {}, family.experts, "", kGain);
    const std::string file = folder + "/family.gguf";
    const Checkpoint checkpoint(random.folder.path(), {.keep_mxfp4 = true});
    const BridgeResult result =
        write_gguf(checkpoint, file, {.type = GgufType::kF32, .check = true}, replacing());
    const std::vector<int32_t> tokens = random.tokens(kTokens);
    const std::vector<float> own = own_logits(random.folder.path(), tokens);
    const double there = distance(LlamaCpp(file, kTokens).logits(tokens), own);
    failures += report(family.name, there, distance(own_logits(file, tokens), own), family.tolerance, result);
  }
  return failures;
}

}  // namespace judge
