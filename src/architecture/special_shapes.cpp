// SPDX-License-Identifier: Apache-2.0
#include "architecture/special_shapes.h"

#include <algorithm>
#include <cmath>

#include "base/fail.h"

namespace nfloat {
namespace {

constexpr double kMostWidth = 1e9;

double as_double(int64_t value) {
  return static_cast<double>(value);
}

// The next multiple of `multiple` from `width` on.
int64_t rounded_up(const ShapeConfig& config, double width, int64_t multiple) {
  if (!(width >= 0 && width < kMostWidth))
    fail(ErrorCode::kMalformedFile, "{}: a feed-forward part of {:.6g}, expected at most {:.6g}",
         config.path(), width, kMostWidth);
  return (static_cast<int64_t>(width) + multiple - 1) / multiple * multiple;
}

int64_t count_of(const ModelShape& shape, bool LayerShape::*kind) {
  int64_t count = 0;
  for (const LayerShape& layer : shape.layers) count += layer.*kind ? 1 : 0;
  return count;
}

// LFM2: gated convolutions where there is no attention; the width of the feed-forward part is two thirds of
// what the configuration says, rounded up.
void read_lfm2(const ShapeConfig& config, ModelShape* shape) {
  RecurrentShape& mixer = shape->recurrent;
  mixer.gated_conv = true;
  mixer.inner = config.get({"conv_dim"}, shape->hidden);
  for (const char* key : {"conv_dim_out", "block_dim"}) (void)config.find({key});
  mixer.conv = config.require({"conv_L_cache"});
  mixer.bias = mixer.conv_bias = config.flag({"conv_bias"});
  if (!config.flag({"block_auto_adjust_ff_dim"})) return;
  const double two_thirds = std::floor(2 * as_double(shape->feed_forward.width) / 3);
  shape->feed_forward.width =
      rounded_up(config, std::floor(two_thirds * config.number({"block_ffn_dim_multiplier"}, 1)),
                 config.require({"block_multiple_of"}));
}

// Nemotron-NAS: a search left every layer its own number of key heads and its own width, a single matrix in
// place of one of the two parts, or nothing.
void read_block_configs(const ShapeConfig& config, ModelShape* shape) {
  constexpr const char* kKey = "block_configs";
  const Json* blocks = config.array({kKey});
  if (blocks == nullptr || blocks->size() != shape->layers.size())
    fail(ErrorCode::kMalformedFile, "{}: '{}' describes {} layers, expected {}", config.path(), kKey,
         blocks == nullptr ? 0 : blocks->size(), shape->layers.size());
  const auto is_set = [](const Json& part, const char* key) {
    const Json* found = part.find(key);
    return found != nullptr && found->is_boolean() && found->get<bool>();
  };
  const double hidden = as_double(shape->hidden);
  shape->norms_per_layer = 0;
  for (size_t i = 0; i < blocks->size(); ++i) {
    const Json& block = (*blocks)[i];
    const Json *attention = block.find("attention"), *feed_forward = block.find("ffn");
    if (attention == nullptr || feed_forward == nullptr)
      fail(ErrorCode::kMalformedFile, "{}: '{}' of layer {} has no \"attention\" or no \"ffn\"",
           config.path(), kKey, i);
    // Later searches put recurrences and mixtures there too.
    for (const auto& [part, key] :
         {std::pair{attention, "mamba"}, {attention, "llama4"}, {feed_forward, "moe"}})
      if (const Json* found = part->find(key); found != nullptr && !found->is_null()) {
        shape->not_understood.push_back(fmt::format("{}[{}].{}", kKey, i, key));
        return;
      }
    LayerShape& layer = shape->layers[i];
    for (const Json* part : {attention, feed_forward})
      if (!is_set(*part, "no_op")) {
        shape->extra.other += hidden;  // its norm
        if (is_set(*part, "replace_with_linear")) shape->extra.linear += hidden * hidden;
      }
    const auto stays = [&](const Json& part) {
      return !is_set(part, "no_op") && !is_set(part, "replace_with_linear");
    };
    layer.attention = stays(*attention);
    layer.feed_forward = stays(*feed_forward);
    if (const Json* group = attention->find("n_heads_in_group"); layer.attention && group != nullptr) {
      const int64_t heads = config.size_of("n_heads_in_group", *group);
      if (heads < 1 || shape->attention.heads % heads != 0)
        fail(ErrorCode::kMalformedFile, "{}: layer {} has groups of {} of {} heads", config.path(), i, heads,
             shape->attention.heads);
      layer.kv_heads = shape->attention.heads / heads;
    }
    if (const Json* window = attention->find("window_length"); window != nullptr && !window->is_null())
      layer.window = config.size_of("window_length", *window);
    if (const Json* width = feed_forward->find("intermediate_size"); width != nullptr && width->is_number())
      layer.width = config.size_of("intermediate_size", *width);
    else if (const Json* factor = feed_forward->find("ffn_mult"); layer.feed_forward && factor != nullptr)
      layer.width = rounded_up(
          config, std::floor(2 * (factor->is_number() ? factor->get<double>() : -1) * hidden / 3), 256);
    if (layer.feed_forward && layer.width == 0)
      fail(ErrorCode::kMalformedFile, "{}: layer {} has no \"ffn_mult\"", config.path(), i);
  }
}

// Gemma 3n: embeddings for every layer, several streams (AltUp), low-rank residuals (LAuReL); the last layers
// use keys and values of earlier ones.
void read_gemma3n(const ShapeConfig& config, ModelShape* shape) {
  const double hidden = as_double(shape->hidden),
               layers = as_double(static_cast<int64_t>(shape->layers.size())),
               words = as_double(config.require({"vocab_size_per_layer_input"})),
               width = as_double(config.require({"hidden_size_per_layer_input"})),
               streams = as_double(config.require({"altup_num_inputs"})),
               rank = as_double(config.require({"laurel_rank"}));
  (void)config.find({"altup_active_idx"});
  (void)config.number({"altup_coef_clip"}, 0);
  (void)config.flag({"altup_correct_scale"});
  (void)config.array({"activation_sparsity_pattern"});
  ExtraParameters& extra = shape->extra;
  extra.embedding += words * layers * width;
  extra.linear += hidden * layers * width;              // the layers' part of an embedding
  extra.other += width;                                 // its norm
  extra.linear += 2 * (streams - 1) * hidden * hidden;  // into the streams and out
  extra.linear += layers * 2 * hidden * rank;           // LAuReL
  extra.linear += layers * 2 * hidden * width;          // gate and projection of the layer's part
  extra.linear += layers * (hidden * streams + streams * streams + streams * streams * streams);  // AltUp
  extra.other += layers * 4 * hidden;  // norms of the three, and AltUp's scale
  const auto shared = static_cast<size_t>(config.get({"num_kv_shared_layers"}, 0));
  const size_t own = shape->layers.size() - std::min(shape->layers.size(), shared);
  if (own == 0) return;
  for (size_t i = own; i < shape->layers.size(); ++i) shape->layers[i].cached_values = kCachesNothing;
}

// T5: an encoder of as many layers beside the decoder, whose layers attend to it too. The matrix "wo" stays
// plain whatever is asked for. Keys and values of the input are kept beside the decoder's own.
void read_t5(const ShapeConfig& config, ModelShape* shape) {
  const int64_t encoder = static_cast<int64_t>(shape->layers.size()),
                decoder = config.get({"num_decoder_layers"}, encoder);
  if (decoder < 1 || decoder > kMostLayers)
    fail(ErrorCode::kMalformedFile, "{}: 'num_decoder_layers' is {}, expected 1 to {}", config.path(),
         decoder, kMostLayers);
  shape->feed_forward.gated = config.text("feed_forward_proj").starts_with("gated-");
  const AttentionShape& heads = shape->attention;
  const double hidden = as_double(shape->hidden), inner = as_double(heads.heads) * as_double(heads.head_dim),
               width = as_double(shape->feed_forward.width), attention = 4 * hidden * inner,
               feed_forward = (shape->feed_forward.gated ? 3 : 2) * hidden * width;
  ExtraParameters& extra = shape->extra;
  extra.linear += as_double(encoder) * (attention + feed_forward) + as_double(decoder) * attention;
  extra.other += (2 * as_double(encoder) + as_double(decoder) + 1) * hidden;  // norms
  const double outputs = as_double(encoder + decoder) * hidden * width;
  extra.linear -= outputs;
  extra.other += outputs;
  const double tables = shape->family == "umt5" ? as_double(encoder + decoder) : 2;
  extra.embedding +=
      tables * as_double(config.require({"relative_attention_num_buckets"})) * as_double(heads.heads);
  shape->layers.assign(static_cast<size_t>(decoder), {.attention = true, .feed_forward = true});
  for (LayerShape& layer : shape->layers) layer.cached_values = 4 * static_cast<int64_t>(inner);
}

// Zamba2: Mamba-2 in every layer; some see the input again through one of a few transformer blocks that they
// share, each with adapters of its own.
void read_zamba2(const ShapeConfig& config, ModelShape* shape) {
  AttentionShape& attention = shape->attention;
  const double hidden = as_double(shape->hidden), blocks = as_double(config.require({"num_mem_blocks"})),
               rank = as_double(config.require({"adapter_rank"})),
               hybrids = as_double(count_of(*shape, &LayerShape::attention));
  attention.head_dim = 2 * shape->hidden / attention.heads;
  for (const char* key : {"attention_hidden_size", "kv_channels", "ffn_hidden_size", "num_mem_heads"})
    (void)config.find({key});
  const double wide = as_double(attention.heads) * as_double(attention.head_dim),
               keys = as_double(attention.kv_heads) * as_double(attention.head_dim),
               width = as_double(shape->feed_forward.width);
  const bool bias = config.flag({"add_bias_linear"});
  ExtraParameters& extra = shape->extra;
  extra.linear += blocks * (2 * hidden * (wide + 2 * keys) + wide * hidden + 3 * hidden * width);
  extra.other += blocks * (3 * hidden + (bias ? 2 * width + hidden : 0));
  extra.linear += hybrids * (hidden * hidden + rank * (hidden + 2 * width));
  if (config.flag({"use_shared_attention_adapter"}))
    extra.linear += hybrids * rank * (3 * 2 * hidden + wide + 2 * keys);
  (void)config.flag({"use_shared_mlp_adapter"});
  shape->recurrent.conv_bias = true;
  for (LayerShape& layer : shape->layers) {
    layer.borrowed = true;
    layer.feed_forward = false;
  }
}

// GPT-Neo: layers of kind "local" look back through a window; "attention_types" lists runs of kinds, each as
// often as its number says.
void read_gpt_neo(const ShapeConfig& config, ModelShape* shape) {
  const int64_t window = config.require({"window_size"});
  std::vector<bool> local;
  (void)config.array({"attention_layers"});  // the same, unrolled
  if (const Json* runs = config.array({"attention_types"}))
    for (const Json& run : *runs) {
      if (!run.is_array() || run.size() != 2 || !run[0].is_array())
        fail(ErrorCode::kMalformedFile, "{}: 'attention_types' holds {}, expected [kinds, times]",
             config.path(), run.dump(-1, Json::Invalid::kReplace));
      const int64_t times = config.size_of("attention_types", run[1]);
      for (int64_t i = 0; i < times && local.size() < shape->layers.size(); ++i)
        for (const Json& kind : run[0]) local.push_back(kind == Json("local"));
    }
  for (size_t i = 0; i < std::min(local.size(), shape->layers.size()); ++i)
    if (local[i]) shape->layers[i].window = window;
}

}  // namespace

void read_special_shape(const ShapeConfig& config, ModelShape* shape) {
  if (shape->family == "lfm2") read_lfm2(config, shape);
  if (shape->family == "nemotron-nas") read_block_configs(config, shape);
  if (shape->family == "gemma3n_text") read_gemma3n(config, shape);
  if (shape->family == "t5" || shape->family == "mt5" || shape->family == "umt5") read_t5(config, shape);
  if (shape->family == "gpt_neo") read_gpt_neo(config, shape);
  if (shape->family == "zamba2") read_zamba2(config, shape);
}

}  // namespace nfloat
