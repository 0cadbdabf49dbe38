// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_TESTS_REFERENCE_LLAMA_H_
#define NFLOAT_TESTS_REFERENCE_LLAMA_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "nfloat/model_config.h"

// The forward pass of the Llama family in double precision, one token at a time, as plainly as it can be
// written: the oracle of the model room. Weights by their checkpoint names, row-major [out, in].
namespace nfloat::reference {

using Vector = std::vector<double>;
using Weights = std::map<std::string, Vector>;

inline Vector multiply(const Vector& matrix, const Vector& x) {
  Vector y(matrix.size() / x.size(), 0.0);
  for (size_t row = 0; row < y.size(); ++row)
    for (size_t i = 0; i < x.size(); ++i) y[row] += matrix[row * x.size() + i] * x[i];
  return y;
}

inline Vector rms_norm(const Vector& x, const Vector& weight, double epsilon) {
  double squares = 0;
  for (double value : x) squares += value * value;
  const double root = std::sqrt(squares / static_cast<double>(x.size()) + epsilon);
  Vector y(x.size());
  for (size_t i = 0; i < x.size(); ++i) y[i] = x[i] / root * weight[i];
  return y;
}

// Radians a position of pair `i`, following the definitions in terms of wavelengths (Hugging Face
// modeling_rope_utils).
inline double rope_frequency(const RopeConfig& rope, int64_t head_dim, int64_t i, int64_t context) {
  const double pi = std::acos(-1.0);
  double base = rope.theta;
  if (rope.scaling == RopeScaling::kDynamic && context > rope.original_context) {
    const double ratio = static_cast<double>(context) / static_cast<double>(rope.original_context);
    base *= std::pow(rope.factor * ratio - (rope.factor - 1),
                     static_cast<double>(head_dim) / static_cast<double>(head_dim - 2));
  }
  const double frequency = 1.0 / std::pow(base, static_cast<double>(2 * i) / static_cast<double>(head_dim));
  if (rope.scaling == RopeScaling::kLinear) return frequency / rope.factor;
  if (rope.scaling != RopeScaling::kLlama3) return frequency;
  const double wavelength = 2 * pi / frequency;
  const double original = static_cast<double>(rope.original_context);
  if (wavelength < original / rope.high_frequency_factor) return frequency;
  if (wavelength > original / rope.low_frequency_factor) return frequency / rope.factor;
  const double smooth = (original / wavelength - rope.low_frequency_factor) /
                        (rope.high_frequency_factor - rope.low_frequency_factor);
  return (1 - smooth) * frequency / rope.factor + smooth * frequency;
}

class Llama {
 public:
  // `context`: positions that the sequence may reach, which only dynamic RoPE scaling looks at.
  Llama(const ModelConfig& config, const Weights& weights, int64_t context)
      : config_(config), weights_(weights), context_(context), keys_(layers()), values_(layers()) {}

  // Takes in one token and returns the logits of the next.
  Vector step(int32_t token) {
    const size_t hidden = static_cast<size_t>(config_.hidden);
    const Vector& table = weights_.at("model.embed_tokens.weight");
    Vector x(table.begin() + token * config_.hidden, table.begin() + (token + 1) * config_.hidden);
    for (size_t layer = 0; layer < layers(); ++layer) {
      const std::string prefix = "model.layers." + std::to_string(layer) + ".";
      const Vector attention = attend(layer, prefix + "self_attn.",
                                      rms_norm(x, weight(prefix + "input_layernorm"), config_.norm_epsilon));
      for (size_t i = 0; i < hidden; ++i) x[i] += attention[i];
      const Vector normed = rms_norm(x, weight(prefix + "post_attention_layernorm"), config_.norm_epsilon);
      Vector gate = linear(prefix + "mlp.gate_proj", normed);
      const Vector up = linear(prefix + "mlp.up_proj", normed);
      for (size_t i = 0; i < gate.size(); ++i) gate[i] = gate[i] / (1 + std::exp(-gate[i])) * up[i];
      const Vector down = linear(prefix + "mlp.down_proj", gate);
      for (size_t i = 0; i < hidden; ++i) x[i] += down[i];
    }
    ++position_;
    x = rms_norm(x, weight("model.norm"), config_.norm_epsilon);
    return multiply(config_.tied_head ? table : weight("lm_head"), x);
  }

 private:
  size_t layers() const { return static_cast<size_t>(config_.layers); }
  const Vector& weight(const std::string& name) const { return weights_.at(name + ".weight"); }

  Vector linear(const std::string& name, const Vector& x) const {
    Vector y = multiply(weight(name), x);
    if (const auto bias = weights_.find(name + ".bias"); bias != weights_.end())
      for (size_t i = 0; i < y.size(); ++i) y[i] += bias->second[i];
    return y;
  }

  void rotate(double* head) const {
    const int64_t half = config_.head_dim / 2;
    for (int64_t i = 0; i < half; ++i) {
      const double angle =
          static_cast<double>(position_) * rope_frequency(config_.rope, config_.head_dim, i, context_);
      const double a = head[i], b = head[i + half];
      head[i] = a * std::cos(angle) - b * std::sin(angle);
      head[i + half] = b * std::cos(angle) + a * std::sin(angle);
    }
  }

  Vector attend(size_t layer, const std::string& prefix, const Vector& x) {
    Vector query = linear(prefix + "q_proj", x);
    Vector key = linear(prefix + "k_proj", x);
    for (int64_t h = 0; h < config_.heads; ++h) rotate(query.data() + h * config_.head_dim);
    for (int64_t h = 0; h < config_.kv_heads; ++h) rotate(key.data() + h * config_.head_dim);
    keys_[layer].push_back(key);
    values_[layer].push_back(linear(prefix + "v_proj", x));

    const int64_t first =
        config_.sliding_window > 0 ? std::max<int64_t>(0, position_ + 1 - config_.sliding_window) : 0;
    Vector output(query.size(), 0.0);
    for (int64_t h = 0; h < config_.heads; ++h) {
      const int64_t kv = h / (config_.heads / config_.kv_heads);
      Vector scores;
      double largest = -INFINITY;
      for (int64_t t = first; t <= position_; ++t) {
        double dot = 0;
        for (int64_t d = 0; d < config_.head_dim; ++d)
          dot += query[static_cast<size_t>(h * config_.head_dim + d)] *
                 keys_[layer][static_cast<size_t>(t)][static_cast<size_t>(kv * config_.head_dim + d)];
        scores.push_back(dot / std::sqrt(static_cast<double>(config_.head_dim)));
        largest = std::max(largest, scores.back());
      }
      double total = 0;
      for (double& score : scores) total += score = std::exp(score - largest);
      for (int64_t t = first; t <= position_; ++t)
        for (int64_t d = 0; d < config_.head_dim; ++d)
          output[static_cast<size_t>(h * config_.head_dim + d)] +=
              scores[static_cast<size_t>(t - first)] / total *
              values_[layer][static_cast<size_t>(t)][static_cast<size_t>(kv * config_.head_dim + d)];
    }
    return linear(prefix + "o_proj", output);
  }

  const ModelConfig& config_;
  const Weights& weights_;
  int64_t context_;
  int64_t position_ = 0;
  std::vector<std::vector<Vector>> keys_, values_;  // [layer][position][kv_heads * head_dim]
};

}  // namespace nfloat::reference

#endif  // NFLOAT_TESTS_REFERENCE_LLAMA_H_
