// SPDX-License-Identifier: Apache-2.0
#include "llama_cpp/config.h"

#include <algorithm>
#include <cmath>

#include "base/fail.h"
#include "base/json.h"
#include "llama_cpp/rope.h"
#include "llama_cpp/tokenizer.h"

namespace nfloat {
namespace {

// llama.cpp's rule: the largest Gemma of each generation scales scores by another number.
bool is_largest_gemma(const GgufArchitecture& entry, int64_t layers) {
  return layers == (entry.model_type == "gemma2" ? 46 : 62);
}

// Every so many layers one looks at the whole context, where a file does not say which.
int64_t usual_window_pattern(const GgufArchitecture& entry) {
  return entry.model_type == "gemma3_text" ? 6 : 2;
}

// Whether some layers of the architecture have windows and others not.
bool windows_alternate(const GgufArchitecture& entry) {
  return entry.model_type == "gemma2" || entry.model_type == "gemma3_text" || entry.model_type == "gpt_oss";
}

bool has_windows_everywhere(const GgufArchitecture& entry) {
  return entry.model_type == "mistral" || entry.model_type == "mixtral" || entry.model_type == "phi3";
}

// The number under which each kind of norm keeps its epsilon.
std::string_view epsilon_key(const GgufArchitecture& entry) {
  return entry.layer_norm ? "attention.layer_norm_epsilon" : "attention.layer_norm_rms_epsilon";
}

// One file's metadata on the way to config.json.
class Reader {
 public:
  explicit Reader(const GgufFile& file) : file_(file), keys_(file), entry_(&architecture_of(file)) {}

  Json run() {
    const GgufTensor* embedding = file_.find("token_embd.weight");
    if (embedding == nullptr || embedding->shape.rank() != 2)
      fail(ErrorCode::kMalformedFile, "{}: no matrix 'token_embd.weight'", source());
    vocabulary_ = embedding->shape[0];
    hidden_ = keys_.required("embedding_length");
    heads_ = keys_.required("attention.head_count");
    head_dim_ = keys_.integer("attention.key_length", hidden_ / heads_);
    if (keys_.integer("attention.value_length", head_dim_) != head_dim_)
      fail(ErrorCode::kUnsupported, "{}: keys of {} and values of {} elements", source(), head_dim_,
           keys_.integer("attention.value_length", head_dim_));
    out_["architectures"] = Json::array({std::string(entry_->class_name)});
    out_["model_type"] = entry_->model_type;
    shape();
    if (!is("gpt2")) read_rope(keys_, *entry_, head_dim_, out_);
    refuse_unread();
    features();
    windows();
    experts();
    tokens();
    rename();
    return std::move(out_);
  }

 private:
  const std::string& source() const { return keys_.source(); }
  bool is(std::string_view model_type) const { return entry_->model_type == model_type; }
  bool has_bias(const char* name) const { return file_.find(fmt::format("blk.0.{}.bias", name)) != nullptr; }

  void shape() {
    out_["hidden_size"] = hidden_;
    // gpt-oss has no other feed-forward block than its experts.
    out_["intermediate_size"] =
        keys_.required(is("gpt_oss") ? "expert_feed_forward_length" : "feed_forward_length");
    out_["num_hidden_layers"] = keys_.required("block_count");
    out_["num_attention_heads"] = heads_;
    if (!entry_->layer_norm) {
      out_["num_key_value_heads"] = keys_.integer("attention.head_count_kv", heads_);
      out_["head_dim"] = head_dim_;
    }
    out_["vocab_size"] = vocabulary_;
    out_["max_position_embeddings"] = keys_.required("context_length");
    if (entry_->layer_norm)
      out_["norm_epsilon"] = keys_.number(epsilon_key(*entry_), 1e-5);
    else
      out_["rms_norm_eps"] = keys_.number(epsilon_key(*entry_), 1e-6);
    out_["hidden_act"] = entry_->activation;
    out_["tie_word_embeddings"] = file_.find("output.weight") == nullptr;
  }

  // Keys that change what is computed, for the families that do not read them: refused unless their value
  // changes nothing.
  void refuse_unread() const {
    struct Unread {
      std::string_view name;
      std::initializer_list<std::string_view> readers;
      std::initializer_list<double> neutral;
    };
    constexpr double kSoftmax = 1, kSoftmaxOfChosen = 3;  // llama.cpp's numbers for what routers do
    const Unread kKeys[] = {
        {"attention.sliding_window", {"mistral", "mixtral", "phi3", "gemma2", "gemma3_text", "gpt_oss"}, {0}},
        {"attention.scale", {"granite"}, {0, shortest(1 / std::sqrt(static_cast<double>(head_dim_)))}},
        {"logit_scale", {"granite"}, {0, 1}},
        {"residual_scale", {"granite"}, {0, 1}},
        {"embedding_scale", {"granite"}, {0, 1}},
        {"attn_logit_softcapping", {"gemma2"}, {0}},
        {"final_logit_softcapping", {"gemma2", "gemma3_text"}, {0}},
        {"attention.clamp_kqv", {}, {0}},
        {"attention.max_alibi_bias", {}, {0}},
        {"attention.temperature_scale", {}, {0}},
        {"attention.temperature_length", {}, {0}},
        {"router_logit_softcapping", {}, {0}},
        {"swiglu_clamp_exp", {}, {0}},
        {"swiglu_clamp_shexp", {}, {0}},
        {"expert_group_used_count", {}, {0, 1}},
        {"attention.causal", {}, {1}},
        {"expert_weights_scale", {}, {0, 1}},
        {"expert_shared_count", {}, {0}},
        {"leading_dense_block_count", {}, {0}},
        {"expert_group_count", {}, {0, 1}},
        {"expert_group_scale", {}, {0, 1}},
        {"moe_every_n_layers", {}, {0, 1}},
        {"interleave_moe_layer_step", {}, {0, 1}},
        {"expert_gating_func", {}, {0, entry_->model_type == "gpt_oss" ? kSoftmaxOfChosen : kSoftmax}},
        {"nextn_predict_layers", {}, {0}},
        {"attention.output_scale", {}, {0, 1}},
        {"attention.q_lora_rank", {}, {0}},
        {"attention.kv_lora_rank", {}, {0}},
        {"attention.group_norm_groups", {}, {0}},
        {"swin_norm", {}, {0}},
        {"rescale_every_n_layers", {}, {0}},
        {"rope.scaling.yarn_log_multiplier", {}, {0}},
        {"rope.scaling.alpha", {}, {0, 1}},
    };
    const auto refuse = [&](std::string_view name) {
      const GgufValue* value = keys_.find(name);
      fail(ErrorCode::kUnsupported,
           "{}: metadata \"{}\" is {}, which this version does not compute for {} models", source(),
           keys_.key(name), value->to_string(), entry_->model_type);
    };
    const auto contains = [](const auto& list, const auto& one) {
      return std::find(list.begin(), list.end(), one) != list.end();
    };
    for (const Unread& unread : kKeys)
      if (keys_.has(unread.name) && !contains(unread.readers, entry_->model_type) &&
          !contains(unread.neutral, keys_.number(unread.name, 0)))
        refuse(unread.name);
    // Granite's files switch RoPE off with it; elsewhere it is a remark.
    if (is("granite") && keys_.integer("rope.scaling.finetuned", 1) == 0) refuse("rope.scaling.finetuned");
  }

  void features() {
    const bool attention_bias = has_bias("attn_q") || has_bias("attn_qkv");
    if (is("llama") || is("granite") || is("smollm3")) {
      out_["attention_bias"] = attention_bias;
      out_["mlp_bias"] = has_bias("ffn_up");
    } else if (is("qwen3") || is("qwen3_moe") || is("olmo2") || is("olmoe")) {
      out_["attention_bias"] = attention_bias;
    }
    if (is("gemma2") || is("gemma3_text")) gemma();
    if (is("gpt_neox")) out_["use_parallel_residual"] = keys_.integer("use_parallel_residual", 1) != 0;
    if (is("granite")) {
      out_["logits_scaling"] = keys_.number("logit_scale", 1);
      out_["residual_multiplier"] = keys_.number("residual_scale", 1);
      out_["embedding_multiplier"] = keys_.number("embedding_scale", 1);
      out_["attention_multiplier"] =
          keys_.number("attention.scale", 1 / std::sqrt(static_cast<double>(head_dim_)));
    }
  }

  void gemma() {
    const bool largest = is_largest_gemma(*entry_, keys_.integer("block_count", 0));
    out_["query_pre_attn_scalar"] = largest ? hidden_ / heads_ : head_dim_;
    out_["attn_logit_softcapping"] =
        is("gemma2") ? Json(keys_.number("attn_logit_softcapping", 50)) : Json(nullptr);
    const double cap = keys_.number("final_logit_softcapping", is("gemma2") ? 30 : 0);
    out_["final_logit_softcapping"] = cap > 0 ? Json(cap) : Json(nullptr);
  }

  void windows() {
    const int64_t window = keys_.integer("attention.sliding_window", 0);
    if (has_windows_everywhere(*entry_)) {
      out_["sliding_window"] = window > 0 ? Json(window) : Json(nullptr);
    } else if (windows_alternate(*entry_)) {
      const int64_t layers = keys_.integer("block_count", 0);
      const GgufValue* pattern = keys_.find("attention.sliding_window_pattern");
      const int64_t step =
          pattern != nullptr && !pattern->is_array ? pattern->integer() : usual_window_pattern(*entry_);
      if (pattern != nullptr &&
          (pattern->is_array ? pattern->is_text() || pattern->count != static_cast<uint64_t>(layers)
                             : step < 1))
        fail(ErrorCode::kMalformedFile, "{}: metadata \"{}\" is {}", source(), pattern->key,
             pattern->to_string());
      constexpr int64_t kMostLayers = 1 << 16;
      Json types = Json::array();
      for (int64_t layer = 0; layer < std::min(layers, kMostLayers); ++layer) {
        const bool local = pattern != nullptr && pattern->is_array
                               ? pattern->integer(static_cast<uint64_t>(layer)) != 0
                               : (layer + 1) % step != 0;
        types.push_back(local && (window > 0 || !is("gemma3_text")) ? "sliding_attention" : "full_attention");
      }
      out_["sliding_window"] = window > 0 ? window : is("gpt_oss") ? 128 : 4096;
      out_["layer_types"] = std::move(types);
    }
  }

  void experts() {
    if (!entry_->experts) return;
    out_["num_experts"] = keys_.required("expert_count");
    out_["num_experts_per_tok"] = keys_.required("expert_used_count");
    if (is("qwen3_moe")) {
      const int64_t width = keys_.integer("expert_feed_forward_length", 0);
      out_["moe_intermediate_size"] =
          width > 0 ? width : keys_.required("feed_forward_length") / keys_.required("expert_used_count");
      out_["norm_topk_prob"] = true;  // llama.cpp's graph
    }
    if (is("olmoe")) out_["norm_topk_prob"] = false;
  }

  void tokens() {
    for (const auto& [from, to] : {std::pair{"tokenizer.ggml.bos_token_id", "bos_token_id"},
                                   std::pair{"tokenizer.ggml.padding_token_id", "pad_token_id"}}) {
      const int64_t id = file_.integer_or(from, -1);
      if (id >= 0 && id < vocabulary_) out_[to] = id;
    }
    // The end of a text, of a turn, of a message: any of them ends an answer.
    Json ends = Json::array();
    for (const int64_t id : gguf_end_tokens(file_))
      if (id < vocabulary_) ends.push_back(id);
    if (ends.size() == 1) out_["eos_token_id"] = ends[0];
    if (ends.size() > 1) out_["eos_token_id"] = std::move(ends);
  }

  // To the keys that the family's own configuration has.
  void rename() {
    if (entry_->config_keys.empty()) return;
    Json renamed;
    for (const auto& [name, value] : out_.items()) {
      std::string own = name;
      for (const GgufConfigKey& entry : entry_->config_keys)
        if (entry.usual == name) own = entry.own;
      renamed[own] = value;
    }
    out_ = std::move(renamed);
  }

  const GgufFile& file_;
  const ModelKeys keys_;
  const GgufArchitecture* entry_;
  int64_t vocabulary_ = 0, hidden_ = 0, heads_ = 0, head_dim_ = 0;
  Json out_;
};

class Writer {
 public:
  Writer(const ModelConfig& config, const GgufArchitecture& architecture, ModelKeyWriter& keys)
      : config_(config), architecture_(architecture), keys_(keys) {}

  void run() {
    check();
    shape();
    if (!is("gpt2")) append_rope(config_, architecture_, keys_);
    features();
    windows();
    experts();
  }

 private:
  bool is(std::string_view model_type) const { return architecture_.model_type == model_type; }
  bool gemma() const { return is("gemma2") || is("gemma3_text"); }

  Activation usual_activation() const {
    return gemma() || architecture_.layer_norm ? Activation::kGeluTanh : Activation::kSilu;
  }

  void check() {
    if (config_.activation == Activation::kGelu && is("gpt_neox"))
      keys_.note("llama.cpp computes GELU by its tanh approximation, the model exactly");
    else if (config_.activation != usual_activation())
      keys_.refuse("such activation");
    if (config_.norm_place == NormPlace::kAfterResidual) keys_.refuse("norms behind the residual");
    if (config_.embedding_size > 0) keys_.refuse("projection of embeddings");
    const int64_t turned = config_.rotary_dim > 0 ? config_.rotary_dim : config_.head_dim;
    if (architecture_.gguf == "llama" && turned != config_.head_dim) keys_.refuse("heads that turn in part");
    for (int64_t i = 0; i < config_.layers; ++i)
      if (config_.layer(i).experts != architecture_.experts) keys_.refuse("layers with and without experts");
  }

  void shape() {
    keys_.integer("block_count", config_.layers);
    keys_.integer("context_length", config_.context);
    keys_.integer("embedding_length", config_.hidden);
    keys_.integer("feed_forward_length", config_.intermediate);
    keys_.integer("attention.head_count", config_.heads);
    keys_.integer("attention.head_count_kv", config_.kv_heads);
    if (!architecture_.layer_norm) {
      keys_.integer("attention.key_length", config_.head_dim);
      keys_.integer("attention.value_length", config_.head_dim);
    }
    keys_.number(epsilon_key(architecture_), config_.norm_epsilon);
    keys_.integer("vocab_size", config_.vocabulary);
  }

  void features() {
    const double plain = 1 / std::sqrt(static_cast<double>(config_.head_dim));
    const double scale = config_.attention_scale > 0 ? config_.attention_scale : plain;
    double fixed = plain;  // by llama.cpp, where the file cannot say it
    if (gemma()) {
      const bool largest = is_largest_gemma(architecture_, config_.layers);
      if (largest) fixed = 1 / std::sqrt(static_cast<double>(config_.hidden / config_.heads));
      if (is("gemma2")) keys_.number("attn_logit_softcapping", config_.attention_softcap);
      if (is("gemma2") || config_.logit_softcap > 0)
        keys_.number("final_logit_softcapping", config_.logit_softcap);
    }
    if (is("granite")) {
      keys_.number("attention.scale", scale);
      keys_.number("embedding_scale", config_.embedding_scale);
      keys_.number("residual_scale", config_.residual_scale);
      keys_.number("logit_scale", 1 / config_.logit_scale);
    } else if (std::fabs(scale / fixed - 1) > 1e-6) {
      keys_.note(fmt::format("llama.cpp scales attention by {:.6g}, this model by {:.6g}", fixed, scale));
    }
    if (is("gpt_neox")) keys_.flag("use_parallel_residual", config_.parallel_blocks);
  }

  void windows() {
    std::vector<int64_t> windows;
    for (int64_t i = 0; i < config_.layers; ++i) windows.push_back(config_.layer(i).window);
    const int64_t widest = *std::max_element(windows.begin(), windows.end());
    const bool alternates = windows_alternate(architecture_);
    if (widest > 0 && !alternates)
      keys_.note(fmt::format("llama.cpp's {} models see the whole context, this model {} tokens",
                             architecture_.gguf, widest));
    if (alternates || (has_windows_everywhere(architecture_) && widest > 0))
      keys_.integer("attention.sliding_window", widest);
    if (is("phi3") && widest == 0) keys_.integer("attention.sliding_window", 0);
    if (!alternates || widest == 0) return;
    const int64_t usual = usual_window_pattern(architecture_);
    std::vector<bool> local;
    bool same = true;
    for (size_t i = 0; i < windows.size(); ++i) {
      local.push_back(windows[i] > 0);
      same = same && local[i] == ((static_cast<int64_t>(i) + 1) % usual != 0);
    }
    if (!same) keys_.flags("attention.sliding_window_pattern", local);
  }

  void experts() {
    if (!architecture_.experts) return;
    const ExpertsConfig& experts = config_.experts;
    keys_.integer("expert_count", experts.count);
    keys_.integer("expert_used_count", experts.chosen);
    if (is("qwen3_moe") || is("gpt_oss")) keys_.integer("expert_feed_forward_length", experts.intermediate);
    if (experts.normalize == is("olmoe"))
      keys_.note(is("olmoe") ? "llama.cpp does not bring the weights of the chosen experts to a sum of 1"
                             : "llama.cpp brings the weights of the chosen experts to a sum of 1");
    if (is("gpt_oss") && std::fabs(experts.limit - 7) > 1e-6)
      keys_.note(fmt::format("llama.cpp clamps at 7, this model at {:.6g}", experts.limit));
  }

  const ModelConfig& config_;
  const GgufArchitecture& architecture_;
  ModelKeyWriter& keys_;
};

// A sentence about keys of config.json, about those that they were made from.
std::string in_names_of_the_file(std::string sentence, const ModelKeys& keys, const GgufArchitecture& entry) {
  const std::pair<std::string_view, std::string_view> kNames[] = {
      {"hidden_size", "embedding_length"},
      {"intermediate_size",
       entry.model_type == "gpt_oss" ? "expert_feed_forward_length" : "feed_forward_length"},
      {"num_hidden_layers", "block_count"},
      {"num_attention_heads", "attention.head_count"},
      {"num_key_value_heads", "attention.head_count_kv"},
      {"head_dim", "attention.key_length"},
      {"max_position_embeddings", "context_length"},
      {"norm_epsilon", epsilon_key(entry)},
      {"rms_norm_eps", epsilon_key(entry)},
      {"rope_theta", "rope.freq_base"},
      {"partial_rotary_factor", "rope.dimension_count"},
      {"factor", "rope.scaling.factor"},
      {"original_max_position_embeddings", "rope.scaling.original_context_length"},
      {"sliding_window", "attention.sliding_window"},
      {"num_experts", "expert_count"},
      {"num_experts_per_tok", "expert_used_count"},
      {"moe_intermediate_size", "expert_feed_forward_length"},
      {"attn_logit_softcapping", "attn_logit_softcapping"},
      {"final_logit_softcapping", "final_logit_softcapping"},
      {"logits_scaling", "logit_scale"},
      {"residual_multiplier", "residual_scale"},
      {"embedding_multiplier", "embedding_scale"},
      {"attention_multiplier", "attention.scale"},
  };
  for (const auto& [usual, theirs] : kNames) {
    std::string_view own = usual;
    for (const GgufConfigKey& renamed : entry.config_keys)
      if (renamed.usual == usual) own = renamed.own;
    const std::string quoted = fmt::format("\"{}\"", own);
    const size_t at = sentence.find(quoted);
    if (at != std::string::npos)
      return sentence.replace(at, quoted.size(), fmt::format("metadata \"{}\"", keys.key(theirs)));
  }
  return sentence;
}

}  // namespace

const GgufArchitecture& architecture_of(const GgufFile& file) {
  const std::string arch = file.text_or("general.architecture", "");
  const GgufArchitecture* entry =
      find_gguf_architecture(arch, file.integer_or(arch + ".expert_count", 0) > 0,
                             file.integer_or(arch + ".attention.sliding_window", 0) > 0);
  if (entry == nullptr)
    fail(ErrorCode::kUnsupported, "{}: the architecture \"{}\" is not known; model types that are: {}",
         file.files()[0], arch, gguf_architecture_names());
  return *entry;
}

std::string huggingface_config(const GgufFile& file) {
  const std::string text = Reader(file).run().dump(2, Json::Invalid::kReplace) + "\n";
  const ModelKeys keys(file);
  try {
    parse_model_config(text, keys.source());
  } catch (const Error& error) {
    throw Error(error.code(), in_names_of_the_file(error.what(), keys, architecture_of(file)));
  }
  return text;
}

void append_model(const ModelConfig& config, const GgufArchitecture& architecture, GgufMetadata& metadata,
                  std::vector<MetadataTensor>& tensors, std::vector<std::string>& notes) {
  ModelKeyWriter keys(metadata, tensors, notes, architecture.gguf);
  Writer(config, architecture, keys).run();
}

}  // namespace nfloat
