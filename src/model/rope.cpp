// SPDX-License-Identifier: Apache-2.0
#include "model/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace nfloat {

std::vector<double> rope_frequencies(const RopeConfig& rope, int64_t head_dim, int64_t length) {
  double theta = rope.theta;
  if (rope.scaling == RopeScaling::kDynamic && length > rope.original_context) {
    const double stretch =
        rope.factor * static_cast<double>(length) / static_cast<double>(rope.original_context) -
        (rope.factor - 1);
    theta *= std::pow(
        stretch, static_cast<double>(head_dim) / static_cast<double>(std::max<int64_t>(head_dim - 2, 1)));
  }
  std::vector<double> frequencies(static_cast<size_t>(head_dim / 2));
  for (size_t i = 0; i < frequencies.size(); ++i) {
    double frequency = std::pow(theta, -2.0 * static_cast<double>(i) / static_cast<double>(head_dim));
    if (rope.scaling == RopeScaling::kLinear) frequency /= rope.factor;
    if (rope.scaling == RopeScaling::kLlama3) {
      // Whole turns within the original context; few turns: stretch, many: keep, between: mix.
      const double turns = static_cast<double>(rope.original_context) * frequency / (2 * std::numbers::pi);
      const double keep = std::clamp(
          (turns - rope.low_frequency_factor) / (rope.high_frequency_factor - rope.low_frequency_factor), 0.0,
          1.0);
      frequency = keep * frequency + (1 - keep) * frequency / rope.factor;
    }
    frequencies[i] = frequency;
  }
  return frequencies;
}

RopeTable::RopeTable(const ModelConfig& config, int64_t length)
    : head_dim_(config.head_dim), length_(length), table_(static_cast<size_t>(length * config.head_dim)) {
  const std::vector<double> frequencies = rope_frequencies(config.rope, head_dim_, length);
  const size_t half = frequencies.size();
  for (int64_t position = 0; position < length; ++position) {
    float* row = table_.data() + position * head_dim_;
    for (size_t i = 0; i < half; ++i) {
      const double angle = static_cast<double>(position) * frequencies[i];
      row[i] = static_cast<float>(std::cos(angle));
      row[half + i] = static_cast<float>(std::sin(angle));
    }
  }
}

}  // namespace nfloat
