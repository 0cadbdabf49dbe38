// SPDX-License-Identifier: Apache-2.0
#include "architecture/model_shape.h"

#include <algorithm>
#include <limits>
#include <optional>
#include <string_view>

#include "architecture/families.h"
#include "architecture/shape_config.h"
#include "architecture/special_shapes.h"
#include "base/fail.h"

namespace nfloat {
namespace {

constexpr double kMostParameters = 1e17;

// A product of sizes from a configuration: beyond int64, a number that no model reaches.
int64_t times(int64_t a, int64_t b) {
  int64_t product = 0;
  return __builtin_mul_overflow(a, b, &product) ? std::numeric_limits<int64_t>::max() / 16 : product;
}

bool one_of(std::string_view name, std::initializer_list<std::string_view> names) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

void check_length(const ShapeConfig& config, const char* key, size_t length, size_t layers) {
  if (length != layers)
    fail(ErrorCode::kMalformedFile, "{}: '{}' describes {} layers, expected {}", config.path(), key, length,
         layers);
}

void read_attention(const ShapeConfig& config, const Family& family, ModelShape* shape) {
  AttentionShape& attention = shape->attention;
  const std::string& type = shape->family;
  attention.heads = config.require({"num_attention_heads", "n_head", "n_heads", "num_heads"});
  attention.head_dim =
      config.get({"head_dim", "attention_head_dim", "d_kv"}, shape->hidden / attention.heads);
  attention.kv_heads = config.get({"num_key_value_heads", "num_kv_heads", "n_head_kv"}, attention.heads);
  if (one_of(type, {"falcon", "gpt_bigcode"})) {
    const bool grouped = config.flag({"new_decoder_architecture"}), one = config.flag({"multi_query"});
    if (!grouped) attention.kv_heads = one ? 1 : attention.heads;
  }
  if (type == "chatglm" && config.flag({"multi_query_attention"}))
    attention.kv_heads = config.require({"multi_query_group_num"});
  if (one_of(type, {"chatglm", "qwen"})) attention.head_dim = config.get({"kv_channels"}, attention.head_dim);
  attention.input_bias = config.switched(family.attention_bias);
  attention.output_bias = config.switched(family.output_bias);
  attention.gated = type == "qwen3_next";
  if (family.query_norm != QueryNorm::kNone &&
      (family.query_norm_key == nullptr || config.switched(family.query_norm_key))) {
    const bool whole = family.query_norm == QueryNorm::kWhole;
    attention.norm_parameters = times(attention.head_dim * std::max<int64_t>(1, shape->norm_vectors),
                                      whole ? attention.heads + attention.kv_heads : 2);
  }
  if (config.given("kv_lora_rank")) {
    attention.latent = config.require({"kv_lora_rank"});
    attention.query_latent = config.get({"q_lora_rank"}, 0);
    attention.rope_dim = config.require({"qk_rope_head_dim"});
    attention.nope_dim = config.require({"qk_nope_head_dim"});
    attention.value_dim = config.require({"v_head_dim"});
    (void)config.find({"qk_head_dim"});  // the sum of the two
    (void)config.find({"head_dim"});
  }
}

void read_feed_forward(const ShapeConfig& config, const Family& family, ModelShape* shape) {
  FeedForwardShape& dense = shape->feed_forward;
  ExpertsShape& experts = shape->experts;
  const std::string& type = shape->family;
  dense.gated = family.gated;
  dense.bias = config.switched(family.mlp_bias);
  std::optional<int64_t> width;
  if (const Json* widths = config.array({"intermediate_size"})) {
    check_length(config, "intermediate_size", widths->size(), shape->layers.size());
    for (size_t i = 0; i < widths->size(); ++i)
      shape->layers[i].width = config.size_of("intermediate_size", (*widths)[i]);
    width = shape->layers.front().width;
  } else {
    width =
        config.find({"block_ff_dim", "intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size", "d_ff"});
  }
  const int64_t expert_width =
      config.get({"moe_intermediate_size", "moe_ffn_hidden_size"}, width.value_or(0));
  if (!width && expert_width > 0) width = expert_width;
  if (!width && one_of(type, {"mamba", "mamba2", "nemotron-nas"})) width = 0;
  if (!width && family.gated) shape->not_understood.push_back("intermediate_size (absent)");
  dense.width = width.value_or(times(config.get({"expansion_ratio"}, 4), shape->hidden));
  experts.count = config.get({"num_local_experts", "num_experts", "n_routed_experts"}, 0);
  experts.width = expert_width;
  if (one_of(type, {"deepseek_v3", "glm4_moe", "nemotron_h"})) experts.router_bias = experts.count;
  if (const auto shared = config.find({"shared_expert_intermediate_size", "shared_intermediate_size",
                                       "moe_shared_expert_intermediate_size"})) {
    experts.shared_width = *shared;
    experts.shared_gate = config.find({"shared_expert_intermediate_size"}).has_value();
    (void)config.find({"n_shared_experts"});
  } else {
    experts.shared_width = times(config.get({"n_shared_experts"}, 0), expert_width);
  }
  if (type == "llama4_text") {
    experts.width = experts.shared_width = dense.width;
    dense.width = config.require({"intermediate_size_mlp"});
  }
  if (experts.count == 0 && one_of(type, {"granitemoehybrid", "granitemoeshared"}))
    dense.width = experts.shared_width;
  if (experts.count > 0) shape->active_experts = config.get({"num_experts_per_tok"}, 0);
}

void read_recurrent(const ShapeConfig& config, ModelShape* shape) {
  RecurrentShape& mixer = shape->recurrent;
  const std::string& type = shape->family;
  if (type == "qwen3_next") {
    mixer.delta_heads = config.require({"linear_num_value_heads"});
    const int64_t value_dim = config.require({"linear_value_head_dim"});
    mixer.delta_values = times(mixer.delta_heads, value_dim);
    mixer.state = config.require({"linear_key_head_dim"});
    mixer.delta_keys = times(config.require({"linear_num_key_heads"}), mixer.state);
    mixer.conv = config.require({"linear_conv_kernel_dim"});
    mixer.norm_parameters = value_dim;
    return;
  }
  if (!one_of(type,
              {"nemotron_h", "jamba", "bamba", "granitemoehybrid", "falcon_h1", "mamba", "mamba2", "zamba2"}))
    return;
  const int64_t expanded = times(config.get({"mamba_expand", "expand"}, 2), shape->hidden);
  mixer.state = config.require({"mamba_d_state", "ssm_state_size", "state_size"});
  mixer.conv = config.require({"mamba_d_conv", "conv_kernel"});
  mixer.conv_bias = config.flag({"mamba_conv_bias", "use_conv_bias"});
  mixer.bias = config.flag({"mamba_proj_bias", "use_bias", "add_bias_linear"});
  mixer.output_bias = type == "falcon_h1" ? config.flag({"projectors_bias"}) : mixer.bias;
  mixer.inner = config.get({"mamba_d_ssm"}, expanded);
  if (one_of(type, {"jamba", "mamba"})) {
    if (type == "mamba") mixer.inner = config.get({"intermediate_size", "d_inner"}, expanded);
    mixer.step_rank =
        config.find_unless_text({"mamba_dt_rank", "time_step_rank"}).value_or((shape->hidden + 15) / 16);
    if (type == "jamba") mixer.norm_parameters = mixer.step_rank + 2 * mixer.state;
    return;
  }
  (void)config.find({"head_dim"});  // of Mamba-2 by itself: inner / heads
  mixer.heads = config.require({"mamba_num_heads", "mamba_n_heads", "n_mamba_heads", "num_heads"});
  mixer.groups = config.require({"mamba_n_groups", "mamba_ngroups", "n_groups"});
  const auto head_dim = config.find_unless_text({"mamba_head_dim", "mamba_d_head", "mamba_headdim"});
  if (type == "nemotron_h") mixer.inner = times(mixer.heads, head_dim.value_or(64));
  const bool norm = type != "falcon_h1" || config.flag({"mamba_rms_norm"});
  mixer.norm_parameters = norm ? mixer.inner : 0;
}

// Kinds of one-block layers as hybrid_override_pattern and layers_block_type write them.
void set_block(std::string_view kind, const ShapeConfig& config, LayerShape* layer) {
  layer->attention = layer->recurrent = layer->feed_forward = layer->experts = false;
  if (one_of(kind, {"M", "mamba", "mamba2"})) {
    layer->recurrent = true;
  } else if (one_of(kind, {"*", "attention"})) {
    layer->attention = true;
  } else if (one_of(kind, {"-", "mlp"})) {
    layer->feed_forward = true;
  } else if (one_of(kind, {"E", "moe"})) {
    layer->experts = true;
  } else {
    fail(ErrorCode::kUnsupported, "{}: hybrid_override_pattern: a layer of kind '{}' is not known",
         config.path(), kind);
  }
}

bool contains(const Json* numbers, int64_t value) {
  return numbers != nullptr && std::any_of(numbers->begin(), numbers->end(), [&](const Json& number) {
           return number.is_number_unsigned() && number == Json(value);
         });
}

// Which layers mix by attention and which by a recurrence.
void read_mixers(const ShapeConfig& config, ModelShape* shape) {
  const std::string& type = shape->family;
  const int64_t count = static_cast<int64_t>(shape->layers.size());
  const std::string pattern = type == "nemotron_h" ? config.text("hybrid_override_pattern") : std::string();
  const Json* kinds = config.array({"layer_types", "layers_block_type"});
  if (kinds != nullptr) check_length(config, "layer_types", kinds->size(), shape->layers.size());
  const bool jamba = type == "jamba";
  const int64_t interval = type == "qwen3_next" ? config.get({"full_attention_interval"}, 0) : 0;
  const int64_t period = jamba ? config.get({"attn_layer_period"}, 0) : 0,
                offset = jamba ? config.get({"attn_layer_offset"}, 0) : 0;
  const Json* indices = type == "bamba"  ? config.array({"attn_layer_indices"})
                        : type == "lfm2" ? config.array({"full_attn_idxs"})
                                         : nullptr;
  if (type == "nemotron_h") {
    if (kinds == nullptr)
      check_length(config, "hybrid_override_pattern", pattern.size(), shape->layers.size());
    for (int64_t i = 0; i < count; ++i) {
      const auto at = static_cast<size_t>(i);
      set_block(kinds != nullptr && (*kinds)[at].is_string() ? std::string_view((*kinds)[at].text())
                                                             : std::string_view(pattern).substr(at, 1),
                config, &shape->layers[at]);
    }
    return;
  }
  for (int64_t i = 0; i < count; ++i) {
    LayerShape& layer = shape->layers[static_cast<size_t>(i)];
    const std::string kind = kinds != nullptr && (*kinds)[static_cast<size_t>(i)].is_string()
                                 ? (*kinds)[static_cast<size_t>(i)].text()
                                 : std::string();
    layer.attention = true;
    if (one_of(type, {"mamba", "mamba2"})) layer.attention = false;
    if (type == "bamba") layer.attention = contains(indices, i);
    if (jamba) layer.attention = period > 0 && i % period == offset;
    if (type == "granitemoehybrid") layer.attention = kind != "mamba";
    if (type == "lfm2")
      layer.attention = kinds != nullptr ? kind != "conv" : indices == nullptr || contains(indices, i);
    if (type == "zamba2") layer.attention = kind == "hybrid";
    if (type == "qwen3_next")
      layer.attention = kind.empty() ? interval > 0 && (i + 1) % interval == 0 : kind == "full_attention";
    layer.recurrent = !layer.attention || type == "falcon_h1" || type == "zamba2";
    if (!kind.empty() && !one_of(kind, {"full_attention", "sliding_attention", "chunked_attention",
                                        "attention", "mamba", "linear_attention", "conv", "hybrid"}))
      fail(ErrorCode::kUnsupported, "{}: 'layer_types' has '{}', which is not known", config.path(), kind);
    const bool says_recurrent = one_of(kind, {"mamba", "linear_attention", "conv", "hybrid"});
    if (says_recurrent != layer.recurrent && !kind.empty() && type != "falcon_h1")
      fail(ErrorCode::kUnsupported, "{}: 'layer_types' has '{}', which model_type '{}' is not known to have",
           config.path(), kind, type);
  }
}

void read_windows(const ShapeConfig& config, ModelShape* shape) {
  const int64_t window = config.get({"sliding_window", "attention_chunk_size"}, 0);
  const bool used = config.flag({"use_sliding_window"}, true);
  const int64_t pattern =
      shape->family == "llama4_text"
          ? config.get({"no_rope_layer_interval", "sliding_window_pattern"}, 0)
          : config.get({"sliding_window_pattern", "_sliding_window_pattern", "layer_switch"}, 0);
  const int64_t first = config.get({"max_window_layers"}, 0);
  const Json* kinds = config.array({"layer_types"});
  if (window == 0 || !used) return;
  for (size_t i = 0; i < shape->layers.size(); ++i) {
    LayerShape& layer = shape->layers[i];
    const auto number = static_cast<int64_t>(i);
    const bool narrow = kinds != nullptr && (*kinds)[i].is_string()
                            ? one_of((*kinds)[i].text(), {"sliding_attention", "chunked_attention"})
                            : number >= first && (pattern == 0 || (number + 1) % pattern != 0);
    if (layer.attention && narrow) layer.window = window;
  }
}

// Which layers have experts, which a dense feed-forward part.
void read_sparsity(const ShapeConfig& config, ModelShape* shape) {
  const std::string& type = shape->family;
  const int64_t dense_first = config.get({"first_k_dense_replace"}, 0);
  const int64_t step = config.get({"decoder_sparse_step", "moe_layer_freq", "interleave_moe_layer_step"}, 1);
  const bool periodic = type == "jamba";
  const int64_t period = periodic ? config.get({"expert_layer_period"}, 0) : 0,
                offset = periodic ? config.get({"expert_layer_offset"}, 0) : 0;
  const Json* dense_only = config.array({"mlp_only_layers"});
  const Json* listed = config.array({"moe_layers"});
  if (one_of(type, {"nemotron_h", "mamba", "mamba2"})) return;
  for (size_t i = 0; i < shape->layers.size(); ++i) {
    const auto number = static_cast<int64_t>(i);
    bool sparse = shape->experts.count > 0 && number >= dense_first;
    if (listed != nullptr) {
      sparse = contains(listed, number);
    } else if (periodic) {
      sparse = shape->experts.count > 1 && period > 0 && number % period == offset;
    } else if (step > 1) {
      const bool from_zero = config.given("moe_layer_freq");
      sparse = sparse && (from_zero ? number : number + 1) % step == 0;
    }
    sparse = sparse && !contains(dense_only, number);
    shape->layers[i].experts = sparse;
    shape->layers[i].feed_forward = !sparse;
  }
}

// What single families have beside the common parts.
void read_peculiarities(const ShapeConfig& config, ModelShape* shape) {
  const std::string& type = shape->family;
  if (one_of(type, {"gpt_bigcode", "gpt_neo"})) shape->positions = shape->max_context;
  if (type == "qwen") {
    shape->feed_forward.width /= 2;  // the two matrices of the gate together
    (void)config.flag({"no_bias"});
  }
  if (type == "bloom") shape->final_norms = 2;  // one after the embedding
  if (type == "falcon") {
    const bool parallel = config.flag({"parallel_attn"}, true);
    const int64_t in_parallel = config.get({"num_ln_in_parallel_attn"}, 2);
    const bool grouped = config.flag({"new_decoder_architecture"});
    shape->norms_per_layer = grouped ? in_parallel : parallel ? 1 : 2;
    (void)config.flag({"alibi"});
  }
  if (type == "stablelm" && config.flag({"use_parallel_residual"})) shape->norms_per_layer = 1;
  if (type == "mpt") {
    if (!config.flag({"no_bias"}, true)) shape->not_understood.push_back("no_bias");
    if (config.has_inner("attn_config", "kv_n_heads"))
      shape->not_understood.push_back("attn_config.kv_n_heads");
  }
  if (type == "falcon_h1" && !config.flag({"mamba_use_mlp"}, true))
    for (LayerShape& layer : shape->layers) layer.feed_forward = false;
  if (type == "llama4_text") (void)config.flag({"use_qk_norm"});  // without a weight
  shape->head_bias = config.flag({"lm_head_bias"});
}

}  // namespace

const Json& language_part(const Json& whole) {
  const Json* part = whole.find("text_config");
  return !whole.contains("hidden_size") && part != nullptr && part->is_object() ? *part : whole;
}

std::string model_type_of(const Json& whole) {
  const std::string type = text_of(language_part(whole), "model_type");
  return type.empty() ? text_of(whole, "model_type") : type;
}

std::vector<std::string> parts_left_out(const Json& whole) {
  std::vector<std::string> parts;
  const Json* drafting = language_part(whole).find("num_nextn_predict_layers");
  if (drafting != nullptr && drafting->is_number_unsigned() && drafting->get<uint64_t>() > 0)
    parts.push_back("layers that draft further tokens (num_nextn_predict_layers)");
  for (const char* key : {"vision_config", "audio_config"})
    if (whole.contains(key)) parts.push_back(fmt::format("parts beside the language model ({})", key));
  return parts;
}

ModelShape read_model_shape(const Json& whole, const Family* known, const std::string& path) {
  const Json& part = language_part(whole);
  const bool nested = &part != &whole;
  ModelShape shape;
  shape.model_type = model_type_of(whole);

  static constexpr Family kUnknown{.name = ""};
  const Family& family = known != nullptr ? shape_family(*known) : kUnknown;
  shape.family = family.name;
  const Json defaults = Json::parse(family.defaults);
  const ShapeConfig config(part, defaults, path);
  if (known == nullptr) shape.not_understood.push_back(fmt::format("model_type '{}'", shape.model_type));

  const int64_t layers = config.require({"num_hidden_layers", "n_layer", "n_layers", "num_layers"});
  shape.hidden = config.require({"hidden_size", "n_embd", "n_embed", "d_model"});
  shape.vocabulary = config.require({"padded_vocab_size", "vocab_size"});
  if (static_cast<double>(layers) * static_cast<double>(shape.hidden) > kMostParameters)
    fail(ErrorCode::kMalformedFile, "{}: its sizes give more than 10^17 parameters", path);
  if (layers > kMostLayers)
    fail(ErrorCode::kMalformedFile, "{}: {} layers, expected at most {}", path, layers, kMostLayers);
  shape.layers.resize(static_cast<size_t>(layers));
  shape.max_context = config.get({"max_position_embeddings", "n_positions", "max_seq_len", "seq_length"}, 0);
  shape.norm_vectors = family.norm_vectors >= 0          ? family.norm_vectors
                       : family.norm == NormKind::kLayer ? 2
                                                         : 1;
  shape.norms_per_layer = family.norms_per_layer;
  // Gemma's own configuration ties in the whole or the part.
  const bool tied = config.flag({"tie_embedding", "tie_word_embeddings"});
  const Json* outer = whole.find("tie_word_embeddings");
  shape.tied_head = nested && !part.contains("tie_word_embeddings") && outer != nullptr && outer->is_boolean()
                        ? outer->get<bool>()
                        : tied;

  if (!one_of(shape.family, {"mamba", "mamba2"})) read_attention(config, family, &shape);
  read_feed_forward(config, family, &shape);
  read_recurrent(config, &shape);
  read_mixers(config, &shape);
  read_windows(config, &shape);
  read_sparsity(config, &shape);
  read_peculiarities(config, &shape);
  read_special_shape(config, &shape);
  const AttentionShape& attention = shape.attention;
  for (LayerShape& layer : shape.layers)
    if (layer.attention && layer.cached_values == 0)
      layer.cached_values =
          attention.latent > 0
              ? attention.latent + attention.rope_dim
              : times(2 * (layer.kv_heads > 0 ? layer.kv_heads : attention.kv_heads), attention.head_dim);

  for (std::string& key : config.unread()) shape.not_understood.push_back(std::move(key));
  shape.left_out = parts_left_out(whole);
  return shape;
}

}  // namespace nfloat
