// SPDX-License-Identifier: Apache-2.0
#include "bridge/model_metadata.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "base/fail.h"

namespace nfloat {
namespace {

class Writer {
 public:
  Writer(const ModelConfig& config, const GgufArchitecture& architecture, GgufMetadata& metadata,
         std::vector<MetadataTensor>& tensors, std::vector<std::string>& notes)
      : config_(config), architecture_(architecture), out_(metadata), tensors_(tensors), notes_(notes) {}

  void run() {
    check();
    shape();
    if (!is("gpt2")) rotary();
    features();
    windows();
    experts();
  }

 private:
  bool is(std::string_view model_type) const { return architecture_.model_type == model_type; }
  bool gemma() const { return is("gemma2") || is("gemma3_text"); }
  std::string key(std::string_view name) const {
    return std::string(architecture_.gguf) + "." + std::string(name);
  }
  void integer(std::string_view name, int64_t value) { out_.u32(key(name), static_cast<uint32_t>(value)); }
  void number(std::string_view name, double value) { out_.f32(key(name), static_cast<float>(value)); }
  void text(std::string_view name, std::string_view value) { out_.text(key(name), value); }
  [[noreturn]] void refuse(const std::string& what) const {
    fail(ErrorCode::kUnsupported, "llama.cpp's {} models have no {}", architecture_.gguf, what);
  }

  Activation usual_activation() const {
    return gemma() || architecture_.layer_norm ? Activation::kGeluTanh : Activation::kSilu;
  }

  void check() {
    if (config_.activation == Activation::kGelu && is("gpt_neox"))
      notes_.push_back("llama.cpp computes GELU by its tanh approximation, the model exactly");
    else if (config_.activation != usual_activation())
      refuse("such activation");
    if (config_.norm_place == NormPlace::kAfterResidual) refuse("norms behind the residual");
    if (config_.embedding_size > 0) refuse("projection of embeddings");
    const int64_t turned = config_.rotary_dim > 0 ? config_.rotary_dim : config_.head_dim;
    if (architecture_.gguf == "llama" && turned != config_.head_dim) refuse("heads that turn in part");
    for (int64_t i = 0; i < config_.layers; ++i)
      if (config_.layer(i).experts != architecture_.experts) refuse("layers with and without experts");
  }

  void shape() {
    integer("block_count", config_.layers);
    integer("context_length", config_.context);
    integer("embedding_length", config_.hidden);
    integer("feed_forward_length", config_.intermediate);
    integer("attention.head_count", config_.heads);
    integer("attention.head_count_kv", config_.kv_heads);
    if (!architecture_.layer_norm) {
      integer("attention.key_length", config_.head_dim);
      integer("attention.value_length", config_.head_dim);
    }
    number(architecture_.layer_norm ? "attention.layer_norm_epsilon" : "attention.layer_norm_rms_epsilon",
           config_.norm_epsilon);
    integer("vocab_size", config_.vocabulary);
  }

  void rotary() {
    const RopeConfig& rope = config_.rope;
    const int64_t turned = config_.rotary_dim > 0 ? config_.rotary_dim : config_.head_dim;
    integer("rope.dimension_count", turned);
    number("rope.freq_base", rope.theta);
    switch (rope.scaling) {
      case RopeScaling::kNone:
        break;
      case RopeScaling::kLinear:
        text("rope.scaling.type", "linear");
        number("rope.scaling.factor", rope.factor);
        break;
      case RopeScaling::kDynamic:
        notes_.push_back(fmt::format("llama.cpp does not stretch RoPE by length: beyond {} tokens it differs",
                                     rope.original_context));
        break;
      case RopeScaling::kLlama3:
        tensors_.push_back({"rope_freqs.weight", llama3_divisors(turned)});
        break;
      case RopeScaling::kYarn:
        yarn();
        break;
      case RopeScaling::kLongRope: {
        text("rope.scaling.type", "longrope");
        integer("rope.scaling.original_context_length", rope.original_context);
        number("rope.scaling.attn_factor", rope.attention_factor);
        const auto factors = [&](const char* name, const std::vector<double>& list) {
          tensors_.push_back({name, std::vector<float>(list.begin(), list.end())});
        };
        factors("rope_factors_long.weight", rope.long_factors);
        factors("rope_factors_short.weight", rope.short_factors);
        break;
      }
    }
    if (is("gemma3_text")) {
      number("rope.freq_base_swa", config_.local_rope.theta);
      if (config_.local_rope.scaling != RopeScaling::kNone) refuse("stretched RoPE in local layers");
    }
    for (int64_t i = 0; i < config_.layers; ++i) {
      const bool turns = config_.layer(i).rope != LayerRope::kNone;
      if (turns != (!is("smollm3") || (i + 1) % 4 != 0)) {
        notes_.push_back(is("smollm3")
                             ? "llama.cpp leaves RoPE out in every fourth layer, this model in others"
                             : "llama.cpp turns queries and keys in every layer, this model does not");
        break;
      }
    }
  }

  std::vector<float> llama3_divisors(int64_t turned) const {
    const RopeConfig& rope = config_.rope;
    std::vector<float> divisors;
    for (int64_t i = 0; i < turned; i += 2) {
      const double frequency = std::pow(rope.theta, -static_cast<double>(i) / static_cast<double>(turned));
      const double turns = static_cast<double>(rope.original_context) * frequency / (2 * std::numbers::pi);
      const double keep = std::clamp(
          (turns - rope.low_frequency_factor) / (rope.high_frequency_factor - rope.low_frequency_factor), 0.0,
          1.0);
      divisors.push_back(static_cast<float>(1 / ((1 - keep) / rope.factor + keep)));
    }
    return divisors;
  }

  void yarn() {
    const RopeConfig& rope = config_.rope;
    text("rope.scaling.type", "yarn");
    number("rope.scaling.factor", rope.factor);
    integer("rope.scaling.original_context_length", rope.original_context);
    number("rope.scaling.yarn_beta_fast", rope.beta_fast);
    number("rope.scaling.yarn_beta_slow", rope.beta_slow);
    const double usual = rope.factor <= 1 ? 1 : 0.1 * std::log(rope.factor) + 1;
    // llama.cpp multiplies the usual factor by this one.
    if (std::fabs(rope.attention_factor / usual - 1) > 1e-6)
      number("rope.scaling.attn_factor", rope.attention_factor / usual);
    if (rope.beta_fast != 32 || rope.beta_slow != 1)
      notes_.push_back(fmt::format("llama.cpp's YaRN has 32 and 1 for beta, this model {:.6g} and {:.6g}",
                                   rope.beta_fast, rope.beta_slow));
    if (!rope.truncate)
      notes_.push_back("llama.cpp rounds the ends of YaRN's ramp to whole pairs, this model does not");
  }

  void features() {
    const double plain = 1 / std::sqrt(static_cast<double>(config_.head_dim));
    const double scale = config_.attention_scale > 0 ? config_.attention_scale : plain;
    double fixed = plain;  // by llama.cpp, where the file cannot say it
    if (gemma()) {
      const bool largest = config_.layers == (is("gemma2") ? 46 : 62);
      if (largest) fixed = 1 / std::sqrt(static_cast<double>(config_.hidden / config_.heads));
      if (is("gemma2")) number("attn_logit_softcapping", config_.attention_softcap);
      if (is("gemma2") || config_.logit_softcap > 0) number("final_logit_softcapping", config_.logit_softcap);
    }
    if (is("granite")) {
      number("attention.scale", scale);
      number("embedding_scale", config_.embedding_scale);
      number("residual_scale", config_.residual_scale);
      number("logit_scale", 1 / config_.logit_scale);
    } else if (std::fabs(scale / fixed - 1) > 1e-6) {
      notes_.push_back(
          fmt::format("llama.cpp scales attention by {:.6g}, this model by {:.6g}", fixed, scale));
    }
    if (is("gpt_neox")) out_.flag(key("use_parallel_residual"), config_.parallel_blocks);
  }

  void windows() {
    std::vector<int64_t> windows;
    for (int64_t i = 0; i < config_.layers; ++i) windows.push_back(config_.layer(i).window);
    const int64_t widest = *std::max_element(windows.begin(), windows.end());
    const bool alternates = gemma() || is("gpt_oss");
    if (widest > 0 && !alternates)
      notes_.push_back(fmt::format("llama.cpp's {} models see the whole context, this model {} tokens",
                                   architecture_.gguf, widest));
    if (alternates || ((is("mistral") || is("mixtral") || is("phi3")) && widest > 0))
      integer("attention.sliding_window", widest);
    if (is("phi3") && widest == 0) integer("attention.sliding_window", 0);
    if (!alternates || widest == 0) return;
    const int64_t usual = is("gemma3_text") ? 6 : 2;
    std::vector<bool> local;
    bool same = true;
    for (size_t i = 0; i < windows.size(); ++i) {
      local.push_back(windows[i] > 0);
      same = same && local[i] == ((static_cast<int64_t>(i) + 1) % usual != 0);
    }
    if (!same) out_.flags(key("attention.sliding_window_pattern"), local);
  }

  void experts() {
    if (!architecture_.experts) return;
    const ExpertsConfig& experts = config_.experts;
    integer("expert_count", experts.count);
    integer("expert_used_count", experts.chosen);
    if (is("qwen3_moe") || is("gpt_oss")) integer("expert_feed_forward_length", experts.intermediate);
    if (experts.normalize == is("olmoe"))
      notes_.push_back(is("olmoe")
                           ? "llama.cpp does not bring the weights of the chosen experts to a sum of 1"
                           : "llama.cpp brings the weights of the chosen experts to a sum of 1");
    if (is("gpt_oss") && std::fabs(experts.limit - 7) > 1e-6)
      notes_.push_back(fmt::format("llama.cpp clamps at 7, this model at {:.6g}", experts.limit));
  }

  const ModelConfig& config_;
  const GgufArchitecture& architecture_;
  GgufMetadata& out_;
  std::vector<MetadataTensor>& tensors_;
  std::vector<std::string>& notes_;
};

}  // namespace

void append_model(const ModelConfig& config, const GgufArchitecture& architecture, GgufMetadata& metadata,
                  std::vector<MetadataTensor>& tensors, std::vector<std::string>& notes) {
  Writer(config, architecture, metadata, tensors, notes).run();
}

}  // namespace nfloat
