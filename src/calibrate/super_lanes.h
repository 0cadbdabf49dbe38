// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_CALIBRATE_SUPER_LANES_H_
#define NFLOAT_CALIBRATE_SUPER_LANES_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "calibrate/block_work.h"
#include "calibrate/super_coding.h"

namespace nfloat {

// Blocks of a super-block that the kernels code side by side, one a lane: the memory of kernels::ColumnsArgs.
struct SuperLanes {
  std::vector<float> scales, inverses, losses;
  std::vector<float> work;
  std::vector<int32_t> ranks;
  int64_t columns = 0, sets = 0;

  // Losses become zeros, all else is to be written.
  void begin(int64_t set_count, int64_t block_columns) {
    columns = block_columns;
    sets = set_count;
    const auto lanes = static_cast<size_t>(sets * kLanes);
    scales.resize(lanes);
    inverses.resize(lanes);
    losses.assign(lanes, 0.0f);
    work.resize(lanes * static_cast<size_t>(columns));
    ranks.resize(work.size());
  }
  int64_t count() const noexcept { return sets * kLanes; }
  void set(int64_t lane, const BlockValues& block) noexcept {
    scales[static_cast<size_t>(lane)] = block.scale;
    inverses[static_cast<size_t>(lane)] = block.inverse();
  }
  // Of column j in work and ranks; the next one lies kLanes behind.
  size_t at(int64_t lane, int64_t j) const noexcept {
    return static_cast<size_t>((lane / kLanes * columns + j) * kLanes + lane % kLanes);
  }
  kernels::ColumnsArgs args(const SuperFormat& format, const float* matrix, int64_t stride,
                            const float* inverse_diagonal) noexcept {
    return {.table = &format.table,
            .steps = format.steps,
            .work = work.data(),
            .ranks = ranks.data(),
            .scales = scales.data(),
            .inverses = inverses.data(),
            .matrix = matrix,
            .stride = stride,
            .inverse_diagonal = inverse_diagonal,
            .columns = columns,
            .sets = sets};
  }
};

}  // namespace nfloat

#endif  // NFLOAT_CALIBRATE_SUPER_LANES_H_
