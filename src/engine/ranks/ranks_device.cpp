// SPDX-License-Identifier: Apache-2.0
#include "engine/ranks/ranks_device.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "base/fail.h"
#include "base/mapped_file.h"
#include "engine/cpu/cpu_matrix.h"
#include "engine/ranks/head_shares.h"
#include "engine/ranks/rank_matrix.h"
#include "engine/ranks/ranks_engine.h"
#include "kernels/gemm.h"
#include "linear/state.h"

namespace nfloat {
namespace {

// Rows after which a row of the matrix begins a panel of the kernels, a block and a byte of codes.
int64_t row_unit(const PackSource& source) noexcept {
  const int64_t block = std::lcm(source.block_size, int64_t{2});
  const int64_t rows = block / std::gcd(block, std::max<int64_t>(1, source.cols));
  return std::lcm(rows, kernels::kPanelRows);
}

PackSource rows_of(const PackSource& source, const RowRange& rows) {
  const int64_t begin = rows.first, end = rows.first + rows.count;
  PackSource part = source;
  part.rows = end - begin;
  const int64_t first = begin * source.cols, last = end * source.cols;
  const auto range = [](auto span, int64_t from, int64_t to) {
    return span.subspan(static_cast<size_t>(from), static_cast<size_t>(to - from));
  };
  part.codes = range(source.codes, first / 2, (last + 1) / 2);
  const int64_t first_block = first / source.block_size;
  const int64_t last_block = (last + source.block_size - 1) / source.block_size;
  if (!source.scales.empty()) part.scales = range(source.scales, first_block, last_block);
  if (!source.nested_codes.empty()) {
    part.nested_codes = range(source.nested_codes, first_block, last_block);
    const int64_t nested = source.nested_first + first_block;
    part.nested_first = nested % source.nested_block_size;
    const int64_t behind = source.nested_first + last_block + source.nested_block_size - 1;
    part.nested_absmax = first_block == last_block
                             ? std::span<const float>()
                             : range(source.nested_absmax, nested / source.nested_block_size,
                                     behind / source.nested_block_size);
  }
  return part;
}

// Of a file, own parts alone are read (MappedFile::expect_places()).
PackSource started(PackSource part) noexcept {
  prefetch_mapped(std::as_bytes(part.codes));
  prefetch_mapped(std::as_bytes(part.scales));
  prefetch_mapped(std::as_bytes(part.nested_codes));
  return part;
}

class RanksDevice final : public Device {
 public:
  RanksDevice(std::shared_ptr<Ranks> ranks, std::vector<double> weights)
      : ranks_(std::move(ranks)), weights_(std::move(weights)), rank_(static_cast<size_t>(ranks_->rank())) {
    expect_shares(weights_, ranks_->count());
    if (weights_.empty()) weights_.assign(static_cast<size_t>(ranks_->count()), 1);
  }

  // Found by this name: ModelOptions with the ranks beside it load the same again.
  std::string_view name() const noexcept override { return cpu_device()->name(); }
  std::string_view model() const noexcept override { return cpu_device()->model(); }

  std::unique_ptr<const DeviceMatrix> matrix(const PackSource& source, int threads) override {
    expect_matrix(source);
    return matrix(source, threads, row_shares(source.rows, row_unit(source)), {});
  }
  std::unique_ptr<const DeviceMatrix> matrix(const TensorView& weights, DenseMatrix::Storage storage,
                                             int threads, const Release& release) override {
    expect_matrix(weights);
    return matrix(weights, storage, threads, release, row_shares(weights.shape[0], kernels::kPanelRows), {});
  }
  std::unique_ptr<const DeviceMatrix> matrix_of_heads(const PackSource& source, const HeadRows& heads,
                                                      int threads) override {
    expect_matrix(source);
    Shares shares = head_shares(source.rows, heads);
    if (!in_units(shares, source.rows, row_unit(source))) return matrix(source, threads);
    return matrix(source, threads, std::move(shares), heads.layout);
  }
  std::unique_ptr<const DeviceMatrix> matrix_of_heads(const TensorView& weights, const HeadRows& heads,
                                                      DenseMatrix::Storage storage, int threads,
                                                      const Release& release) override {
    expect_matrix(weights);
    Shares shares = head_shares(weights.shape[0], heads);
    if (!in_units(shares, weights.shape[0], kernels::kPanelRows))
      return matrix(weights, storage, threads, release);
    return matrix(weights, storage, threads, release, std::move(shares), heads.layout);
  }

  void place(Constant& constant) override { cpu_device()->place(constant); }
  int64_t page_bytes(const CacheShape& shape) const noexcept override {
    return cpu_device()->page_bytes(shape);
  }
  int64_t own_page_bytes(const CacheShape& shape) const noexcept override {
    CacheShape own = shape;
    own.kv_heads = share_heads(shape.heads, shape.kv_heads, weights_)[rank_].kv_heads;
    return cpu_device()->page_bytes(own);
  }
  std::shared_ptr<std::byte> page(size_t bytes) override { return cpu_device()->page(bytes); }
  void copy_page(std::byte* to, const std::byte* from, size_t bytes) override {
    cpu_device()->copy_page(to, from, bytes);
  }
  std::unique_ptr<LayerEngine> engine() override { return ranks_engine(ranks_, weights_); }

 private:
  using Shares = std::vector<std::vector<RowRange>>;  // by rank

  Shares row_shares(int64_t rows, int64_t unit) const {
    const std::vector<int64_t> bounds = share_rows(rows, unit, weights_);
    Shares shares(weights_.size());
    for (size_t rank = 0; rank < shares.size(); ++rank)
      if (bounds[rank + 1] > bounds[rank])
        shares[rank].push_back({bounds[rank], bounds[rank + 1] - bounds[rank]});
    return shares;
  }
  // Whether all parts are of whole panels: the kernels may round those of a part of one otherwise.
  static bool in_units(const Shares& shares, int64_t rows, int64_t unit) noexcept {
    for (const std::vector<RowRange>& ranges : shares)
      for (const RowRange& range : ranges) {
        const int64_t end = range.first + range.count;
        if (range.first % unit != 0 || (end % unit != 0 && end != rows)) return false;
      }
    return true;
  }
  Shares head_shares(int64_t rows, const HeadRows& heads) const {
    Shares shares;
    for (const HeadRange& range : share_heads(heads.layout.heads, heads.layout.kv_heads, weights_))
      shares.push_back(rows_of_heads(heads, rows, range));
    return shares;
  }

  std::unique_ptr<const DeviceMatrix> matrix(const PackSource& source, int threads, Shares shares,
                                             const HeadLayout& heads) const {
    std::vector<CpuMatrix> local;
    for (const RowRange& range : shares[rank_])
      local.emplace_back(PackedMatrix::pack(started(rows_of(source, range)), threads));
    return std::make_unique<const RankMatrix>(std::move(local), source.rows, source.cols, std::move(shares),
                                              ranks_->rank(), heads);
  }
  std::unique_ptr<const DeviceMatrix> matrix(const TensorView& weights, DenseMatrix::Storage storage,
                                             int threads, const Release& release, Shares shares,
                                             const HeadLayout& heads) const {
    const int64_t cols = weights.shape[1];
    const size_t row_bytes = static_cast<size_t>(cols) * dtype_bytes(weights.dtype);
    std::vector<CpuMatrix> local;
    for (const RowRange& range : shares[rank_]) {
      const std::span<const std::byte> bytes = weights.bytes.subspan(
          static_cast<size_t>(range.first) * row_bytes, static_cast<size_t>(range.count) * row_bytes);
      prefetch_mapped(bytes);
      local.emplace_back(DenseMatrix::pack({weights.dtype, {range.count, cols}, bytes, weights.owner},
                                           storage, threads, release));
    }
    return std::make_unique<const RankMatrix>(std::move(local), weights.shape[0], cols, std::move(shares),
                                              ranks_->rank(), heads);
  }

  const std::shared_ptr<Ranks> ranks_;
  std::vector<double> weights_;
  const size_t rank_;
};

}  // namespace

void expect_shares(std::span<const double> weights, int ranks) {
  if (weights.empty()) return;
  if (std::ssize(weights) != ranks)
    fail(ErrorCode::kInvalidArgument, "{} shares for {} ranks", weights.size(), ranks);
  double sum = 0;
  for (const double weight : weights) {
    if (!(weight >= 0))
      fail(ErrorCode::kInvalidArgument, "the share of a rank is {}, expected a number from 0 on", weight);
    sum += weight;
  }
  if (!(sum > 0 && std::isfinite(sum)))
    fail(ErrorCode::kInvalidArgument,
         "the shares of the ranks have the sum {}, expected a finite one above 0", sum);
}

std::shared_ptr<Device> ranks_device(std::shared_ptr<Ranks> ranks, std::vector<double> weights) {
  return std::make_shared<RanksDevice>(std::move(ranks), std::move(weights));
}

}  // namespace nfloat
