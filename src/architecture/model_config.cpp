// SPDX-License-Identifier: Apache-2.0
#include "nfloat/model_config.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>

#include "architecture/config_reader.h"
#include "architecture/families.h"
#include "architecture/rope_config.h"
#include "architecture/tensor_list.h"
#include "base/fail.h"
#include "base/json_reader.h"

namespace nfloat {
namespace {

// Bounds well above any published model. The largest product of two is below 2^40, so no size overflows.
constexpr int64_t kMaxLayers = 1024;
constexpr int64_t kMaxWidth = int64_t{1} << 20;
constexpr int64_t kMaxHeads = 4096;
constexpr int64_t kMaxHeadDim = 4096;
constexpr int64_t kMaxContext = kMaxRopeContext;
constexpr int64_t kMaxExperts = 4096;

const Family& read_family(const Json& config, const std::string& source) {
  if (const Family* family = family_of(config); family != nullptr && family->runs()) return *family;
  const Json* list = config.find("architectures");
  const bool named = list != nullptr && list->is_array() && !list->empty() && list->front().is_string();
  fail(
      ErrorCode::kUnsupported,
      "{}: the architecture {} (model_type \"{}\") has no description in this version; the ones that run: {}",
      source, named ? list->front().text() : "without a name", text_of(config, "model_type"),
      fmt::join(model_families(), ", "));
}

// Adds the keys of `from`, the family's own names for some of them last. Null is a value: it takes away what
// `into` has. But for the activation, without which no model runs.
void merge(Json& into, const Json& from, const Family& family) {
  const auto put = [&](const std::string& key, const Json& value) {
    if (!value.is_null())
      into[key] = value;
    else if (key != "hidden_act")
      into.erase(key);
  };
  for (const auto& [key, value] : from.items()) put(key, value);
  for (const FamilyAlias& alias : family.aliases) {
    const Json* found = from.find(alias.key);
    if (found != nullptr && (!found->is_null() || !from.contains(alias.means))) put(alias.means, *found);
  }
}

Activation read_activation(const JsonReader& root) {
  struct Name {
    const char* name;
    Activation activation;
  };
  constexpr Name kNames[] = {
      {"silu", Activation::kSilu},          {"swish", Activation::kSilu},
      {"gelu", Activation::kGelu},          {"gelu_new", Activation::kGeluTanh},
      {"gelu_fast", Activation::kGeluTanh}, {"gelu_pytorch_tanh", Activation::kGeluTanh},
      {"relu", Activation::kRelu},          {"quick_gelu", Activation::kQuickGelu}};
  const std::string text = root.text_or("hidden_act", "silu");
  for (const Name& one : kNames)
    if (text == one.name) return one.activation;
  fail(ErrorCode::kUnsupported,
       "{}: the activation \"{}\" is not known to this version; it runs silu, gelu, gelu_new, "
       "gelu_pytorch_tanh, quick_gelu and relu",
       root.source(), text);
}

// A list of `layers` integers, empty when the key is absent.
std::vector<int64_t> read_list(const JsonReader& root, const char* key, int64_t most) {
  std::vector<int64_t> list;
  const Json* value = root.get(key);
  if (value == nullptr) return list;
  bool good = value->is_array() && value->size() <= static_cast<size_t>(most);
  if (good)
    for (const Json& one : *value) {
      good = good && one.is_number_integer();
      if (good) list.push_back(one.get<int64_t>());
    }
  if (!good)
    fail(ErrorCode::kMalformedFile, "{}: \"{}\" is {}, expected a list of at most {} integers", root.source(),
         key, JsonReader::shown(*value), most);
  return list;
}

void read_experts(const JsonReader& root, const Family& family, ModelConfig& config) {
  if (family.tensors.router == nullptr) return;
  ExpertsConfig& experts = config.experts;
  experts.count = root.integer("num_experts", 0, kMaxExperts);
  if (experts.count == 0) return;
  experts.chosen = root.integer("num_experts_per_tok", 1, experts.count);
  experts.intermediate = root.integer_or("moe_intermediate_size", 1, kMaxWidth, config.intermediate);
  experts.normalize = root.boolean_or("norm_topk_prob", true);
  experts.bias = config.mlp_bias;
  experts.limit = root.number_or("swiglu_limit", 0, 1e6, 0);
}

// What differs from layer to layer: the window, the rotary embedding, the mixture.
void read_layers(const JsonReader& root, const Family& family, ModelConfig& config) {
  const int64_t window = root.integer_or("sliding_window", 0, kMaxContext, 0);
  const bool used = root.boolean_or("use_sliding_window", true);
  const int64_t first = root.integer_or("max_window_layers", 0, kMaxContext, 0);
  const int64_t pattern = root.integer_or("sliding_window_pattern", 1, kMaxLayers, 1);
  const bool has_local_rope = root.get("rope_local_base_freq") != nullptr;
  const std::vector<int64_t> rope_layers = read_list(root, "no_rope_layers", kMaxLayers);
  const int64_t rope_interval = root.integer_or("no_rope_layer_interval", 1, kMaxLayers, kMaxLayers + 1);
  const std::vector<int64_t> dense_layers = read_list(root, "mlp_only_layers", kMaxLayers);
  const int64_t sparse_step = root.integer_or("decoder_sparse_step", 1, kMaxLayers, 1);
  const Json* types = root.get("layer_types");
  const auto layers = static_cast<size_t>(config.layers);
  if (types != nullptr && (!types->is_array() || types->size() != layers))
    fail(ErrorCode::kMalformedFile, "{}: \"layer_types\" is {}, expected a list of {} strings", root.source(),
         JsonReader::shown(*types), layers);
  if (!rope_layers.empty() && rope_layers.size() != layers)
    fail(ErrorCode::kMalformedFile, "{}: \"no_rope_layers\" has {} entries for {} layers", root.source(),
         rope_layers.size(), layers);

  for (size_t i = 0; i < layers; ++i) {
    const auto number = static_cast<int64_t>(i) + 1;
    LayerConfig layer;
    const bool turns = rope_layers.empty() ? number % rope_interval != 0 : rope_layers[i] != 0;
    bool local = false;
    if (types != nullptr) {
      const std::string type = (*types)[i].is_string() ? (*types)[i].get<std::string>() : "";
      if (type != "full_attention" && type != "sliding_attention")
        fail(ErrorCode::kUnsupported,
             "{}: layer {} has attention of type {}; the ones that run: full_attention, sliding_attention",
             root.source(), i, JsonReader::shown((*types)[i]));
      local = type == "sliding_attention" && used;
    } else {
      local = family.window == WindowRule::kAll ||
              (family.window == WindowRule::kPattern && number % pattern != 0) ||
              (family.window == WindowRule::kUpper && used && number > first) ||
              (family.window == WindowRule::kNoRope && used && !turns);
    }
    if (local) layer.window = window;
    if (!family.rotary || !turns)
      layer.rope = LayerRope::kNone;
    else if (local && has_local_rope)
      layer.rope = LayerRope::kLocal;
    layer.experts = config.experts.count > 0 && number % sparse_step == 0 &&
                    std::find(dense_layers.begin(), dense_layers.end(), number - 1) == dense_layers.end();
    config.each_layer.push_back(layer);
  }
  if (family.window == WindowRule::kAll) config.sliding_window = window;
}

void read_scales(const JsonReader& root, ModelConfig& config) {
  constexpr double kMost = 1e6;
  if (root.get("query_pre_attn_scalar") != nullptr)
    config.attention_scale = 1 / std::sqrt(root.number("query_pre_attn_scalar", 1e-6, kMost));
  config.attention_scale = root.number_or("attention_scale", 1e-9, kMost, config.attention_scale);
  config.attention_softcap = root.number_or("attention_softcap", 0, kMost, 0);
  config.logit_softcap = root.number_or("logit_softcap", 0, kMost, 0);
  const Json* embedding = root.get("embedding_scale");
  config.embedding_scale = embedding != nullptr && embedding->is_string()
                               ? std::sqrt(static_cast<double>(config.hidden))
                               : root.number_or("embedding_scale", -kMost, kMost, 1);
  config.residual_scale = root.number_or("residual_scale", -kMost, kMost, 1);
  config.logit_scale = 1 / root.number_or("logits_scaling", 1e-6, kMost, 1);
}

// Keys of some families in a configuration of another one, for which they mean nothing: refused unless they
// change nothing.
void refuse_of_others(const JsonReader& root, const Family& family, const ModelConfig& config) {
  const Json own = usual_config(Json::object(), family);
  const auto has = [&](std::string_view key) {
    return own.contains(std::string(key)) ||
           std::any_of(family.aliases.begin(), family.aliases.end(),
                       [&](const FamilyAlias& alias) { return key == alias.key || key == alias.means; });
  };
  const auto refuse = [&](const char* key, const char* home, bool changes) {
    if (!has(home) && changes)
      fail(ErrorCode::kUnsupported, "{}: \"{}\" is {}, which the family {} does not have", root.source(), key,
           JsonReader::shown(*root.get(key)), family.name);
  };
  const auto scale = [&](const char* key, std::initializer_list<double> neutral) {
    const Json* value = root.get(key);
    const auto same = [&](double one) {
      return value->is_number() && std::abs(value->get<double>() - one) < 1e-12;
    };
    refuse(key, key, value != nullptr && std::none_of(neutral.begin(), neutral.end(), same));
  };
  const double usual = 1 / std::sqrt(static_cast<double>(config.head_dim));
  scale("query_pre_attn_scalar", {static_cast<double>(config.head_dim)});
  scale("attention_scale", {usual});
  scale("attention_multiplier", {usual, 1});  // 1: what nobody has set
  for (const char* key :
       {"embedding_scale", "embedding_multiplier", "residual_scale", "residual_multiplier", "logits_scaling"})
    scale(key, {1});
  for (const char* key :
       {"attention_softcap", "attn_logit_softcapping", "logit_softcap", "final_logit_softcapping"})
    scale(key, {0});
  const bool looks_near = std::any_of(config.each_layer.begin(), config.each_layer.end(),
                                      [](const LayerConfig& layer) { return layer.window > 0; });
  if (family.window == WindowRule::kNever && looks_near)
    fail(ErrorCode::kUnsupported,
         "{}: \"layer_types\" has sliding_attention, which the family {} does not have", root.source(),
         family.name);
  const bool still = std::any_of(config.each_layer.begin(), config.each_layer.end(),
                                 [](const LayerConfig& layer) { return layer.rope == LayerRope::kNone; });
  for (const char* key : {"no_rope_layers", "no_rope_layer_interval"})
    refuse(key, "no_rope_layer_interval", family.rotary && still && root.get(key) != nullptr);
}

// Keys that would change the computation in ways that no family here has.
void refuse_unknown(const JsonReader& root) {
  const auto refuse = [&](const char* key, bool bad) {
    if (bad)
      fail(ErrorCode::kUnsupported, "{}: \"{}\" is {}, which this version does not run", root.source(), key,
           JsonReader::shown(*root.get(key)));
  };
  refuse("clip_qkv", root.get("clip_qkv") != nullptr);
  refuse("scale_attn_weights", !root.boolean_or("scale_attn_weights", true));
  refuse("scale_attn_by_inverse_layer_idx", root.boolean_or("scale_attn_by_inverse_layer_idx", false));
  refuse("layer_norm_elementwise_affine", !root.boolean_or("layer_norm_elementwise_affine", true));
  refuse("use_bidirectional_attention", root.boolean_or("use_bidirectional_attention", false));
}

}  // namespace

int64_t ModelConfig::parameters() const {
  int64_t total = 0;
  for (const ExpectedTensor& tensor : expected_tensors(*this)) total += tensor.shape.elements();
  return total;
}

std::vector<std::string> model_families() {
  std::vector<std::string> names;
  for (const Family& family : families())
    if (family.runs()) names.emplace_back(family.name);
  return names;
}

const Family* family_of(const Json& config) {
  const std::string model_type = text_of(config, "model_type");
  if (!model_type.empty()) return find_family(model_type);
  const Json* list = config.find("architectures");
  if (list == nullptr || !list->is_array() || list->empty() || !list->front().is_string()) return nullptr;
  for (const Family& family : families())
    if (family.architecture != nullptr && list->front().text() == family.architecture) return &family;
  return nullptr;
}

Json with_language_part(const Json& whole) {
  const Json* part = whole.find("text_config");
  if (part == nullptr || !part->is_object()) return whole;
  Json config = whole;
  config.erase("text_config");
  for (const auto& [key, value] : part->items()) config[key] = value;
  return config;
}

Json usual_config(const Json& config, const Family& family) {
  Json usual = Json::object();
  merge(usual, Json::parse(family.defaults), family);
  merge(usual, config, family);
  return usual;
}

void read_shape(const JsonReader& root, const Family& family, ModelConfig& config) {
  config.family = family.name;
  config.layers = root.integer("num_hidden_layers", 1, kMaxLayers);
  config.hidden = root.integer("hidden_size", 1, kMaxWidth);
  config.intermediate = family.gated ? root.integer("intermediate_size", 1, kMaxWidth)
                                     : root.integer_or("intermediate_size", 1, kMaxWidth, 4 * config.hidden);
  config.heads = root.integer("num_attention_heads", 1, kMaxHeads);
  config.kv_heads = root.integer_or("num_key_value_heads", 1, kMaxHeads, config.heads);
  config.vocabulary = root.integer("vocab_size", 1, kMaxWidth * 4);
  config.context = root.integer_or("max_position_embeddings", 1, kMaxContext, 2048);
  if (config.heads % config.kv_heads != 0)
    fail(ErrorCode::kMalformedFile, "{}: {} attention heads are no multiple of {} key-value heads",
         root.source(), config.heads, config.kv_heads);
  if (root.get("head_dim") == nullptr && config.hidden % config.heads != 0)
    fail(ErrorCode::kMalformedFile, "{}: hidden_size {} is no multiple of {} attention heads", root.source(),
         config.hidden, config.heads);
  config.head_dim = root.integer_or("head_dim", 1, kMaxHeadDim, config.hidden / config.heads);
  if (config.head_dim % 2 != 0 || config.head_dim > kMaxHeadDim || config.query_size() > kMaxWidth)
    fail(ErrorCode::kMalformedFile,
         "{}: {} heads of {} dimensions, expected even heads and at most {} in all", root.source(),
         config.heads, config.head_dim, kMaxWidth);

  const auto flag = [&](const char* key) { return key != nullptr && root.boolean_or(key, false); };
  config.attention_bias = flag(family.attention_bias);
  config.output_bias = flag(family.output_bias);
  config.mlp_bias = flag(family.mlp_bias);
  config.tied_head = root.boolean_or("tie_word_embeddings", false);
  config.norm = family.norm;
  config.norm_place =
      root.boolean_or("do_layer_norm_before", true) ? family.norm_place : NormPlace::kAfterResidual;
  config.query_norm = family.query_norm;
  config.norm_plus_one = family.norm_plus_one;
  config.final_norm =
      root.boolean_or("do_layer_norm_before", true) && !root.boolean_or("_remove_final_layer_norm", false);
  config.parallel_blocks = root.boolean_or("parallel_blocks", false);
  config.interleaved_heads = family.interleaved_heads;
  config.gated = family.gated;
  config.attention_sinks = family.tensors.sinks != nullptr;
  if (family.tensors.positions != nullptr) config.position_rows = config.context + family.position_offset;
  if (family.tensors.project_in != nullptr) {
    config.embedding_size = root.integer_or("embedding_size", 1, kMaxWidth, config.hidden);
    if (config.embedding_size == config.hidden) config.embedding_size = 0;
  }
  read_experts(root, family, config);
  read_layers(root, family, config);
}

void read_computation(const Json& usual, const JsonReader& root, const Family& family, ModelConfig& config) {
  config.norm_epsilon =
      root.number_or(family.norm == NormKind::kRms ? "rms_norm_eps" : "norm_epsilon", 0, 1, 1e-6);
  config.activation = read_activation(root);
  read_scales(root, config);
  if (family.rotary) read_rope(usual, root.source(), config);
  refuse_of_others(root, family, config);
  refuse_unknown(root);
  config.bos_token = static_cast<int32_t>(root.integer_or("bos_token_id", -1, config.vocabulary - 1, -1));
  config.eos_tokens = root.token_ids("eos_token_id", config.vocabulary);
}

ModelConfig parse_model_config(std::string_view json, const std::string& source) {
  const Json file = with_language_part(parse_small_json(json, source));
  const Family& family = read_family(file, source);
  const Json usual = usual_config(file, family);
  const JsonReader root(usual, source);
  ModelConfig config;
  read_shape(root, family, config);
  read_computation(usual, root, family, config);
  return config;
}

}  // namespace nfloat
