// SPDX-License-Identifier: Apache-2.0
#include "nfloat/model_config.h"

#include <fmt/ranges.h>

#include <cmath>

#include "base/fail.h"
#include "model/families.h"
#include "model/json_reader.h"

namespace nfloat {
namespace {

// Bounds well above any published model. The largest product of two is below 2^40, so no size overflows.
constexpr int64_t kMaxLayers = 1024;
constexpr int64_t kMaxWidth = int64_t{1} << 20;
constexpr int64_t kMaxHeads = 4096;
constexpr int64_t kMaxHeadDim = 4096;
constexpr int64_t kMaxContext = int64_t{1} << 27;

const Family& read_family(const JsonReader& reader) {
  const std::string model_type = reader.text_or("model_type", "");
  if (const Family* family = find_family(model_type)) return *family;
  std::string architecture;
  if (const Json* list = reader.get("architectures"); list != nullptr && list->is_array() && !list->empty())
    architecture = list->front().is_string() ? list->front().get<std::string>() : "";
  if (model_type.empty())
    for (const Family& family : families())
      if (architecture == family.architecture) return family;
  fail(
      ErrorCode::kUnsupported,
      "{}: the architecture {} (model_type \"{}\") has no description in this version; the ones that run: {}",
      reader.source(), architecture.empty() ? "without a name" : architecture, model_type,
      fmt::join(model_families(), ", "));
}

void read_rope_scaling(const JsonReader& root, const std::string& source, ModelConfig& config) {
  // Transformers 5 writes "rope_parameters" with theta inside; before that "rope_theta" and "rope_scaling".
  const Json* parameters = root.get("rope_parameters");
  const char* key = parameters != nullptr ? "rope_parameters" : "rope_scaling";
  config.rope.theta = root.number_or("rope_theta", 1, 1e12, 10000);
  const Json* scaling = root.get(key);
  if (scaling == nullptr) return;
  if (!scaling->is_object())
    fail(ErrorCode::kMalformedFile, "{}: \"{}\" is {}, expected an object", source, key,
         JsonReader::shown(*scaling));
  const JsonReader rope(*scaling, source, std::string(key) + ".");
  config.rope.theta = rope.number_or("rope_theta", 1, 1e12, config.rope.theta);
  const std::string type = rope.text_or("rope_type", rope.text_or("type", "default").c_str());
  if (type == "default") return;
  if (type == "linear") {
    config.rope.scaling = RopeScaling::kLinear;
  } else if (type == "dynamic") {
    config.rope.scaling = RopeScaling::kDynamic;
    config.rope.original_context =
        rope.integer_or("original_max_position_embeddings", 1, kMaxContext, config.context);
  } else if (type == "llama3") {
    config.rope.scaling = RopeScaling::kLlama3;
    config.rope.low_frequency_factor = rope.number("low_freq_factor", 1e-3, 1e6);
    config.rope.high_frequency_factor = rope.number("high_freq_factor", 1e-3, 1e6);
    config.rope.original_context = rope.integer("original_max_position_embeddings", 1, kMaxContext);
    if (config.rope.high_frequency_factor <= config.rope.low_frequency_factor)
      fail(ErrorCode::kMalformedFile,
           "{}: \"{}.high_freq_factor\" is {}, expected more than low_freq_factor, {}", source, key,
           config.rope.high_frequency_factor, config.rope.low_frequency_factor);
  } else {
    fail(ErrorCode::kUnsupported,
         "{}: RoPE scaling \"{}\" is not known to this version; the ones that run: default, linear, dynamic, "
         "llama3",
         source, type);
  }
  config.rope.factor = rope.number("factor", 1e-3, 1e6);
}

}  // namespace

int64_t ModelConfig::parameters() const noexcept {
  const int64_t attention = hidden * (query_size() + 2 * kv_size()) + query_size() * hidden;
  int64_t layer = attention + 3 * hidden * intermediate + 2 * hidden;
  if (attention_bias) layer += query_size() + 2 * kv_size();
  if (output_bias) layer += hidden;
  if (mlp_bias) layer += 2 * intermediate + hidden;
  return layers * layer + hidden + vocabulary * hidden * (tied_head ? 1 : 2);
}

std::vector<std::string> model_families() {
  std::vector<std::string> names;
  for (const Family& family : families()) names.emplace_back(family.name);
  return names;
}

ModelConfig parse_model_config(std::string_view json, const std::string& source) {
  const Json root_json = parse_small_json(json, source);
  if (!root_json.is_object()) fail(ErrorCode::kMalformedFile, "{}: expected a JSON object", source);
  const JsonReader root(root_json, source);
  const Family& family = read_family(root);

  ModelConfig config;
  config.family = family.name;
  config.layers = root.integer("num_hidden_layers", 1, kMaxLayers);
  config.hidden = root.integer("hidden_size", 1, kMaxWidth);
  config.intermediate = root.integer("intermediate_size", 1, kMaxWidth);
  config.heads = root.integer("num_attention_heads", 1, kMaxHeads);
  config.kv_heads = root.integer_or("num_key_value_heads", 1, kMaxHeads, config.heads);
  config.vocabulary = root.integer("vocab_size", 1, kMaxWidth * 4);
  config.context = root.integer_or("max_position_embeddings", 1, kMaxContext, 2048);
  config.norm_epsilon = root.number_or("rms_norm_eps", 0, 1, 1e-6);
  if (config.heads % config.kv_heads != 0)
    fail(ErrorCode::kMalformedFile, "{}: {} attention heads are no multiple of {} key-value heads", source,
         config.heads, config.kv_heads);
  if (root.get("head_dim") == nullptr && config.hidden % config.heads != 0)
    fail(ErrorCode::kMalformedFile, "{}: hidden_size {} is no multiple of {} attention heads", source,
         config.hidden, config.heads);
  config.head_dim = root.integer_or("head_dim", 1, kMaxHeadDim, config.hidden / config.heads);
  if (config.head_dim % 2 != 0 || config.head_dim > kMaxHeadDim || config.query_size() > kMaxWidth)
    fail(ErrorCode::kMalformedFile,
         "{}: {} heads of {} dimensions, expected even heads and at most {} in all", source, config.heads,
         config.head_dim, kMaxWidth);
  if (family.sliding_window) config.sliding_window = root.integer_or("sliding_window", 0, kMaxContext, 0);

  const auto flag = [&](const FamilyFlag& from) {
    return from.key == nullptr ? from.fixed : root.boolean_or(from.key, from.fixed);
  };
  config.attention_bias = flag(family.attention_bias);
  config.output_bias = flag(family.output_bias);
  config.mlp_bias = flag(family.mlp_bias);
  config.tied_head = root.boolean_or("tie_word_embeddings", family.tied_by_default);

  const std::string activation = root.text_or("hidden_act", "silu");
  if (activation != "silu" && activation != "swish")
    fail(ErrorCode::kUnsupported, "{}: the activation \"{}\" is not known to this version; it runs silu",
         source, activation);
  read_rope_scaling(root, source, config);
  config.bos_token = static_cast<int32_t>(root.integer_or("bos_token_id", -1, config.vocabulary - 1, -1));
  config.eos_tokens = root.token_ids("eos_token_id", config.vocabulary);
  return config;
}

}  // namespace nfloat
