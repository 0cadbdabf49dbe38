// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_ENGINE_RANKS_RANK_MATRIX_H_
#define NFLOAT_ENGINE_RANKS_RANK_MATRIX_H_

#include <cstdint>
#include <utility>
#include <vector>

#include "engine/cpu/cpu_matrix.h"
#include "engine/device.h"
#include "engine/ranks/head_shares.h"

namespace nfloat {

// Some rows of a matrix; which ones are whose is known to all.
class RankMatrix final : public DeviceMatrix {
 public:
  // `local`: one for each of the own rows[rank]. `heads`: of rows that were shared out by them.
  RankMatrix(std::vector<CpuMatrix> local, int64_t height, int64_t cols,
             std::vector<std::vector<RowRange>> rows, int rank, const HeadLayout& heads = {}) noexcept
      : local_(std::move(local)),
        height_(height),
        cols_(cols),
        rows_(std::move(rows)),
        rank_(static_cast<size_t>(rank)),
        heads_(heads) {}

  int64_t rows() const noexcept override { return height_; }
  int64_t cols() const noexcept override { return cols_; }
  uint64_t bytes() const noexcept override {
    uint64_t total = 0;
    for (const CpuMatrix& part : local_) total += part.bytes();
    return total;
  }

  const std::vector<CpuMatrix>& local() const noexcept { return local_; }
  const std::vector<RowRange>& ranges() const noexcept { return rows_[rank_]; }
  const std::vector<RowRange>& ranges_of(size_t rank) const noexcept { return rows_[rank]; }
  int64_t own() const noexcept { return rows_of(rank_); }
  int64_t rows_of(size_t rank) const noexcept {
    int64_t count = 0;
    for (const RowRange& range : rows_[rank]) count += range.count;
    return count;
  }
  bool same_shares(const RankMatrix& other) const noexcept { return rows_ == other.rows_; }
  const HeadLayout& heads() const noexcept { return heads_; }
  bool by_heads() const noexcept { return heads_.heads > 0; }

 private:
  const std::vector<CpuMatrix> local_;
  const int64_t height_, cols_;
  const std::vector<std::vector<RowRange>> rows_;  // by rank
  const size_t rank_;
  const HeadLayout heads_;
};

}  // namespace nfloat

#endif  // NFLOAT_ENGINE_RANKS_RANK_MATRIX_H_
