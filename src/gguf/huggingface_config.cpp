// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <numbers>

#include "base/fail.h"
#include "base/json.h"
#include "gguf/architectures.h"
#include "gguf/huggingface.h"

namespace nfloat {

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

namespace {

constexpr double kLowFactor = 1, kHighFactor = 4;  // as every published Llama 3 has them

// The shortest decimal number that is this float: 1e-5, not 9.99999974e-06.
double shortest(double value) {
  const std::string text = fmt::format("{}", static_cast<float>(value));
  double result = value;
  std::from_chars(text.data(), text.data() + text.size(), result);
  return result;
}

std::vector<float> floats_of(const GgufFile& file, const GgufTensor& tensor) {
  constexpr int64_t kMost = 1 << 16;
  if (tensor.shape.elements() > kMost || !is_decodable(tensor.type))
    fail(ErrorCode::kMalformedFile, "{}: tensor '{}' is {} of {}", file.files()[tensor.file], tensor.name,
         gguf_type_info(tensor.type).name, tensor.shape.to_string());
  std::vector<float> values(static_cast<size_t>(tensor.shape.elements()));
  decode_gguf(tensor.type, file.bytes(tensor), values);
  return values;
}

// One file's metadata on the way to config.json.
class Config {
 public:
  explicit Config(const GgufFile& file)
      : file_(file), arch_(file.text_or("general.architecture", "")), entry_(&architecture_of(file)) {}

  Json run() {
    const GgufTensor* embedding = file_.find("token_embd.weight");
    if (embedding == nullptr || embedding->shape.rank() != 2)
      fail(ErrorCode::kMalformedFile, "{}: no matrix 'token_embd.weight'", source());
    vocabulary_ = embedding->shape[0];
    hidden_ = required("embedding_length");
    heads_ = required("attention.head_count");
    head_dim_ = integer("attention.key_length", hidden_ / heads_);
    if (integer("attention.value_length", head_dim_) != head_dim_)
      fail(ErrorCode::kUnsupported, "{}: keys of {} and values of {} elements", source(), head_dim_,
           integer("attention.value_length", head_dim_));
    out_["architectures"] = Json::array({std::string(entry_->class_name)});
    out_["model_type"] = entry_->model_type;
    shape();
    if (!is("gpt2")) rotary();
    refuse_unread();
    features();
    windows();
    experts();
    tokens();
    rename();
    return std::move(out_);
  }

 private:
  const std::string& source() const { return file_.files()[0]; }
  bool is(std::string_view model_type) const { return entry_->model_type == model_type; }
  std::string key(std::string_view name) const { return arch_ + "." + std::string(name); }
  bool has(std::string_view name) const { return file_.find_value(key(name)) != nullptr; }
  int64_t integer(std::string_view name, int64_t otherwise) const {
    return file_.integer_or(key(name), otherwise);
  }
  double number(std::string_view name, double otherwise) const {
    return has(name) ? shortest(file_.number_or(key(name), otherwise)) : otherwise;
  }
  int64_t required(std::string_view name) const {
    if (!has(name)) fail(ErrorCode::kMalformedFile, "{}: metadata \"{}\" is missing", source(), key(name));
    const int64_t value = integer(name, 0);
    if (value < 1) fail(ErrorCode::kMalformedFile, "{}: metadata \"{}\" is {}", source(), key(name), value);
    return value;
  }
  bool has_bias(const char* name) const { return file_.find(fmt::format("blk.0.{}.bias", name)) != nullptr; }

  void shape() {
    out_["hidden_size"] = hidden_;
    // gpt-oss has no other feed-forward block than its experts.
    out_["intermediate_size"] =
        required(is("gpt_oss") ? "expert_feed_forward_length" : "feed_forward_length");
    out_["num_hidden_layers"] = required("block_count");
    out_["num_attention_heads"] = heads_;
    if (!entry_->layer_norm) {
      out_["num_key_value_heads"] = integer("attention.head_count_kv", heads_);
      out_["head_dim"] = head_dim_;
    }
    out_["vocab_size"] = vocabulary_;
    out_["max_position_embeddings"] = required("context_length");
    if (entry_->layer_norm)
      out_["norm_epsilon"] = number("attention.layer_norm_epsilon", 1e-5);
    else
      out_["rms_norm_eps"] = number("attention.layer_norm_rms_epsilon", 1e-6);
    out_["hidden_act"] = entry_->activation;
    out_["tie_word_embeddings"] = file_.find("output.weight") == nullptr;
  }

  // Llama 3 files keep their stretched frequencies as a tensor of divisors; config.json describes them by
  // four numbers, of which `low` and `high` are the same in all published models.
  Json llama3_scaling(const GgufTensor& tensor, double theta, int64_t turned) const {
    const std::vector<float> divisors = floats_of(file_, tensor);
    if (divisors.size() != static_cast<size_t>(turned / 2))
      fail(ErrorCode::kMalformedFile, "{}: '{}' has {} elements, expected {}", file_.files()[tensor.file],
           tensor.name, divisors.size(), turned / 2);
    const auto factor = double{divisors.back()};
    std::vector<int64_t> candidates = {integer("rope.scaling.original_context_length", 8192)};
    for (int64_t context = 64; context <= 1 << 20; context *= 2) candidates.push_back(context);
    for (const int64_t original : candidates) {
      double worst = 0;
      for (size_t i = 0; i < divisors.size(); ++i) {
        const double frequency = std::pow(theta, -2.0 * static_cast<double>(i) / static_cast<double>(turned));
        const double turns = static_cast<double>(original) * frequency / (2 * std::numbers::pi);
        const double keep = std::clamp((turns - kLowFactor) / (kHighFactor - kLowFactor), 0.0, 1.0);
        worst = std::max(worst, std::fabs((keep + (1 - keep) / factor) * double{divisors[i]} - 1));
      }
      if (worst < 1e-4)
        return {{"rope_type", "llama3"},
                {"factor", shortest(factor)},
                {"low_freq_factor", kLowFactor},
                {"high_freq_factor", kHighFactor},
                {"original_max_position_embeddings", original}};
    }
    fail(ErrorCode::kUnsupported, "{}: the frequencies in '{}' are not Llama 3's", file_.files()[tensor.file],
         tensor.name);
  }

  Json long_scaling(const GgufTensor& long_factors) const {
    const GgufTensor* short_factors = file_.find("rope_factors_short.weight");
    if (short_factors == nullptr)
      fail(ErrorCode::kMalformedFile, "{}: there is 'rope_factors_long.weight', but no short one", source());
    Json scaling = {{"rope_type", "longrope"}};
    for (const auto& [name, tensor] :
         {std::pair{"short_factor", short_factors}, std::pair{"long_factor", &long_factors}}) {
      Json list = Json::array();
      for (const float factor : floats_of(file_, *tensor)) list.push_back(shortest(double{factor}));
      scaling[name] = std::move(list);
    }
    return scaling;
  }

  Json rope_scaling(double theta, int64_t turned) {
    if (const GgufTensor* divisors = file_.find("rope_freqs.weight"))
      return llama3_scaling(*divisors, theta, turned);
    if (const GgufTensor* divisors = file_.find("rope_factors_long.weight")) {
      Json scaling = long_scaling(*divisors);
      out_["original_max_position_embeddings"] =
          integer("rope.scaling.original_context_length", required("context_length"));
      if (has("rope.scaling.attn_factor"))
        scaling["attention_factor"] = number("rope.scaling.attn_factor", 1);
      return scaling;
    }
    const double factor = number("rope.scaling.factor", number("rope.scale_linear", 1));
    const std::string type = file_.text_or(key("rope.scaling.type"), factor == 1 ? "none" : "linear");
    if (type == "none" || (type == "linear" && factor == 1)) return nullptr;
    if (type == "linear") return {{"rope_type", "linear"}, {"factor", factor}};
    if (type != "yarn")
      fail(ErrorCode::kUnsupported, "{}: the RoPE scaling \"{}\" is not known to this version", source(),
           type);
    Json scaling = {{"rope_type", "yarn"},
                    {"factor", factor},
                    {"original_max_position_embeddings",
                     integer("rope.scaling.original_context_length", required("context_length"))},
                    {"beta_fast", number("rope.scaling.yarn_beta_fast", 32)},
                    {"beta_slow", number("rope.scaling.yarn_beta_slow", 1)}};
    if (has("rope.scaling.attn_factor"))
      scaling["attention_factor"] =
          shortest(number("rope.scaling.attn_factor", 1) * (factor <= 1 ? 1 : 0.1 * std::log(factor) + 1));
    if (is("gpt_oss")) scaling["truncate"] = false;
    return scaling;
  }

  void rotary() {
    const int64_t turned = integer("rope.dimension_count", head_dim_);
    if (turned < 2 || turned % 2 != 0 || turned > head_dim_)
      fail(ErrorCode::kMalformedFile, "{}: {} of {} elements of a head turn", source(), turned, head_dim_);
    const double theta = number("rope.freq_base", 10000);
    out_["rope_theta"] = theta;
    if (turned != head_dim_ || is("gpt_neox"))
      out_["partial_rotary_factor"] = static_cast<double>(turned) / static_cast<double>(head_dim_);
    Json scaling = rope_scaling(theta, turned);
    if (!scaling.is_null()) out_["rope_scaling"] = std::move(scaling);
    if (is("gemma3_text")) out_["rope_local_base_freq"] = number("rope.freq_base_swa", 10000);
  }

  // Keys that change what is computed, for the families that do not read them: refused unless their value
  // changes nothing.
  void refuse_unread() const {
    struct Unread {
      std::string_view name;
      std::initializer_list<std::string_view> readers;
      std::initializer_list<double> neutral;
    };
    static const Unread kKeys[] = {
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
        {"attention.causal", {}, {1}},
        {"expert_weights_scale", {}, {0, 1}},
        {"expert_shared_count", {}, {0}},
        {"leading_dense_block_count", {}, {0}},
    };
    const auto refuse = [&](std::string_view name) {
      const GgufValue* value = file_.find_value(key(name));
      fail(ErrorCode::kUnsupported,
           "{}: metadata \"{}\" is {}, which this version does not compute for {} models", source(),
           key(name), value->to_string(), entry_->model_type);
    };
    const auto contains = [](const auto& list, const auto& one) {
      return std::find(list.begin(), list.end(), one) != list.end();
    };
    for (const Unread& unread : kKeys)
      if (has(unread.name) && !contains(unread.readers, entry_->model_type) &&
          !contains(unread.neutral, number(unread.name, 0)))
        refuse(unread.name);
    // Granite's files switch RoPE off with it; elsewhere it is a remark.
    if (is("granite") && integer("rope.scaling.finetuned", 1) == 0) refuse("rope.scaling.finetuned");
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
    if (is("gpt_neox")) out_["use_parallel_residual"] = integer("use_parallel_residual", 1) != 0;
    if (is("granite")) {
      out_["logits_scaling"] = number("logit_scale", 1);
      out_["residual_multiplier"] = number("residual_scale", 1);
      out_["embedding_multiplier"] = number("embedding_scale", 1);
      out_["attention_multiplier"] = number("attention.scale", 1 / std::sqrt(static_cast<double>(head_dim_)));
    }
  }

  void gemma() {
    // llama.cpp's rule: the largest model of each generation scales by another number.
    const int64_t layers = integer("block_count", 0);
    const bool largest = layers == (is("gemma2") ? 46 : 62);
    out_["query_pre_attn_scalar"] = largest ? hidden_ / heads_ : head_dim_;
    out_["attn_logit_softcapping"] =
        is("gemma2") ? Json(number("attn_logit_softcapping", 50)) : Json(nullptr);
    const double cap = number("final_logit_softcapping", is("gemma2") ? 30 : 0);
    out_["final_logit_softcapping"] = cap > 0 ? Json(cap) : Json(nullptr);
  }

  void windows() {
    const int64_t window = integer("attention.sliding_window", 0);
    if (is("mistral") || is("mixtral") || is("phi3")) {
      out_["sliding_window"] = window > 0 ? Json(window) : Json(nullptr);
    } else if (is("gemma2") || is("gemma3_text") || is("gpt_oss")) {
      const int64_t layers = integer("block_count", 0);
      const GgufValue* pattern = file_.find_value(key("attention.sliding_window_pattern"));
      const int64_t usual = is("gemma3_text") ? 6 : 2;
      const int64_t step = pattern != nullptr && !pattern->is_array ? pattern->integer() : usual;
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
    out_["num_experts"] = required("expert_count");
    out_["num_experts_per_tok"] = required("expert_used_count");
    if (is("qwen3_moe")) {
      const int64_t width = integer("expert_feed_forward_length", 0);
      out_["moe_intermediate_size"] =
          width > 0 ? width : required("feed_forward_length") / required("expert_used_count");
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
  const std::string arch_;
  const GgufArchitecture* entry_;
  int64_t vocabulary_ = 0, hidden_ = 0, heads_ = 0, head_dim_ = 0;
  Json out_;
};

}  // namespace

std::string huggingface_config(const GgufFile& file) {
  return Config(file).run().dump(2, Json::Invalid::kReplace) + "\n";
}

}  // namespace nfloat
