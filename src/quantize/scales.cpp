// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>

#include "base/parallel.h"
#include "nfloat/quantize.h"
#include "tensor/block_scales.h"

namespace nfloat {
namespace {

int64_t ceil_log2(int64_t n) {
  int64_t bits = 0;
  while ((int64_t{1} << bits) < n) ++bits;
  return bits;
}

// The float32 mean as torch sums it on a CPU: rows of 4 vectors of 8 lanes, four cascade levels.
float torch_mean(std::span<const float> values) {
  constexpr size_t kLanes = 8, kVectors = 4, kRow = kLanes * kVectors, kLevels = 4;
  const size_t rows = values.size() / kRow;
  const int64_t level_power =
      std::max<int64_t>(4, ceil_log2(static_cast<int64_t>(rows)) / static_cast<int64_t>(kLevels));
  const size_t level_step = size_t{1} << level_power;
  float sums[kLevels][kRow] = {};
  for (size_t row = 0; row < rows; ++row) {
    for (size_t i = 0; i < kRow; ++i) sums[0][i] += values[row * kRow + i];
    // A level that has taken its rows is added to the next one and begins again.
    size_t done = row + 1;
    for (size_t level = 1; level < kLevels && done % level_step == 0; ++level, done /= level_step) {
      for (size_t i = 0; i < kRow; ++i) {
        sums[level][i] += sums[level - 1][i];
        sums[level - 1][i] = 0;
      }
    }
  }
  for (size_t level = 1; level < kLevels; ++level) {
    for (size_t i = 0; i < kRow; ++i) sums[0][i] += sums[level][i];
  }
  size_t next = rows * kRow;
  for (; next + kLanes <= values.size(); next += kLanes) {
    for (size_t lane = 0; lane < kLanes; ++lane) sums[0][lane] += values[next + lane];
  }
  for (size_t vector = 1; vector < kVectors; ++vector) {
    for (size_t lane = 0; lane < kLanes; ++lane) sums[0][lane] += sums[0][vector * kLanes + lane];
  }
  float total = 0;
  for (; next < values.size(); ++next) total += values[next];
  for (size_t lane = 0; lane < kLanes; ++lane) total += sums[0][lane];
  return total / static_cast<float>(values.size());
}

constexpr size_t kAtOnce = 8;

// How many of the thresholds between 256 levels lie below each y, which may be NaN: none then. Without
// branches, which halvings for scales in no order would mispredict; side by side, since the halvings of one
// wait for one another.
void thresholds_below(std::span<const float, 255> thresholds, const float (&y)[kAtOnce],
                      size_t (&below)[kAtOnce]) noexcept {
  for (size_t& one : below) one = 0;
  for (size_t step = 128; step > 0; step /= 2)
    for (size_t i = 0; i < kAtOnce; ++i)
      below[i] += step * static_cast<size_t>(thresholds[below[i] + step - 1] < y[i]);
}

// One second-level block: its absmax, and a code for each scale.
float quantize_scale_block(const Codebook& map, std::span<const float> scales, float offset,
                           uint8_t* codes) noexcept {
  const std::span<const float, 255> thresholds(map.thresholds);
  float absmax = 0;
  for (const float scale : scales) absmax = std::max(absmax, std::fabs(scale - offset));
  const float clamped = std::max(absmax, 1e-38f), inverse = 1.0f / clamped;
  const bool whole = scales.size() == static_cast<size_t>(kNestedBlockSize);
  for (size_t begin = 0; begin < scales.size(); begin += kAtOnce) {
    const size_t count = std::min(kAtOnce, scales.size() - begin);
    float y[kAtOnce] = {};
    for (size_t i = 0; i < count; ++i) {
      const float centred = scales[begin + i] - offset;
      y[i] = std::clamp(whole ? centred * inverse : centred / clamped, -1.0f, 1.0f);
    }
    size_t ranks[kAtOnce];
    thresholds_below(thresholds, y, ranks);
    for (size_t i = 0; i < count; ++i) codes[begin + i] = map.code_of_rank[ranks[i]];
  }
  return absmax;
}

}  // namespace

NestedScales quantize_scales(std::span<const float> scales, int threads) {
  constexpr int64_t kBlocksAShare = 64;
  const Codebook& map = dynamic_codebook();
  NestedScales nested;
  if (scales.empty()) return nested;
  nested.offset = torch_mean(scales);
  nested.codes.resize(scales.size());
  const int64_t blocks = (std::ssize(scales) + kNestedBlockSize - 1) / kNestedBlockSize;
  nested.absmax.resize(static_cast<size_t>(blocks));
  parallel_for(blocks, kBlocksAShare, threads, [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block) {
      const auto first = static_cast<size_t>(block * kNestedBlockSize);
      const size_t count = std::min(scales.size() - first, static_cast<size_t>(kNestedBlockSize));
      nested.absmax[static_cast<size_t>(block)] =
          quantize_scale_block(map, scales.subspan(first, count), nested.offset, nested.codes.data() + first);
    }
  });
  return nested;
}

std::vector<float> dequantize_scales(const NestedScales& nested) {
  const BlockScales stored(nested.codes.data(), dynamic_codebook().levels.data(), nested.absmax.data(),
                           nested.offset, kNestedBlockSize);
  std::vector<float> scales(nested.codes.size());
  for (size_t i = 0; i < scales.size(); ++i) scales[i] = stored[static_cast<int64_t>(i)];
  return scales;
}

}  // namespace nfloat
