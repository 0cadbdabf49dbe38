// SPDX-License-Identifier: Apache-2.0
#include "architecture/model_size.h"

#include <algorithm>

#include "base/fail.h"

namespace nfloat {
namespace {

// Parameters of a block: matrices of linear layers, and the rest (biases, norms, convolutions, routers). In
// double: a configuration can lie about sizes.
struct Count {
  double linear = 0, other = 0;

  void add_linear(double outputs, double inputs, bool bias = false, double copies = 1) {
    linear += outputs * inputs * copies;
    if (bias) other += outputs * copies;
  }
  void add(const Count& block, double times = 1) {
    linear += block.linear * times;
    other += block.other * times;
  }
};

double number(int64_t value) {
  return static_cast<double>(value);
}

Count count_attention(const AttentionShape& attention, double hidden) {
  Count count;
  const double heads = number(attention.heads);
  if (attention.latent > 0) {
    const double latent = number(attention.latent), rope = number(attention.rope_dim),
                 nope = number(attention.nope_dim), value = number(attention.value_dim);
    const double query_latent = number(attention.query_latent);
    if (attention.query_latent > 0) {
      count.add_linear(query_latent, hidden, attention.input_bias);
      count.other += query_latent;
    }
    count.add_linear(heads * (nope + rope), attention.query_latent > 0 ? query_latent : hidden);
    count.add_linear(latent + rope, hidden, attention.input_bias);
    count.other += latent;
    count.add_linear(heads * (nope + value), latent);
    count.add_linear(hidden, heads * value, attention.output_bias);
    return count;
  }
  const double query = heads * number(attention.head_dim),
               keys = number(attention.kv_heads) * number(attention.head_dim);
  count.add_linear(query * (attention.gated ? 2 : 1), hidden, attention.input_bias);
  count.add_linear(keys, hidden, attention.input_bias, 2);
  count.add_linear(hidden, query, attention.output_bias);
  count.other += number(attention.norm_parameters);
  return count;
}

Count count_feed_forward(double width, double hidden, bool gated, bool bias, double copies = 1) {
  Count count;
  count.add_linear(width, hidden, bias, copies * (gated ? 2 : 1));
  count.add_linear(hidden, width, bias, copies);
  return count;
}

Count count_experts(const ExpertsShape& experts, double hidden, bool gated) {
  Count count = count_feed_forward(number(experts.width), hidden, gated, experts.bias, number(experts.count));
  count.add(count_feed_forward(number(experts.shared_width), hidden, gated, false));
  count.other += number(experts.count) * hidden + number(experts.router_bias);
  if (experts.shared_gate) count.other += hidden;
  return count;
}

Count count_recurrent(const RecurrentShape& mixer, double hidden) {
  Count count;
  const double conv = number(mixer.conv), state = number(mixer.state), inner = number(mixer.inner);
  count.other += number(mixer.norm_parameters);
  if (mixer.gated_conv) {
    count.add_linear(3 * inner, hidden, mixer.bias);
    count.add_linear(hidden, inner, mixer.bias);
    count.other += inner * (conv + (mixer.conv_bias ? 1 : 0));
    return count;
  }
  if (mixer.delta_values > 0) {
    const double keys = number(mixer.delta_keys), values = number(mixer.delta_values),
                 heads = number(mixer.delta_heads);
    count.add_linear(2 * keys + 2 * values, hidden);  // queries, keys, values and their gate
    count.add_linear(2 * heads, hidden);              // step and decay
    count.add_linear(hidden, values);
    count.other += (2 * keys + values) * conv + 2 * heads;
    return count;
  }
  if (mixer.heads == 0) {
    const double rank = number(mixer.step_rank);
    count.add_linear(2 * inner, hidden, mixer.bias);
    count.add_linear(rank + 2 * state, inner);
    count.add_linear(inner, rank, true);
    count.add_linear(hidden, inner, mixer.output_bias);
    count.other += inner * (conv + (mixer.conv_bias ? 1 : 0)) + inner * state + inner;  // the decay and D
    return count;
  }
  const double heads = number(mixer.heads), mixed = inner + 2 * number(mixer.groups) * state;
  count.add_linear(inner + mixed + heads, hidden, mixer.bias);
  count.add_linear(hidden, inner, mixer.output_bias);
  count.other += mixed * (conv + (mixer.conv_bias ? 1 : 0)) + 3 * heads;  // step, decay and D
  return count;
}

// What a sequence keeps in a recurrent layer.
double state_of(const RecurrentShape& mixer) {
  const double conv = number(mixer.conv), state = number(mixer.state);
  if (mixer.gated_conv) return number(mixer.inner) * conv;
  if (mixer.delta_values > 0)
    return (2 * number(mixer.delta_keys) + number(mixer.delta_values)) * conv +
           number(mixer.delta_values) * state;
  return (number(mixer.inner) + 2 * number(mixer.groups) * state) * conv + number(mixer.inner) * state;
}

int64_t checked(double parameters, const std::string& path) {
  if (!(parameters < 1e17))
    fail(ErrorCode::kMalformedFile, "{}: its sizes give more than 10^17 parameters", path);
  return static_cast<int64_t>(parameters);
}

}  // namespace

void count_cache(const std::vector<LayerShape>& layers, ModelSize* size) {
  for (const LayerShape& layer : layers) {
    if (!layer.attention || layer.cached_values <= 0) continue;
    auto same = std::find_if(size->cached_layers.begin(), size->cached_layers.end(), [&](const auto& cached) {
      return cached.window == layer.window && cached.values == layer.cached_values;
    });
    if (same == size->cached_layers.end())
      same = size->cached_layers.insert(same, {0, layer.cached_values, layer.window});
    ++same->layers;
  }
}

void count_tensors(const ModelConfig& config, const std::vector<ExpectedTensor>& tensors,
                   const std::string& path, ModelSize* size) {
  size->model_type = config.family;
  size->layers = config.layers;
  size->hidden = config.hidden;
  size->heads = config.heads;
  size->kv_heads = config.kv_heads;
  size->head_dim = config.head_dim;
  size->vocabulary = config.vocabulary;
  size->max_context = config.context;
  size->intermediate = config.intermediate;
  size->experts = config.experts.count;
  size->active_experts = config.experts.chosen;
  size->tied_head = config.tied_head;
  double linear = 0, embedding = 0, head = 0, other = 0;
  for (const ExpectedTensor& tensor : tensors) {
    double& count = tensor.role == TensorRole::kEmbedding ? embedding
                    : tensor.role == TensorRole::kHead    ? head
                    : tensor.role == TensorRole::kLinear || tensor.role == TensorRole::kConv1D ||
                            tensor.role == TensorRole::kExpert
                        ? linear
                        : other;
    count += number(tensor.shape.elements());
  }
  size->linear_parameters = checked(linear, path);
  size->embedding_parameters = checked(embedding, path);
  size->head_parameters = checked(head, path);
  size->other_parameters = checked(other, path);
}

uint64_t ModelSize::kv_cache_bytes(int64_t context, double bytes_per_value) const noexcept {
  double values = static_cast<double>(state_values);
  for (const CachedLayers& cached : cached_layers) {
    const int64_t tokens = cached.window > 0 ? std::min(context, cached.window) : context;
    values +=
        static_cast<double>(cached.layers) * static_cast<double>(cached.values) * static_cast<double>(tokens);
  }
  return static_cast<uint64_t>(values * bytes_per_value);
}

ModelSize count_model(const ModelShape& shape, const std::string& path) {
  ModelSize size;
  size.model_type = shape.model_type;
  size.layers = static_cast<int64_t>(shape.layers.size());
  size.hidden = shape.hidden;
  size.heads = shape.attention.heads;
  size.kv_heads = shape.attention.kv_heads;
  size.head_dim = shape.attention.head_dim;
  size.vocabulary = shape.vocabulary;
  size.max_context = shape.max_context;
  size.intermediate = std::max(shape.feed_forward.width, shape.recurrent.inner);
  size.experts = shape.experts.count;
  size.active_experts = shape.active_experts;
  size.tied_head = shape.tied_head;
  size.not_understood = shape.not_understood;
  size.left_out = shape.left_out;

  const double hidden = number(shape.hidden), norm = hidden * number(shape.norm_vectors);
  const FeedForwardShape& dense = shape.feed_forward;
  const Count attention = count_attention(shape.attention, hidden),
              feed_forward = count_feed_forward(number(dense.width), hidden, dense.gated, dense.bias),
              experts = count_experts(shape.experts, hidden, dense.gated),
              recurrent = count_recurrent(shape.recurrent, hidden);
  Count total;
  total.other += norm * number(shape.final_norms);
  for (const LayerShape& layer : shape.layers) {
    total.other += norm * number(shape.norms_per_layer);
    if (layer.attention && !layer.borrowed) {
      AttentionShape own = shape.attention;
      if (layer.kv_heads > 0) own.kv_heads = layer.kv_heads;
      total.add(layer.kv_heads > 0 ? count_attention(own, hidden) : attention);
    }
    if (layer.recurrent) total.add(recurrent);
    if (layer.feed_forward)
      total.add(layer.width > 0 ? count_feed_forward(number(layer.width), hidden, dense.gated, dense.bias)
                                : feed_forward);
    if (layer.experts) total.add(experts);
  }
  const double words = number(shape.vocabulary);
  if (shape.head_bias) total.other += words;
  total.add({shape.extra.linear, shape.extra.other});
  size.linear_parameters = checked(total.linear, path);
  size.embedding_parameters =
      checked((words + number(shape.positions)) * hidden + shape.extra.embedding, path);
  size.head_parameters = shape.tied_head ? 0 : checked(words * hidden, path);
  size.other_parameters = checked(total.other, path);
  count_cache(shape.layers, &size);
  double state = 0;
  for (const LayerShape& layer : shape.layers)
    if (layer.recurrent) state += state_of(shape.recurrent);
  size.state_values = checked(state, path);
  return size;
}

}  // namespace nfloat
