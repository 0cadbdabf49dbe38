// SPDX-License-Identifier: Apache-2.0
#include "architecture/description.h"

#include "architecture/config_reader.h"
#include "architecture/model_size.h"
#include "architecture/shape_config.h"
#include "base/fail.h"

namespace nfloat {
namespace {

std::vector<LayerShape> layers_of(const ModelConfig& config) {
  std::vector<LayerShape> layers;
  for (int64_t i = 0; i < config.layers; ++i) {
    const LayerConfig layer = config.layer(i);
    layers.push_back({.attention = true,
                      .feed_forward = !layer.experts,
                      .experts = layer.experts,
                      .window = layer.window,
                      .cached_values = 2 * config.kv_size()});
  }
  return layers;
}

ModelDescription describe_what_runs(const Json& whole, const Family& named, const std::string& source) {
  const Family& family = shape_family(named);
  const Json file = with_language_part(whole), usual = usual_config(file, family);
  AskedKeys asked;
  JsonReader root(usual, source);
  root.remember(&asked);
  ModelConfig config;
  read_shape(root, family, config);

  ModelDescription description;
  ModelSize& size = description.size;
  if (!named.runs()) {
    size.why_not = fmt::format("{} does not run here", named.name);
  } else {
    try {
      read_computation(usual, root, family, config);
    } catch (const Error& error) {
      size.why_not = error.what();
    }
  }
  for (const FamilyAlias& alias : family.aliases)
    if (asked.contains(alias.means)) asked.insert(alias.key);
  description.family = &named;
  description.layers = layers_of(config);
  description.tensors = expected_tensors(config, ExpertLayout::kFused);
  count_tensors(config, description.tensors, source, &size);
  count_cache(description.layers, &size);
  size.model_type = named.name;
  if (root.get("max_position_embeddings") == nullptr) size.max_context = 0;
  size.not_understood = unread_shape_keys(language_part(whole), asked);
  return description;
}

}  // namespace

ModelDescription describe_model(const Json& whole, const std::string& source) {
  const Family* family = family_of(with_language_part(whole));
  if (family != nullptr && shape_family(*family).runs()) {
    ModelDescription description = describe_what_runs(whole, *family, source);
    description.size.left_out = parts_left_out(whole);
    return description;
  }
  const ModelShape shape = read_model_shape(whole, family, source);
  ModelDescription description{family, shape.layers, {}, count_model(shape, source)};
  description.size.why_not = family != nullptr
                                 ? fmt::format("{} does not run here", family->name)
                                 : fmt::format("model_type '{}' is not known", shape.model_type);
  return description;
}

}  // namespace nfloat
