// SPDX-License-Identifier: Apache-2.0
#include "architecture/shape_config.h"

#include <algorithm>
#include <span>

#include "base/fail.h"

namespace nfloat {
namespace {

// Words in the names of keys that speak of shapes, and in those that contain one but change no shape.
constexpr std::string_view kShapeWords[] = {
    "expert",  "moe",         "_rank", "intermediate", "ffn",    "hidden_size", "block_configs",
    "pattern", "mamba",       "ssm",   "conv",         "layers", "layer_types", "_dim",
    "heads",   "multi_query", "kv_",   "_bias",        "altup",  "laurel",      "mlp_",
    "share",   "period",      "qk_",   "embed",        "n_head", "no_bias"};
constexpr std::string_view kNeutralWords[] = {"per_tok",
                                              "skip_bias",
                                              "embedding_fraction",
                                              "kv_cache",
                                              "use_mamba_k",
                                              "mambapy",
                                              "mtp_",
                                              "use_embedding_sharing",
                                              "parallel_embedding",
                                              "topk",
                                              "top_k",
                                              "router",
                                              "rope",
                                              "rotary",
                                              "dropout",
                                              "_eps",
                                              "epsilon",
                                              "initializer",
                                              "token",
                                              "coef",
                                              "alpha",
                                              "init",
                                              "factor",
                                              "scal",
                                              "multiplier",
                                              "quantization",
                                              "hidden_act",
                                              "pdrop",
                                              "chunk",
                                              "vision",
                                              "image",
                                              "audio",
                                              "video",
                                              "time_step",
                                              "kernels",
                                              "max_",
                                              "aux_loss",
                                              "use_cache",
                                              "norm_topk",
                                              "n_group",
                                              "residual",
                                              "attn_implem",
                                              "use_return",
                                              "gradient",
                                              "nextn",
                                              "no_rope",
                                              "dtype",
                                              "tie_",
                                              "activation",
                                              "mamba_hidden",
                                              "keep_",
                                              "sigmoid",
                                              "jitter",
                                              "layerdrop",
                                              "apply_res",
                                              "hidden_states",
                                              "norm_before",
                                              "num_labels",
                                              "ep_size",
                                              "offset_alibi",
                                              "position_embedding_type"};

bool has_word(std::string_view key, std::span<const std::string_view> words) {
  return std::any_of(words.begin(), words.end(),
                     [&](std::string_view word) { return key.find(word) != std::string_view::npos; });
}

}  // namespace

std::optional<int64_t> ShapeConfig::find(Keys keys) const {
  const auto [key, found] = value(keys);
  if (found == nullptr || found->is_null()) return std::nullopt;
  return size_of(key, *found);
}

int64_t ShapeConfig::size_of(const char* key, const Json& value) const {
  if (!value.is_number_unsigned() || value.get<uint64_t>() > uint64_t{1} << 32)
    fail(ErrorCode::kMalformedFile, "{}: '{}' is {}, expected a size", path_, key,
         value.dump(-1, Json::Invalid::kReplace));
  return value.get<int64_t>();
}

int64_t ShapeConfig::require(Keys keys) const {
  const std::optional<int64_t> value = find(keys);
  if (!value)
    fail(ErrorCode::kUnsupported, "{}: no '{}': not the configuration of a known kind of model", path_,
         *keys.begin());
  if (*value < 1) fail(ErrorCode::kMalformedFile, "{}: '{}' is zero, expected a size", path_, *keys.begin());
  return *value;
}

std::pair<const char*, const Json*> ShapeConfig::value(Keys keys) const {
  std::pair<const char*, const Json*> result{*keys.begin(), nullptr};
  for (const Json* object : {&config_, &defaults_}) {
    for (const char* key : keys) {
      asked_.insert(key);
      const Json* found = object->find(key);
      if (found != nullptr && (result.second == nullptr || result.second->is_null())) result = {key, found};
    }
    if (result.second != nullptr) break;
  }
  return result;
}

std::vector<std::string> unread_shape_keys(const Json& config, const AskedKeys& asked) {
  std::vector<std::string> keys;
  for (const auto& [key, found] : config.items()) {
    const bool off = found.is_null() || (found.is_string() && key.find("pattern") == std::string::npos) ||
                     (found.is_boolean() && !found.get<bool>()) || (found.is_number() && found == Json(0)) ||
                     ((found.is_array() || found.is_object()) && found.empty());
    if (!off && !asked.contains(key) && !key.starts_with('_') && has_word(key, kShapeWords) &&
        !has_word(key, kNeutralWords))
      keys.push_back(key);
  }
  return keys;
}

}  // namespace nfloat
