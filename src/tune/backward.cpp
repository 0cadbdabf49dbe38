// SPDX-License-Identifier: Apache-2.0
#include <cmath>

#include "kernels/dispatch.h"
#include "tune/pass-inl.h"

namespace nfloat {

void Pass::product_backward(const LinearGroup& group, int64_t layer, Place place, ConstRows x, Rows dy,
                            ConstRows y, std::span<float* const> z, Rows dx) {
  products_.backward(group, modules(layer, place), x, rows_, dy, y, z, dx);
  if (observer_ != nullptr) observer_->product(layer, place, x, {dy.data, dy.stride}, rows_);
}

void Pass::normalize_backward(const NormWeights& norm, const float* x, const float* dy, float* dx,
                              bool accumulate) {
  const kernels::TrainKernels& train = kernels::table().train;
  const auto back = config_.norm == NormKind::kLayer ? train.layer_norm_backward : train.rms_norm_backward;
  const auto epsilon = static_cast<float>(config_.norm_epsilon);
  const int64_t width = config_.hidden;
  if (observer_ != nullptr) observer_->norm(norm, {x, width}, {dy, width}, rows_);
  over_rows([&](int64_t row) {
    back(x + row * width, norm.weight.data(), epsilon, width, dy + row * width, dx + row * width, accumulate);
  });
}

void Pass::split_gradient(const NormWeights& norm, const NormWeights& post_norm, const float* kept_added,
                          const float* sum) {
  if (sum != nullptr) normalize_backward(norm, sum, gradient_, gradient_, false);
  const auto scale = static_cast<float>(config_.residual_scale);
  over_rows([&](int64_t row) {
    for (int64_t i = row * config_.hidden; i < (row + 1) * config_.hidden; ++i)
      d_added_[i] = scale * gradient_[i];
  });
  if (!post_norm.weight.empty()) normalize_backward(post_norm, kept_added, d_added_, d_added_, false);
}

void Pass::backward_layer(int64_t layer, Tape& tape) {
  if (!config_.parallel_blocks) {
    backward_mlp(layer, tape);
    backward_attention(layer, tape);
    return;
  }
  // Both blocks read the layer's input and are added to it: the gradient of the sum reaches both.
  backward_mlp(layer, tape);
  backward_attention(layer, tape);
}

void Pass::backward_mlp(int64_t layer, Tape& tape) {
  const LayerWeights& weights = state_.layers[static_cast<size_t>(layer)];
  const int64_t hidden = config_.hidden, width = config_.intermediate;
  const int64_t stride = (config_.gated ? 2 : 1) * width;
  split_gradient(weights.mlp_norm, weights.mlp_post_norm, tape.mlp_added, tape.mlp_sum);
  product_backward(weights.down, layer, Place::kDown, {tape.activated, width}, {d_added_, hidden},
                   {tape.mlp_added, hidden}, tape.z[3], {d_activated_, width});
  over_rows([&](int64_t row) {
    const float* gate = tape.gate_up + row * stride;
    float* d_gate = d_gate_up_ + row * stride;
    kernels::table().train.activate_backward(
        static_cast<kernels::Activation>(config_.activation), gate, config_.gated ? gate + width : nullptr,
        d_activated_ + row * width, d_gate, config_.gated ? d_gate + width : nullptr, width);
  });
  const float* stream = config_.parallel_blocks ? tape.input : tape.middle;
  const float* input = norm_before() ? tape.mlp_normed : stream;
  product_backward(weights.gate_up, layer, Place::kGateUp, {input, hidden}, {d_gate_up_, stride},
                   {tape.gate_up, stride}, tape.z[2], {d_input_, hidden});
  // With parallel blocks the attention's part of the gradient is the one that came in: kept apart in added_.
  if (config_.parallel_blocks)
    over_rows([&](int64_t row) {
      std::copy(gradient_ + row * hidden, gradient_ + (row + 1) * hidden, added_ + row * hidden);
    });
  if (norm_before()) return normalize_backward(weights.mlp_norm, stream, d_input_, gradient_, true);
  over_rows([&](int64_t row) {
    for (int64_t i = row * hidden; i < (row + 1) * hidden; ++i) gradient_[i] += d_input_[i];
  });
}

void Pass::backward_attention(int64_t layer, Tape& tape) {
  const LayerWeights& weights = state_.layers[static_cast<size_t>(layer)];
  const int64_t hidden = config_.hidden, query = config_.query_size();
  if (config_.parallel_blocks) {
    std::swap(gradient_, added_);
    split_gradient(weights.attention_norm, weights.attention_post_norm, tape.attention_added,
                   tape.attention_sum);
    std::swap(gradient_, added_);
  } else {
    split_gradient(weights.attention_norm, weights.attention_post_norm, tape.attention_added,
                   tape.attention_sum);
  }
  product_backward(weights.output, layer, Place::kOutput, {tape.attended, query}, {d_added_, hidden},
                   {tape.attention_added, hidden}, tape.z[1], {d_attended_, query});
  rotate_heads(layer, tape.projected);
  attend_backward(attention_layer(layer), rotated_, tape.attended, tape.log_sums, d_attended_, d_rotated_);
  rotate_back(layer, tape.projected);
  const bool last = observer_ == nullptr && layer == adapter_.lowest_layer;  // nothing below is trained
  const float* input = norm_before() ? tape.attention_normed : tape.input;
  product_backward(weights.query_key_value, layer, Place::kQueryKeyValue, {input, hidden},
                   {d_rotated_, places_.row()}, {tape.projected, places_.row()}, tape.z[0],
                   {last ? nullptr : d_input_, hidden});
  if (last) return;
  if (norm_before()) return normalize_backward(weights.attention_norm, tape.input, d_input_, gradient_, true);
  over_rows([&](int64_t row) {
    for (int64_t i = row * hidden; i < (row + 1) * hidden; ++i) gradient_[i] += d_input_[i];
  });
}

void Pass::rotate_heads(int64_t layer, const float* projected) {
  const LayerWeights& weights = state_.layers[static_cast<size_t>(layer)];
  const kernels::TransformerKernels& kernels = kernels::table().transformer;
  const LayerConfig own = config_.layer(layer);
  const RopeTable* table = own.rope == LayerRope::kNone    ? nullptr
                           : own.rope == LayerRope::kLocal ? local_rope_.get()
                                                           : rope_.get();
  const int64_t head_dim = config_.head_dim;
  const int64_t rotary = table == nullptr ? 0 : config_.rotary_dim > 0 ? config_.rotary_dim : head_dim;
  const float scale = config_.attention_scale > 0 ? static_cast<float>(config_.attention_scale)
                                                  : 1.0f / std::sqrt(static_cast<float>(head_dim));
  const auto epsilon = static_cast<float>(config_.norm_epsilon);
  const auto normalize = [&](const NormWeights& norm, float* at, int64_t width) {
    if (config_.norm == NormKind::kLayer)
      kernels.layer_norm(at, norm.weight.data(), norm.bias.data(), epsilon, width, at);
    else
      kernels.rms_norm(at, norm.weight.data(), epsilon, width, at);
  };
  over_rows([&](int64_t row) {
    float* to = rotated_ + row * places_.row();
    std::copy(projected + row * places_.row(), projected + (row + 1) * places_.row(), to);
    if (config_.query_norm == QueryNorm::kWhole) {
      normalize(weights.query_norm, to, config_.query_size());
      normalize(weights.key_norm, to + config_.query_size(), config_.kv_size());
    } else if (config_.query_norm == QueryNorm::kHead) {
      for (int64_t head = 0; head < config_.heads; ++head)
        normalize(weights.query_norm, to + places_.query(head), head_dim);
      for (int64_t head = 0; head < config_.kv_heads; ++head)
        normalize(weights.key_norm, to + places_.key(head), head_dim);
    }
    const auto rotate = [&](float* at, float factor) {
      if (rotary > 0) kernels.rotate(at, table->at(positions_[static_cast<size_t>(row)]), factor, rotary, at);
      if (factor != 1.0f)
        for (int64_t d = rotary; d < head_dim; ++d) at[d] *= factor;
    };
    for (int64_t head = 0; head < config_.heads; ++head) rotate(to + places_.query(head), scale);
    for (int64_t head = 0; head < config_.kv_heads; ++head) rotate(to + places_.key(head), 1.0f);
  });
}

void Pass::rotate_back(int64_t layer, const float* projected) {
  const LayerWeights& weights = state_.layers[static_cast<size_t>(layer)];
  const LayerConfig own = config_.layer(layer);
  const std::vector<float>& table = own.rope == LayerRope::kLocal ? local_rope_back_ : rope_back_;
  const int64_t head_dim = config_.head_dim;
  const int64_t width = config_.rotary_dim > 0 ? config_.rotary_dim : head_dim;
  const int64_t rotary = own.rope == LayerRope::kNone || table.empty() ? 0 : width;
  const float scale = config_.attention_scale > 0 ? static_cast<float>(config_.attention_scale)
                                                  : 1.0f / std::sqrt(static_cast<float>(head_dim));
  const kernels::TrainKernels& train = kernels::table().train;
  const auto norm_back =
      config_.norm == NormKind::kLayer ? train.layer_norm_backward : train.rms_norm_backward;
  const auto epsilon = static_cast<float>(config_.norm_epsilon);
  over_rows([&](int64_t row) {
    float* d = d_rotated_ + row * places_.row();
    const auto rotate = [&](float* at, float factor) {
      if (rotary > 0)
        kernels::table().transformer.rotate(at, table.data() + positions_[static_cast<size_t>(row)] * rotary,
                                            factor, rotary, at);
      if (factor != 1.0f)
        for (int64_t i = rotary; i < head_dim; ++i) at[i] *= factor;
    };
    for (int64_t head = 0; head < config_.heads; ++head) rotate(d + places_.query(head), scale);
    for (int64_t head = 0; head < config_.kv_heads; ++head) rotate(d + places_.key(head), 1.0f);
  });
  const auto back = [&](const NormWeights& norm, int64_t at, int64_t count) {
    const int64_t stride = places_.row();
    const float* x = projected + at;
    float* d = d_rotated_ + at;
    if (observer_ != nullptr) observer_->norm(norm, {x, stride}, {d, stride}, rows_);
    over_rows([&](int64_t row) {
      norm_back(x + row * stride, norm.weight.data(), epsilon, count, d + row * stride, d + row * stride,
                false);
    });
  };
  if (config_.query_norm == QueryNorm::kWhole) {
    back(weights.query_norm, 0, config_.query_size());
    back(weights.key_norm, config_.query_size(), config_.kv_size());
  } else if (config_.query_norm == QueryNorm::kHead) {
    for (int64_t head = 0; head < config_.heads; ++head)
      back(weights.query_norm, places_.query(head), head_dim);
    for (int64_t head = 0; head < config_.kv_heads; ++head)
      back(weights.key_norm, places_.key(head), head_dim);
  }
}

}  // namespace nfloat
