// SPDX-License-Identifier: Apache-2.0
#include "architecture/rope_config.h"

#include <algorithm>
#include <cmath>

namespace nfloat {
namespace {

std::vector<double> read_factors(const JsonReader& rope, const char* key, int64_t count) {
  const Json* list = rope.get(key);
  std::vector<double> factors;
  if (list != nullptr && list->is_array() && list->size() == static_cast<size_t>(count))
    for (const Json& one : *list)
      if (one.is_number() && one.get<double>() >= 1e-6 && one.get<double>() <= 1e12)
        factors.push_back(one.get<double>());
  if (factors.size() != static_cast<size_t>(count))
    fail(ErrorCode::kMalformedFile, "{}: \"rope_scaling.{}\" is {}, expected a list of {} positive numbers",
         rope.source(), key, list == nullptr ? "missing" : JsonReader::shown(*list), count);
  return factors;
}

void read_llama3(const JsonReader& rope, RopeConfig& config) {
  config.scaling = RopeScaling::kLlama3;
  config.low_frequency_factor = rope.number("low_freq_factor", 1e-3, 1e6);
  config.high_frequency_factor = rope.number("high_freq_factor", 1e-3, 1e6);
  config.original_context = rope.integer("original_max_position_embeddings", 1, kMaxRopeContext);
  if (config.high_frequency_factor <= config.low_frequency_factor)
    fail(ErrorCode::kMalformedFile,
         "{}: \"rope_scaling.high_freq_factor\" is {}, expected more than low_freq_factor, {}", rope.source(),
         config.high_frequency_factor, config.low_frequency_factor);
}

void read_yarn(const JsonReader& rope, int64_t context, RopeConfig& config) {
  config.scaling = RopeScaling::kYarn;
  config.original_context = rope.integer_or("original_max_position_embeddings", 1, kMaxRopeContext, context);
  const double derived = static_cast<double>(context) / static_cast<double>(config.original_context);
  config.factor = rope.number_or("factor", 1e-3, 1e6, derived);
  config.beta_fast = rope.number_or("beta_fast", 1e-6, 1e6, 32);
  config.beta_slow = rope.number_or("beta_slow", 1e-6, 1e6, 1);
  config.truncate = rope.boolean_or("truncate", true);
  const auto magnitude = [&](double weight) {
    return config.factor <= 1 ? 1.0 : 0.1 * weight * std::log(config.factor) + 1;
  };
  const double mscale = rope.number_or("mscale", 0, 1e3, 0),
               all = rope.number_or("mscale_all_dim", 0, 1e3, 0);
  config.attention_factor =
      rope.number_or("attention_factor", 1e-6, 1e6,
                     mscale > 0 && all > 0 ? magnitude(mscale) / magnitude(all) : magnitude(1));
}

void read_long(const JsonReader& root, const JsonReader& rope, int64_t context, int64_t pairs,
               RopeConfig& config) {
  config.scaling = RopeScaling::kLongRope;
  config.short_factors = read_factors(rope, "short_factor", pairs);
  config.long_factors = read_factors(rope, "long_factor", pairs);
  // Phi says the trained context beside rope_scaling, and then the factor follows from the two.
  const int64_t inside = rope.integer_or("original_max_position_embeddings", 1, kMaxRopeContext, 0);
  config.original_context =
      root.integer_or("original_max_position_embeddings", 1, kMaxRopeContext, inside > 0 ? inside : context);
  const double ratio = static_cast<double>(context) / static_cast<double>(config.original_context);
  const bool derived = inside > 0 || root.get("original_max_position_embeddings") != nullptr;
  config.factor = derived ? ratio : rope.number_or("factor", 1e-3, 1e6, 1);
  const double usual =
      config.factor <= 1 || config.original_context == 1
          ? 1.0
          : std::sqrt(1 + std::log(config.factor) / std::log(static_cast<double>(config.original_context)));
  config.attention_factor = rope.number_or("attention_factor", 1e-6, 1e6, usual);
}

// `scaling`: the object of "rope_scaling" or of "rope_parameters", or one of the two in the latter.
void read_scaling(const JsonReader& root, const Json& scaling, const std::string& key,
                  const std::string& source, const ModelConfig& config, RopeConfig& into) {
  if (!scaling.is_object())
    fail(ErrorCode::kMalformedFile, "{}: \"{}\" is {}, expected an object", source, key,
         JsonReader::shown(scaling));
  const JsonReader rope(scaling, source, key + ".");
  into.theta = rope.number_or("rope_theta", 1, 1e12, into.theta);
  const std::string type = rope.text_or("rope_type", rope.text_or("type", "default").c_str());
  if (type == "default") return;
  if (type == "yarn") return read_yarn(rope, config.context, into);
  if (type == "longrope" || type == "su")
    return read_long(root, rope, config.context,
                     (config.rotary_dim > 0 ? config.rotary_dim : config.head_dim) / 2, into);
  if (type == "linear") {
    into.scaling = RopeScaling::kLinear;
  } else if (type == "dynamic") {
    into.scaling = RopeScaling::kDynamic;
    into.original_context =
        rope.integer_or("original_max_position_embeddings", 1, kMaxRopeContext, config.context);
  } else if (type == "llama3") {
    read_llama3(rope, into);
  } else {
    fail(ErrorCode::kUnsupported,
         "{}: RoPE scaling \"{}\" is not known to this version; the ones that run: default, linear, dynamic, "
         "llama3, yarn, longrope",
         source, type);
  }
  into.factor = rope.number("factor", 1e-3, 1e6);
}

}  // namespace

namespace {

// YaRN and linear scaling lengthen what the model was trained for by their factor, whether or not
// max_position_embeddings says so; Gemma 3's says so.
void lengthen_context(const JsonReader& scaling, ModelConfig& config) {
  const RopeConfig& rope = config.rope;
  if ((rope.scaling != RopeScaling::kYarn && rope.scaling != RopeScaling::kLinear) ||
      config.family.starts_with("gemma3"))
    return;
  const int64_t original =
      scaling.integer_or("original_max_position_embeddings", 1, kMaxRopeContext, config.context);
  const double longer = std::floor(static_cast<double>(original) * rope.factor);
  config.context =
      std::max(config.context, static_cast<int64_t>(std::min(longer, static_cast<double>(kMaxRopeContext))));
}

}  // namespace

void read_rope(const Json& root_json, const std::string& source, ModelConfig& config) {
  const JsonReader root(root_json, source);
  // Transformers 5 writes "rope_parameters" with theta inside; before that "rope_theta" and "rope_scaling".
  const Json* parameters = root.get("rope_parameters");
  const Json* both =
      parameters != nullptr && parameters->is_object() && parameters->contains("full_attention") ? parameters
                                                                                                 : nullptr;
  const Json* main = both != nullptr ? &(*both)["full_attention"] : parameters;
  const char* key = parameters != nullptr ? "rope_parameters" : "rope_scaling";
  if (main == nullptr) main = root.get("rope_scaling");

  double part = root.number_or("partial_rotary_factor", 0, 1, 1);
  if (main != nullptr && main->is_object())
    part = JsonReader(*main, source, std::string(key) + ".").number_or("partial_rotary_factor", 0, 1, part);
  if (part < 1) {
    config.rotary_dim = static_cast<int64_t>(static_cast<double>(config.head_dim) * part);
    if (config.rotary_dim < 2 || config.rotary_dim % 2 != 0)
      fail(ErrorCode::kMalformedFile, "{}: {} of {} dimensions of a head turn, expected an even number",
           source, config.rotary_dim, config.head_dim);
  }
  config.rope.theta = root.number_or("rope_theta", 1, 1e12, 10000);
  if (main != nullptr) read_scaling(root, *main, key, source, config, config.rope);
  if (main != nullptr) lengthen_context(JsonReader(*main, source, std::string(key) + "."), config);
  config.local_rope.theta = root.number_or("rope_local_base_freq", 1, 1e12, 10000);
  if (both != nullptr && both->contains("sliding_attention"))
    read_scaling(root, (*both)["sliding_attention"], "rope_parameters.sliding_attention", source, config,
                 config.local_rope);
}

}  // namespace nfloat
