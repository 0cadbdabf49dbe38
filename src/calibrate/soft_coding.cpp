// SPDX-License-Identifier: Apache-2.0
#include "calibrate/soft_coding.h"

#include <algorithm>
#include <cmath>

#include "base/parallel.h"

namespace nfloat {

float adam_change(Moments& moments, float gradient, const AdamStep& step) noexcept {
  constexpr auto kFirst = static_cast<float>(AdamStep::kBeta1),
                 kSecond = static_cast<float>(AdamStep::kBeta2);
  constexpr float kEpsilon = 1e-8f;
  moments.m = kFirst * moments.m + (1 - kFirst) * gradient;
  moments.v = kSecond * moments.v + (1 - kSecond) * gradient * gradient;
  return moments.m / step.first / (std::sqrt(moments.v) / step.root + kEpsilon);
}

SoftCoding::SoftCoding(const QuantizedTensor& start)
    : start_(start), levels_(start.codebook), map_(dynamic_codebook().levels) {
  const auto count = static_cast<size_t>(start_.elements());
  values_.resize(count);
  value_moments_.resize(count);
  for (size_t i = 0; i < count; ++i) {
    const uint8_t pair = start_.codes[i / 2];
    values_[i] = start_.codebook.levels[i % 2 == 0 ? pair >> 4 : pair & 15];
  }
  const auto blocks = static_cast<size_t>(start_.blocks());
  factors_.resize(blocks);
  factor_moments_.resize(blocks);
  scales_.resize(blocks);
  for (size_t i = 0; i < blocks; ++i) scales_[i] = scale_at(static_cast<int64_t>(i), start_.nested.codes[i]);
}

int SoftCoding::place(float value) const noexcept {
  int place = 0;
  for (size_t i = 0; i + 1 < Levels::kMost; ++i) place += value > levels_.table.thresholds[i] ? 1 : 0;
  return place;
}

float SoftCoding::scale_at(int64_t block, int code) const noexcept {
  return map_[static_cast<size_t>(code)] *
             start_.nested.absmax[static_cast<size_t>(block / kNestedBlockSize)] +
         start_.nested.offset;
}

// The nearest one; no scale becomes zero or changes its sign.
int SoftCoding::scale_code(int64_t block) const noexcept {
  const auto at = static_cast<size_t>(block);
  const float start = scales_[at], wanted = start * (1 + factors_[at]);
  const float absmax = start_.nested.absmax[static_cast<size_t>(block / kNestedBlockSize)];
  const int own = start_.nested.codes[at];
  if (factors_[at] == 0 || !(absmax > 0)) return own;
  const float x = (wanted - start_.nested.offset) / absmax;
  const auto above = static_cast<int>(
      std::min<std::ptrdiff_t>(255, std::lower_bound(map_.begin(), map_.end(), x) - map_.begin()));
  const int below = std::max(0, above - 1);
  const auto distance = [&](int code) { return std::fabs(map_[static_cast<size_t>(code)] - x); };
  const int nearest = distance(above) < distance(below) ? above : below;
  return scale_at(block, nearest) * start > 0 ? nearest : own;
}

void SoftCoding::decode(std::span<float> weights, int threads) const {
  parallel_for(start_.blocks(), 16, threads, [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block) {
      const float scale = scale_at(block, scale_code(block));
      const int64_t last = std::min(size(), (block + 1) * start_.block_size);
      for (int64_t i = block * start_.block_size; i < last; ++i) {
        const auto at = static_cast<size_t>(i);
        weights[at] = levels_.level[static_cast<size_t>(place(values_[at]))] * scale;
      }
    }
  });
}

void SoftCoding::step(std::span<const float> gradients, const AdamStep& step, int threads) {
  const float low = levels_.level.front(), high = levels_.level.back();
  parallel_for(start_.blocks(), 16, threads, [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block) {
      const auto own = static_cast<size_t>(block);
      if (scales_[own] == 0) continue;
      const float scale = scale_at(block, scale_code(block));
      const int64_t last = std::min(size(), (block + 1) * start_.block_size);
      float of_factor = 0;
      for (int64_t i = block * start_.block_size; i < last; ++i) {
        const auto at = static_cast<size_t>(i);
        const float gradient = gradients[at];
        of_factor += gradient * levels_.level[static_cast<size_t>(place(values_[at]))];
        const float change = adam_change(value_moments_[at], gradient * scale, step);
        values_[at] = std::clamp(values_[at] - step.rate * change, low, high);
      }
      factors_[own] -= step.rate_of_rest * adam_change(factor_moments_[own], of_factor * scales_[own], step);
    }
  });
}

QuantizedTensor SoftCoding::tensor() const {
  QuantizedTensor result = start_;
  std::fill(result.codes.begin(), result.codes.end(), uint8_t{0});
  for (size_t i = 0; i < values_.size(); ++i)
    result.codes[i / 2] |=
        static_cast<uint8_t>(levels_.code[static_cast<size_t>(place(values_[i]))] << (i % 2 == 0 ? 4 : 0));
  for (int64_t block = 0; block < start_.blocks(); ++block)
    result.nested.codes[static_cast<size_t>(block)] = static_cast<uint8_t>(scale_code(block));
  return result;
}

}  // namespace nfloat
