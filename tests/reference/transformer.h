// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_TESTS_REFERENCE_TRANSFORMER_H_
#define NFLOAT_TESTS_REFERENCE_TRANSFORMER_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

// One token at a time through a transformer of any of the families, in double precision and as plainly as it
// can be written: the oracle of the model room. It is told by options what a family does, in its own words,
// and takes weights by their names in the checkpoint.
namespace nfloat::reference {

using Vector = std::vector<double>;
using Weights = std::map<std::string, Vector>;

struct Options {
  int layers = 2, hidden = 0, heads = 0, kv_heads = 0, head_dim = 0;
  double epsilon = 1e-6;
  // Names; %d is the layer. An empty one is not there.
  std::string embedding = "model.embed_tokens", final_norm = "model.norm", head = "lm_head", positions;
  int position_offset = 0;
  std::string project_in, project_out;
  std::string norm1 = "model.layers.%d.input_layernorm", norm2 = "model.layers.%d.post_attention_layernorm";
  std::string post1, post2;
  std::string q = "model.layers.%d.self_attn.q_proj", k = "model.layers.%d.self_attn.k_proj",
              v = "model.layers.%d.self_attn.v_proj", qkv, o = "model.layers.%d.self_attn.o_proj";
  std::string q_norm, k_norm, sinks;
  std::string gate = "model.layers.%d.mlp.gate_proj", up = "model.layers.%d.mlp.up_proj", gate_up,
              down = "model.layers.%d.mlp.down_proj";
  bool conv1d = false;       // matrices of the layers are [in, out]
  bool qkv_by_head = false;  // rows of the fused projection: q, k and v of a head, then the next head's
  bool layer_norm = false, unit_offset = false, norm_after_residual = false, parallel = false;
  bool whole_qk_norm = false;
  std::function<double(double)> activation = [](double x) { return x / (1 + std::exp(-x)); };
  double embedding_scale = 1, residual_scale = 1, logit_divisor = 1, score_scale = 0, score_cap = 0,
         logit_cap = 0;
  // Radians a position of pair `i` in `layer`; empty vector: this layer does not turn.
  std::function<Vector(int layer)> frequencies;
  double rope_magnitude = 1;
  std::function<int(int layer)> window = [](int) { return 0; };  // 0: none
  // Adds to nothing, returns the feed-forward block's output; empty: the one above.
  std::function<Vector(const Weights&, int layer, const Vector&)> mixture;
  std::function<bool(int layer)> is_mixture = [](int) { return true; };
};

inline std::string at_layer(const std::string& name, int layer) {
  const size_t place = name.find("%d");
  return place == std::string::npos ? name
                                    : name.substr(0, place) + std::to_string(layer) + name.substr(place + 2);
}

// [out, in] times x, from `first` on.
inline Vector multiply(const Vector& matrix, size_t first, size_t rows, const Vector& x) {
  Vector y(rows, 0.0);
  for (size_t row = 0; row < rows; ++row)
    for (size_t i = 0; i < x.size(); ++i) y[row] += matrix[first + row * x.size() + i] * x[i];
  return y;
}

inline double gelu(double x) {
  return 0.5 * x * (1 + std::erf(x / std::sqrt(2.0)));
}
inline double gelu_tanh(double x) {
  return 0.5 * x * (1 + std::tanh(std::sqrt(2 / std::acos(-1.0)) * (x + 0.044715 * x * x * x)));
}

inline Vector plain_frequencies(double theta, int dims) {
  Vector list;
  for (int i = 0; i < dims; i += 2) list.push_back(1 / std::pow(theta, static_cast<double>(i) / dims));
  return list;
}

class Transformer {
 public:
  Transformer(Options options, const Weights& weights)
      : o_(std::move(options)),
        weights_(weights),
        keys_(static_cast<size_t>(o_.layers)),
        values_(static_cast<size_t>(o_.layers)) {}

  Vector step(int token) {
    const Vector& table = weight(o_.embedding);
    const size_t width =
        o_.project_in.empty() ? size(o_.hidden) : weight(o_.project_in).size() / size(o_.hidden);
    const auto row = table.begin() + static_cast<std::ptrdiff_t>(width) * token;
    Vector x(row, row + static_cast<std::ptrdiff_t>(width));
    if (!o_.project_in.empty()) x = multiply(weight(o_.project_in), 0, size(o_.hidden), x);
    for (double& value : x) value *= o_.embedding_scale;
    if (!o_.positions.empty())
      for (size_t i = 0; i < x.size(); ++i)
        x[i] += weight(o_.positions)[size(position_ + o_.position_offset) * x.size() + i];

    for (int layer = 0; layer < o_.layers; ++layer) {
      const bool before = !o_.norm_after_residual;
      Vector added = attend(layer, before && !o_.norm1.empty() ? norm(o_.norm1, layer, x) : x);
      if (!o_.post1.empty()) added = norm(o_.post1, layer, added);
      const Vector parallel_input = o_.parallel ? norm(o_.norm2, layer, x) : Vector();
      for (size_t i = 0; i < x.size(); ++i) x[i] += o_.residual_scale * added[i];
      if (!before) x = norm(o_.norm1, layer, x);
      added = feed_forward(layer, o_.parallel                   ? parallel_input
                                  : before && !o_.norm2.empty() ? norm(o_.norm2, layer, x)
                                                                : x);
      if (!o_.post2.empty()) added = norm(o_.post2, layer, added);
      for (size_t i = 0; i < x.size(); ++i) x[i] += o_.residual_scale * added[i];
      if (!before) x = norm(o_.norm2, layer, x);
    }
    ++position_;
    if (!o_.final_norm.empty()) x = norm(o_.final_norm, 0, x);
    if (!o_.project_out.empty()) x = multiply(weight(o_.project_out), 0, width, x);
    const Vector& head = o_.head.empty() ? table : weight(o_.head);
    Vector logits = multiply(head, 0, head.size() / x.size(), x);
    for (double& logit : logits) {
      logit /= o_.logit_divisor;
      if (o_.logit_cap > 0) logit = o_.logit_cap * std::tanh(logit / o_.logit_cap);
    }
    return logits;
  }

 private:
  static size_t size(int count) { return static_cast<size_t>(count); }
  const Vector& weight(const std::string& name) const { return weights_.at(name + ".weight"); }

  Vector linear(const std::string& pattern, int layer, const Vector& x) const {
    const std::string name = at_layer(pattern, layer);
    const Vector& matrix = weight(name);
    const size_t outputs = matrix.size() / x.size();
    Vector y(outputs, 0.0);
    for (size_t row = 0; row < outputs; ++row)
      for (size_t i = 0; i < x.size(); ++i)
        y[row] += (o_.conv1d ? matrix[i * outputs + row] : matrix[row * x.size() + i]) * x[i];
    if (const auto bias = weights_.find(name + ".bias"); bias != weights_.end())
      for (size_t i = 0; i < y.size(); ++i) y[i] += bias->second[i];
    return y;
  }

  Vector norm(const std::string& pattern, int layer, const Vector& x) const {
    const std::string name = at_layer(pattern, layer);
    const Vector& scale = weight(name);
    const double count = static_cast<double>(x.size());
    double mean = 0, squares = 0;
    if (o_.layer_norm)
      for (double value : x) mean += value / count;
    for (double value : x) squares += (value - mean) * (value - mean) / count;
    Vector y(x.size());
    for (size_t i = 0; i < x.size(); ++i) {
      y[i] = (x[i] - mean) / std::sqrt(squares + o_.epsilon) * (scale[i] + (o_.unit_offset ? 1 : 0));
      if (o_.layer_norm) y[i] += weights_.at(name + ".bias")[i];
    }
    return y;
  }

  Vector feed_forward(int layer, const Vector& x) const {
    if (o_.mixture && o_.is_mixture(layer)) return o_.mixture(weights_, layer, x);
    Vector gate, up;
    if (!o_.gate_up.empty()) {
      up = linear(o_.gate_up, layer, x);
      gate.assign(up.begin(), up.begin() + static_cast<std::ptrdiff_t>(up.size() / 2));
      up.erase(up.begin(), up.begin() + static_cast<std::ptrdiff_t>(up.size() / 2));
    } else {
      up = linear(o_.up, layer, x);
      if (!o_.gate.empty()) gate = linear(o_.gate, layer, x);
    }
    for (size_t i = 0; i < up.size(); ++i)
      up[i] = gate.empty() ? o_.activation(up[i]) : o_.activation(gate[i]) * up[i];
    return linear(o_.down, layer, up);
  }

  void turn(int layer, Vector& heads) const {
    const Vector frequencies = o_.frequencies ? o_.frequencies(layer) : Vector();
    const size_t half = frequencies.size();
    for (size_t head = 0; head < heads.size(); head += size(o_.head_dim))
      for (size_t i = 0; i < half; ++i) {
        const double angle = position_ * frequencies[i];
        const double c = std::cos(angle) * o_.rope_magnitude, s = std::sin(angle) * o_.rope_magnitude;
        const double a = heads[head + i], b = heads[head + i + half];
        heads[head + i] = a * c - b * s;
        heads[head + i + half] = b * c + a * s;
      }
  }

  void split(int layer, const Vector& x, Vector& q, Vector& k, Vector& v) const {
    if (o_.qkv.empty()) {
      q = linear(o_.q, layer, x), k = linear(o_.k, layer, x), v = linear(o_.v, layer, x);
      return;
    }
    const Vector all = linear(o_.qkv, layer, x);
    const size_t queries = size(o_.heads * o_.head_dim), keys = size(o_.kv_heads * o_.head_dim);
    for (size_t i = 0; i < all.size(); ++i) {
      size_t part = i < queries ? 0 : i < queries + keys ? 1 : 2;
      if (o_.qkv_by_head) part = i / size(o_.head_dim) % 3;
      (part == 0 ? q : part == 1 ? k : v).push_back(all[i]);
    }
  }

  void norm_heads(const std::string& name, int layer, Vector& heads) const {
    if (name.empty()) return;
    if (o_.whole_qk_norm) {
      heads = norm(name, layer, heads);
      return;
    }
    for (size_t head = 0; head < heads.size(); head += size(o_.head_dim)) {
      const auto first = heads.begin() + static_cast<std::ptrdiff_t>(head);
      const Vector one = norm(name, layer, Vector(first, first + o_.head_dim));
      std::copy(one.begin(), one.end(), first);
    }
  }

  Vector attend(int layer, const Vector& x) {
    Vector q, k, v;
    split(layer, x, q, k, v);
    norm_heads(o_.q_norm, layer, q);
    norm_heads(o_.k_norm, layer, k);
    turn(layer, q);
    turn(layer, k);
    auto& keys = keys_[size(layer)];
    auto& values = values_[size(layer)];
    keys.push_back(k);
    values.push_back(v);

    const int window = o_.window(layer);
    const size_t first = window > 0 ? size(std::max(0, position_ + 1 - window)) : 0;
    const double scale =
        o_.score_scale > 0 ? o_.score_scale : 1 / std::sqrt(static_cast<double>(o_.head_dim));
    Vector output(q.size(), 0.0);
    for (int h = 0; h < o_.heads; ++h) {
      const size_t own = size(h * o_.head_dim), shared = size(h / (o_.heads / o_.kv_heads) * o_.head_dim);
      Vector weights;
      double total = 0;
      for (size_t t = first; t < keys.size(); ++t) {
        double dot = 0;
        for (size_t d = 0; d < size(o_.head_dim); ++d) dot += q[own + d] * keys[t][shared + d];
        dot *= scale;
        if (o_.score_cap > 0) dot = o_.score_cap * std::tanh(dot / o_.score_cap);
        weights.push_back(std::exp(dot));
        total += weights.back();
      }
      if (!o_.sinks.empty()) total += std::exp(weights_.at(at_layer(o_.sinks, layer))[size(h)]);
      for (size_t t = first; t < keys.size(); ++t)
        for (size_t d = 0; d < size(o_.head_dim); ++d)
          output[own + d] += weights[t - first] / total * values[t][shared + d];
    }
    return linear(o_.o, layer, output);
  }

  Options o_;
  const Weights& weights_;
  int position_ = 0;
  std::vector<std::vector<Vector>> keys_, values_;  // [layer][position]
};

}  // namespace nfloat::reference

#endif  // NFLOAT_TESTS_REFERENCE_TRANSFORMER_H_
