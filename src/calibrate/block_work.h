// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_CALIBRATE_BLOCK_WORK_H_
#define NFLOAT_CALIBRATE_BLOCK_WORK_H_

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <span>
#include <vector>

#include "calibrate/matrix.h"

// What feedback and descent have in common: levels, stored scales, blocks that may cross rows.
namespace nfloat {

// The levels of a code in ascending order; the nearest to x is the number of thresholds below x.
struct Levels {
  explicit Levels(const Codebook& codebook) {
    const auto count = codebook.levels.size();
    std::vector<uint8_t> order(count);
    std::iota(order.begin(), order.end(), uint8_t{0});
    std::sort(order.begin(), order.end(),
              [&](uint8_t a, uint8_t b) { return codebook.levels[a] < codebook.levels[b]; });
    for (size_t i = 0; i < kMost; ++i) {
      const size_t at = std::min(i, count - 1);
      code[i] = order[at];
      level[i] = codebook.levels[order[at]];
    }
    for (size_t i = 0; i + 1 < kMost; ++i) {
      step[i] = level[i + 1] - level[i];
      threshold[i] = i + 1 < count ? (level[i] + level[i + 1]) / 2 : INFINITY;
    }
  }
  int nearest(float x) const noexcept {
    int index = 0;
    for (const float border : threshold) index += x > border ? 1 : 0;
    return index;
  }

  static constexpr size_t kMost = 16;
  std::array<float, kMost> level{};
  std::array<float, kMost - 1> threshold{}, step{};
  std::array<uint8_t, kMost> code{};  // of the file, by place in the order
};

// x[i] becomes about the level nearest to it: the steps up to it are added, each rounded.
template <int kCount>
inline void nearest_levels(const Levels& levels, const float* x, float* output) noexcept {
  float value[kCount];
  for (int i = 0; i < kCount; ++i) value[i] = levels.level[0];
  for (size_t b = 0; b + 1 < Levels::kMost; ++b) {
    const float border = levels.threshold[b], step = levels.step[b];
    for (int i = 0; i < kCount; ++i) value[i] += x[i] > border ? step : 0.0f;
  }
  for (int i = 0; i < kCount; ++i) output[i] = value[i];
}

// The scales that a double-quantized file can hold without an offset: the second-level map times the scale
// of 256 blocks. Code 127 is zero; those of s and -s add up to 254.
class StoredScales {
 public:
  static constexpr int kZero = 127, kMirror = 254;

  // `wanted`: scales near those that will be chosen.
  explicit StoredScales(std::span<const float> wanted);

  const std::vector<float>& absmax() const noexcept { return absmax_; }
  float at(int64_t block, int code) const noexcept {
    return (*map_)[static_cast<size_t>(code)] * absmax_[static_cast<size_t>(block / kNestedBlockSize)];
  }
  // The code whose scale is nearest to `scale`, but not zero.
  int nearest(int64_t block, float scale) const noexcept;

 private:
  const std::vector<float>* map_;
  std::vector<float> absmax_;
};

// The part of a block in one row.
struct BlockPart {
  int64_t row = 0;  // of the matrix
  int64_t begin = 0, end = 0;
};

// A matrix at work: one code a weight (a place in Levels), one stored scale a block.
struct Coding {
  int64_t rows = 0, columns = 0, block_size = 0;
  std::vector<uint8_t> places;       // [rows * columns]
  std::vector<uint8_t> scale_codes;  // one a block

  int64_t blocks() const noexcept { return (rows * columns + block_size - 1) / block_size; }
  // Rows whose blocks are their own: the smallest number of them.
  int64_t unit_rows() const noexcept { return std::min(rows, std::lcm(block_size, columns) / columns); }
  int64_t units() const noexcept { return (rows + unit_rows() - 1) / unit_rows(); }
  std::pair<int64_t, int64_t> blocks_of_unit(int64_t unit) const noexcept {
    const int64_t first = unit * unit_rows() * columns;
    const int64_t last = std::min(rows * columns, first + unit_rows() * columns);
    return {first / block_size, (last + block_size - 1) / block_size};
  }
  void parts_of(int64_t block, std::vector<BlockPart>& parts) const {
    parts.clear();
    int64_t at = block * block_size;
    const int64_t last = std::min(rows * columns, at + block_size);
    while (at < last) {
      const int64_t row = at / columns, begin = at % columns;
      const int64_t count = std::min(columns - begin, last - at);
      parts.push_back({row, begin, begin + count});
      at += count;
    }
  }
};

// Level 1a: codes and scales of every block in order, what a block loses being fed to the columns behind it.
void feed_back(std::span<const float> weights, const HessianFactor& factor, const Levels& levels,
               const StoredScales& scales, int finalists, int threads, Coding& coding);

// Level 1b: one sweep over all blocks, each changed where tr(R H R^T) falls. `gradient` is R H for the coding
// and is kept so.
void descend(const HessianFactor& factor, const Levels& levels, const StoredScales& scales, bool whole,
             int threads, Coding& coding, std::span<float> gradient);

}  // namespace nfloat

#endif  // NFLOAT_CALIBRATE_BLOCK_WORK_H_
