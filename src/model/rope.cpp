// SPDX-License-Identifier: Apache-2.0
#include "model/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <utility>

namespace nfloat {

// How much of pair `pair` is divided by the factor: none of those that turn beta_fast times within the
// original context, all of those that turn less than beta_slow times, a line between.
static double yarn_ramp(const RopeConfig& rope, int64_t rotary_dim, double pair) {
  const auto pair_of = [&](double turns) {
    return static_cast<double>(rotary_dim) *
           std::log(static_cast<double>(rope.original_context) / (turns * 2 * std::numbers::pi)) /
           (2 * std::log(rope.theta));
  };
  double low = pair_of(rope.beta_fast), high = pair_of(rope.beta_slow);
  if (rope.truncate) low = std::floor(low), high = std::ceil(high);
  low = std::max(low, 0.0);
  high = std::min(high, static_cast<double>(rotary_dim - 1));
  if (low == high) high += 0.001;
  return std::clamp((pair - low) / (high - low), 0.0, 1.0);
}

std::vector<double> rope_frequencies(const RopeConfig& rope, int64_t rotary_dim, int64_t length) {
  double theta = rope.theta;
  if (rope.scaling == RopeScaling::kDynamic && length > rope.original_context) {
    const double stretch =
        rope.factor * static_cast<double>(length) / static_cast<double>(rope.original_context) -
        (rope.factor - 1);
    theta *= std::pow(
        stretch, static_cast<double>(rotary_dim) / static_cast<double>(std::max<int64_t>(rotary_dim - 2, 1)));
  }
  std::vector<double> frequencies(static_cast<size_t>(rotary_dim / 2));
  for (size_t i = 0; i < frequencies.size(); ++i) {
    double frequency = std::pow(theta, -2.0 * static_cast<double>(i) / static_cast<double>(rotary_dim));
    if (rope.scaling == RopeScaling::kLinear) frequency /= rope.factor;
    if (rope.scaling == RopeScaling::kLlama3) {
      // Whole turns within the original context; few turns: stretch, many: keep, between: mix.
      const double turns = static_cast<double>(rope.original_context) * frequency / (2 * std::numbers::pi);
      const double keep = std::clamp(
          (turns - rope.low_frequency_factor) / (rope.high_frequency_factor - rope.low_frequency_factor), 0.0,
          1.0);
      frequency = keep * frequency + (1 - keep) * frequency / rope.factor;
    }
    if (rope.scaling == RopeScaling::kLongRope)
      frequency /= (length > rope.original_context ? rope.long_factors : rope.short_factors)[i];
    if (rope.scaling == RopeScaling::kYarn) {
      const double divided = yarn_ramp(rope, rotary_dim, static_cast<double>(i));
      frequency = divided * frequency / rope.factor + (1 - divided) * frequency;
    }
    frequencies[i] = frequency;
  }
  return frequencies;
}

RopeTable::RopeTable(const RopeConfig& rope, int64_t rotary_dim, int64_t length,
                     std::shared_ptr<Device> device)
    : rotary_dim_(rotary_dim),
      length_(length),
      factor_(rope.attention_factor),
      frequencies_(rope_frequencies(rope, rotary_dim, length)),
      device_(std::move(device)),
      chunks_(static_cast<size_t>((length + kChunk - 1) / kChunk)) {}

void RopeTable::reserve(int64_t positions) {
  const std::scoped_lock lock(mutex_);
  const size_t half = frequencies_.size();
  for (; static_cast<int64_t>(filled_) * kChunk < positions; ++filled_) {
    std::vector<float> chunk(static_cast<size_t>(kChunk * rotary_dim_));
    for (int64_t i = 0; i < kChunk; ++i) {
      const auto position = static_cast<double>(static_cast<int64_t>(filled_) * kChunk + i);
      float* row = chunk.data() + i * rotary_dim_;
      for (size_t pair = 0; pair < half; ++pair) {
        const double angle = position * frequencies_[pair];
        row[pair] = static_cast<float>(factor_ * std::cos(angle));
        row[half + pair] = static_cast<float>(factor_ * std::sin(angle));
      }
    }
    Constant placed(std::move(chunk));
    device_->place(placed);
    chunks_[filled_] = std::move(placed);
  }
}

}  // namespace nfloat
