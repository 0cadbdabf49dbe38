// SPDX-License-Identifier: Apache-2.0
#include <cmath>

#include "kernels/dispatch.h"
#include "tune/pass-inl.h"

namespace nfloat {

void Pass::product_backward(const LinearGroup& group, int64_t layer, Place place, const KeptRows& x,
                            const KeptRows& dy, const KeptRows& y, const LowRows& z, const KeptRows& dx) {
  products_.backward(group, modules(layer, place), x, rows_, dy, y, z, dx);
  if (observer_ != nullptr) observer_->product(layer, place, {x.data, x.stride}, {dy.data, dy.stride}, rows_);
}

void Pass::normalize_backward(const NormWeights& norm, const float* x, const float* dy, float* dx,
                              bool accumulate) {
  const auto back = norm_backward();
  const auto epsilon = static_cast<float>(config_.norm_epsilon);
  const int64_t width = config_.hidden;
  if (observer_ != nullptr) observer_->norm(norm, {x, width}, {dy, width}, rows_);
  over_rows([&](int64_t row) {
    back(x + row * width, norm.weight.data(), epsilon, width, dy + row * width, dx + row * width, accumulate);
  });
}

void Pass::split_gradient(const NormWeights& norm, const NormWeights& post_norm, const KeptRows& kept_added,
                          const float* sum) {
  if (sum != nullptr) normalize_backward(norm, sum, gradient_, gradient_, false);
  const auto back = norm_backward();
  const auto epsilon = static_cast<float>(config_.norm_epsilon);
  const auto scale = static_cast<float>(config_.residual_scale);
  const int64_t width = config_.hidden;
  const bool post = !post_norm.weight.empty();
  over_kept_rows(2 * width, [&](int64_t row, float* scratch) {
    float* d = d_added_.place(row, 0, scratch);
    for (int64_t i = 0; i < width; ++i) d[i] = scale * gradient_[row * width + i];
    if (halves_ && post)
      back(kept_added.read(row, 0, width, scratch + width), post_norm.weight.data(), epsilon, width, d, d,
           false);
    d_added_.put(row, 0, width, d);
  });
  if (!halves_ && post) normalize_backward(post_norm, kept_added.data, d_added_.data, d_added_.data, false);
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
  split_gradient(weights.mlp_norm, weights.mlp_post_norm, tape.mlp_added, tape.mlp_sum);
  const KeptRows d_activated = d_activated_.is_kept() ? d_activated_ : tape.activated;
  const KeptRows d_gate_up = d_gate_up_.is_kept() ? d_gate_up_ : tape.gate_up;
  product_backward(weights.down, layer, Place::kDown, tape.activated, d_added_, tape.mlp_added,
                   tape.low(Place::kDown), d_activated);
  over_kept_rows(5 * kPiece, [&](int64_t row, float* scratch) {
    for (int64_t at = 0; at < width; at += kPiece) {
      const int64_t count = std::min(kPiece, width - at);
      const float* gate = tape.gate_up.read(row, at, count, scratch);
      const float* up = nullptr;
      float *d_gate = d_gate_up.place(row, at, scratch + 3 * kPiece), *d_up = nullptr;
      if (config_.gated) {
        up = tape.gate_up.read(row, width + at, count, scratch + kPiece);
        d_up = d_gate_up.place(row, width + at, scratch + 4 * kPiece);
      }
      kernels::table().train.activate_backward(static_cast<kernels::Activation>(config_.activation), gate, up,
                                               d_activated.read(row, at, count, scratch + 2 * kPiece), d_gate,
                                               d_up, count);
      d_gate_up.put(row, at, count, d_gate);
      if (config_.gated) d_gate_up.put(row, width + at, count, d_up);
    }
  });
  float* stream_rows = mlp_stream(tape);
  product_backward(weights.gate_up, layer, Place::kGateUp, mlp_rows(tape), d_gate_up, tape.gate_up,
                   tape.low(Place::kGateUp), stream(d_input_));
  // With parallel blocks the attention's part of the gradient is the one that came in: kept apart in added_.
  if (config_.parallel_blocks)
    over_rows([&](int64_t row) {
      std::copy(gradient_ + row * hidden, gradient_ + (row + 1) * hidden, added_ + row * hidden);
    });
  if (norm_before()) return normalize_backward(weights.mlp_norm, stream_rows, d_input_, gradient_, true);
  over_rows([&](int64_t row) {
    for (int64_t i = row * hidden; i < (row + 1) * hidden; ++i) gradient_[i] += d_input_[i];
  });
}

void Pass::backward_attention(int64_t layer, Tape& tape) {
  const LayerWeights& weights = state_.layers[static_cast<size_t>(layer)];
  const int64_t hidden = config_.hidden;
  if (config_.parallel_blocks) {
    std::swap(gradient_, added_);
    split_gradient(weights.attention_norm, weights.attention_post_norm, tape.attention_added,
                   tape.attention_sum);
    std::swap(gradient_, added_);
  } else {
    split_gradient(weights.attention_norm, weights.attention_post_norm, tape.attention_added,
                   tape.attention_sum);
  }
  product_backward(weights.output, layer, Place::kOutput, tape.attended, d_added_, tape.attention_added,
                   tape.low(Place::kOutput), d_attended_);
  rotate_heads(layer, tape.projected);
  if (halves_)
    attend_backward(attention_layer(layer), rotated_.halves(), tape.attended.halves(), tape.log_sums,
                    d_attended_.halves(), d_rotated_.halves());
  else
    attend_backward(attention_layer(layer), rotated_.data, tape.attended.data, tape.log_sums,
                    d_attended_.data, d_rotated_.data);
  rotate_back(layer, tape.projected);
  const bool last = observer_ == nullptr && layer == adapter_.lowest_layer;  // nothing below is trained
  product_backward(weights.query_key_value, layer, Place::kQueryKeyValue, attention_rows(tape), d_rotated_,
                   tape.projected, tape.low(Place::kQueryKeyValue), last ? KeptRows() : stream(d_input_));
  if (last) return;
  if (norm_before()) return normalize_backward(weights.attention_norm, tape.input, d_input_, gradient_, true);
  over_rows([&](int64_t row) {
    for (int64_t i = row * hidden; i < (row + 1) * hidden; ++i) gradient_[i] += d_input_[i];
  });
}

void Pass::rotate_heads(int64_t layer, const KeptRows& projected) {
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
  over_kept_rows(places_.row(), [&](int64_t row, float* scratch) {
    float* to = rotated_.place(row, 0, scratch);
    const float* from = projected.read(row, 0, places_.row(), to);
    if (from != to) std::copy(from, from + places_.row(), to);
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
    rotated_.put(row, 0, places_.row(), to);
  });
}

// body(norm, first column, width) for the norms of queries and keys.
template <typename Body>
void Pass::over_norms(const LayerWeights& weights, const Body& body) const {
  if (config_.query_norm == QueryNorm::kWhole) {
    body(weights.query_norm, 0, config_.query_size());
    body(weights.key_norm, config_.query_size(), config_.kv_size());
  } else if (config_.query_norm == QueryNorm::kHead) {
    for (int64_t head = 0; head < config_.heads; ++head)
      body(weights.query_norm, places_.query(head), config_.head_dim);
    for (int64_t head = 0; head < config_.kv_heads; ++head)
      body(weights.key_norm, places_.key(head), config_.head_dim);
  }
}

void Pass::rotate_back(int64_t layer, const KeptRows& projected) {
  const LayerWeights& weights = state_.layers[static_cast<size_t>(layer)];
  const LayerConfig own = config_.layer(layer);
  const std::vector<float>& table = own.rope == LayerRope::kLocal ? local_rope_back_ : rope_back_;
  const int64_t head_dim = config_.head_dim;
  const int64_t width = config_.rotary_dim > 0 ? config_.rotary_dim : head_dim;
  const int64_t rotary = own.rope == LayerRope::kNone || table.empty() ? 0 : width;
  const float scale = config_.attention_scale > 0 ? static_cast<float>(config_.attention_scale)
                                                  : 1.0f / std::sqrt(static_cast<float>(head_dim));
  const auto epsilon = static_cast<float>(config_.norm_epsilon);
  over_kept_rows(2 * places_.row(), [&](int64_t row, float* scratch) {
    float* d = d_rotated_.place(row, 0, scratch);
    d_rotated_.read(row, 0, places_.row(), d);
    const auto rotate = [&](float* at, float factor) {
      if (rotary > 0)
        kernels::table().transformer.rotate(at, table.data() + positions_[static_cast<size_t>(row)] * rotary,
                                            factor, rotary, at);
      if (factor != 1.0f)
        for (int64_t i = rotary; i < head_dim; ++i) at[i] *= factor;
    };
    for (int64_t head = 0; head < config_.heads; ++head) rotate(d + places_.query(head), scale);
    for (int64_t head = 0; head < config_.kv_heads; ++head) rotate(d + places_.key(head), 1.0f);
    if (halves_ && config_.query_norm != QueryNorm::kNone) {
      const float* x = projected.read(row, 0, places_.row(), scratch + places_.row());
      over_norms(weights, [&](const NormWeights& norm, int64_t at, int64_t count) {
        norm_backward()(x + at, norm.weight.data(), epsilon, count, d + at, d + at, false);
      });
    }
    d_rotated_.put(row, 0, places_.row(), d);
  });
  if (halves_) return;
  over_norms(weights, [&](const NormWeights& norm, int64_t at, int64_t count) {
    const int64_t stride = places_.row();
    const float* x = projected.data + at;
    float* d = d_rotated_.data + at;
    if (observer_ != nullptr) observer_->norm(norm, {x, stride}, {d, stride}, rows_);
    over_rows([&](int64_t row) {
      norm_backward()(x + row * stride, norm.weight.data(), epsilon, count, d + row * stride,
                      d + row * stride, false);
    });
  });
}

}  // namespace nfloat
