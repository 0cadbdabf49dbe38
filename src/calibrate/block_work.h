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
#include "kernels/calibrate.h"

// What feedback and descent have in common: levels, stored scales, blocks that may cross rows.
namespace nfloat {

inline constexpr int64_t kLanes = 16;  // of the kernels

// The levels of a code in ascending order, and the table that kernels want: a weight's place is its rank.
struct Levels {
  explicit Levels(const Codebook& codebook) {
    const auto count = codebook.levels.size();
    std::vector<uint8_t> order(count);
    std::iota(order.begin(), order.end(), uint8_t{0});
    std::sort(order.begin(), order.end(),
              [&](uint8_t a, uint8_t b) { return codebook.levels[a] < codebook.levels[b]; });
    for (size_t i = 0; i < kMost; ++i) {
      const size_t at = std::min(i, count - 1);
      code[i] = table.code_of_rank[i] = order[at];
      level[i] = table.levels[order[at]] = codebook.levels[order[at]];
    }
    for (size_t i = 0; i < kMost; ++i)
      table.thresholds[i] = i + 1 < count ? (level[i] + level[i + 1]) / 2 : INFINITY;
  }

  static constexpr size_t kMost = 16;
  std::array<float, kMost> level{};
  std::array<uint8_t, kMost> code{};  // of the file, by place in the order
  kernels::CodeTable table{};
};

// 1 / of each element of the diagonal.
inline std::vector<float> inverse_diagonal(const SquareMatrix& matrix, int64_t size) {
  std::vector<float> inverse(static_cast<size_t>(size));
  for (int64_t j = 0; j < size; ++j)
    inverse[static_cast<size_t>(j)] = 1 / matrix[static_cast<size_t>(j * size + j)];
  return inverse;
}

using Range = std::pair<int64_t, int64_t>;  // of columns, [begin, end)

// Of a range: the inverse of H there, and the upper triangular U with U^T U equal to it.
struct RangeInverse {
  std::vector<float> inverse, upper;    // [n][n]
  std::vector<float> inverse_diagonal;  // 1 / the diagonal of U
};
RangeInverse inverse_of(const SquareMatrix& h, int64_t columns, const Range& range);

// The scales that a file can hold, as codes of 8 bits: code 127 is zero; those of s and -s add up to 254. Of
// a double-quantized file without an offset they are the second-level map times the scale of 256 blocks; of
// one with a float16 a block, those in steps of .9 % around what the block wants.
class StoredScales {
 public:
  static constexpr int kZero = 127, kMirror = 254;

  // `wanted`: scales near those that will be chosen.
  explicit StoredScales(std::span<const float> wanted);
  // What is stored is a scale divided by `unit`, in float16.
  StoredScales(std::span<const float> wanted, float unit);

  const std::vector<float>& absmax() const noexcept { return absmax_; }
  bool float16() const noexcept { return unit_ > 0; }
  float at(int64_t block, int code) const noexcept {
    const float scale = (*map_)[static_cast<size_t>(code)] * absmax(block);
    return unit_ > 0 ? stored(scale) : scale;
  }
  // The code whose scale is nearest to `scale`, but not zero.
  int nearest(int64_t block, float scale) const noexcept;
  // The code of the least positive scale that is not below `scale`; 256 when there is none.
  int first_above(int64_t block, float scale) const noexcept;

 private:
  float absmax(int64_t block) const noexcept { return absmax_[static_cast<size_t>(block / group_)]; }
  float stored(float scale) const noexcept;

  const std::vector<float>* map_;
  int64_t group_ = kNestedBlockSize;  // blocks of one number in absmax_
  float unit_ = 0;                    // 0: no float16
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

// Units whose blocks lie alike, worked on together: every factor that is read serves all of them.
struct UnitBatch {
  int64_t first = 0, count = 0;  // units
  int64_t first_row = 0, unit_rows = 0;
  int64_t first_block = 0, unit_blocks = 0;

  int64_t block(int64_t unit, int64_t i) const noexcept { return first_block + unit * unit_blocks + i; }
};

// The units [begin, end) of a coding in batches; only the last unit of a matrix may be shorter than others.
inline std::vector<UnitBatch> batches_of(const Coding& coding, int64_t begin, int64_t end) {
  constexpr int64_t kMostUnits = 64, kMostWeights = int64_t{1} << 21;
  const int64_t unit_weights = coding.unit_rows() * coding.columns;
  const int64_t most = std::clamp(kMostWeights / unit_weights, int64_t{1}, kMostUnits);
  std::vector<UnitBatch> batches;
  for (int64_t unit = begin; unit < end;) {
    const auto [block, last] = coding.blocks_of_unit(unit);
    UnitBatch batch{.first = unit,
                    .count = 1,
                    .first_row = unit * coding.unit_rows(),
                    .unit_rows = std::min(coding.unit_rows(), coding.rows - unit * coding.unit_rows()),
                    .first_block = block,
                    .unit_blocks = last - block};
    while (batch.count < most && unit + batch.count < end &&
           (unit + batch.count + 1) * coding.unit_rows() <= coding.rows)
      ++batch.count;
    unit += batch.count;
    batches.push_back(batch);
  }
  return batches;
}

// Level 1a: codes and scales of every block in order, what a block loses being fed to the columns behind it.
void feed_back(std::span<const float> weights, const HessianFactor& factor, const Levels& levels,
               const StoredScales& scales, int finalists, int threads, Coding& coding);

// Level 1b: one sweep over all blocks, each changed where tr(R H R^T) falls; R: the coding less the weights.
void descend(std::span<const float> weights, const HessianFactor& factor, const Levels& levels,
             const StoredScales& scales, bool whole, int threads, Coding& coding);

}  // namespace nfloat

#endif  // NFLOAT_CALIBRATE_BLOCK_WORK_H_
