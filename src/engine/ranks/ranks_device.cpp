// SPDX-License-Identifier: Apache-2.0
#include "engine/ranks/ranks_device.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <utility>

#include "base/fail.h"
#include "engine/cpu/cpu_engine.h"
#include "engine/cpu/cpu_matrix.h"
#include "kernels/gemm.h"
#include "linear/state.h"

namespace nfloat {
namespace {

// Rows [bounds[rank], bounds[rank + 1]) of a matrix.
class RankMatrix final : public DeviceMatrix {
 public:
  RankMatrix(CpuMatrix local, int64_t cols, std::vector<int64_t> bounds, int rank) noexcept
      : local_(std::move(local)), cols_(cols), bounds_(std::move(bounds)), rank_(static_cast<size_t>(rank)) {}

  int64_t rows() const noexcept override { return bounds_.back(); }
  int64_t cols() const noexcept override { return cols_; }
  uint64_t bytes() const noexcept override { return local_.bytes(); }

  const CpuMatrix& local() const noexcept { return local_; }
  int64_t first() const noexcept { return bounds_[rank_]; }
  int64_t own() const noexcept { return rows_of(rank_); }
  int64_t first_of(size_t rank) const noexcept { return bounds_[rank]; }
  int64_t rows_of(size_t rank) const noexcept { return bounds_[rank + 1] - bounds_[rank]; }
  bool same_shares(const RankMatrix& other) const noexcept { return bounds_ == other.bounds_; }

 private:
  const CpuMatrix local_;
  const int64_t cols_;
  const std::vector<int64_t> bounds_;
  const size_t rank_;
};

// Rows after which a row of the matrix begins a panel of the kernels, a block and a byte of codes.
int64_t row_unit(const PackSource& source) noexcept {
  const int64_t block = std::lcm(source.block_size, int64_t{2});
  const int64_t rows = block / std::gcd(block, std::max<int64_t>(1, source.cols));
  return std::lcm(rows, kernels::kPanelRows);
}

PackSource rows_of(const PackSource& source, int64_t begin, int64_t end) {
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

// A product is computed when it is called and gathered by the step that follows: where that is the activation
// each rank activates its own rows first, so that half as many numbers of a gated layer travel.
class RanksEngine final : public CpuEngine {
 public:
  explicit RanksEngine(std::shared_ptr<Ranks> ranks)
      : ranks_(std::move(ranks)),
        rank_(static_cast<size_t>(ranks_->rank())),
        sizes_(static_cast<size_t>(ranks_->count())) {}

  void at_layer(int64_t layer) noexcept override { ranks_->at("layer", layer); }

  // A pass that failed in between leaves nothing to be gathered.
  void drop(BufferId buffer) noexcept override {
    open_.y = nullptr;
    CpuEngine::drop(buffer);
  }
  float* host(const BufferRows& rows, int64_t count, int64_t width) override {
    gather();
    return CpuEngine::host(rows, count, width);
  }
  float* read(const BufferRows& rows, int64_t count, int64_t width) override {
    gather();
    return CpuEngine::read(rows, count, width);
  }
  bool finite(const BufferRows& rows, int64_t count, int64_t width) override {
    gather();
    return CpuEngine::finite(rows, count, width);
  }
  void copy(const BufferRows& from, const BufferRows& to, int64_t rows, int64_t width) override {
    gather();
    CpuEngine::copy(from, to, rows, width);
  }
  void embed(const EmbeddingStep& step, const BufferRows& x) override {
    gather();
    CpuEngine::embed(step, x);
  }
  void norm(const NormStep& step, const BufferRows& from, const BufferRows& to, int64_t rows) override {
    gather();
    CpuEngine::norm(step, from, to, rows);
  }
  void multiply(const LinearGroup& weights, const BufferRows& x, const BufferRows& y, int64_t rows,
                Precision precision) override {
    gather();
    mixing_ = false;  // where a mixture failed
    CpuEngine::multiply(weights, x, y, rows, precision);
  }
  void attend(const AttentionStep& step, const BufferRows& projected, const BufferRows& attended) override {
    gather();
    CpuEngine::attend(step, projected, attended);
  }
  void activate(const ActivationStep& step, const BufferRows& gate_up, int64_t rows) override {
    if (open_.y == at(gate_up) && open_.rows == rows && activates_alone(step)) return activate_own(step);
    gather();
    CpuEngine::activate(step, gate_up, rows);
  }
  void mix(const MixtureStep& step, const BufferRows& normed, const BufferRows& added,
           int64_t rows) override {
    gather();
    mixing_ = true;
    CpuEngine::mix(step, normed, added, rows);
    mixing_ = false;
  }
  void add(const NormStep& before, float scale, const NormStep& after, const BufferRows& added,
           const BufferRows& x, int64_t rows, int64_t width) override {
    gather();
    CpuEngine::add(before, scale, after, added, x, rows, width);
  }
  void finish(float scale, float softcap, const BufferRows& x, int64_t rows, int64_t width) override {
    gather();
    CpuEngine::finish(scale, softcap, x, rows, width);
  }

 private:
  // A product of which every rank has its own rows only: own_ [rows][widths_[rank_]].
  struct Open {
    float* y = nullptr;  // null: there is none
    int64_t y_stride = 0;
    int64_t rows = 0;
    std::vector<const RankMatrix*> parts;
  };

  void product(const LinearGroup& group, const Activations& x, float* y, int64_t y_stride, int64_t rows,
               Precision precision) override {
    open_.parts.clear();
    for (size_t part = 0; part < group.parts(); ++part)
      open_.parts.push_back(&static_cast<const RankMatrix&>(group.matrix(part)));
    count_widths(open_.parts);
    const int64_t width = widths_[rank_];
    float* const own = grown(own_, rows * width);
    int64_t place = 0;
    for (size_t part = 0; part < group.parts(); ++part) {
      const RankMatrix& weights = *open_.parts[part];
      if (weights.own() == 0) continue;
      const Constant& bias = group.bias(part);
      weights.local().multiply(x, own + place,
                               {.precision = precision,
                                .threads = threads(),
                                .bias = bias.empty() ? nullptr : bias.data() + weights.first(),
                                .y_stride = width});
      place += weights.own();
    }
    open_.y = y;
    open_.y_stride = y_stride;
    open_.rows = rows;
    if (mixing_) gather();  // its own steps follow
  }

  // Numbers of a row that each rank has of these matrices together.
  void count_widths(std::span<const RankMatrix* const> parts) {
    widths_.assign(sizes_.size(), 0);
    for (const RankMatrix* part : parts)
      for (size_t rank = 0; rank < sizes_.size(); ++rank) widths_[rank] += part->rows_of(rank);
  }

  void gather() {
    if (open_.y != nullptr) gather(open_.parts);
  }

  // Puts what all ranks have of these parts side by side into y.
  void gather(std::span<const RankMatrix* const> parts) {
    const int64_t rows = open_.rows;
    float* const y = std::exchange(open_.y, nullptr);
    const int64_t all = std::accumulate(widths_.begin(), widths_.end(), int64_t{0});
    for (size_t rank = 0; rank < sizes_.size(); ++rank)
      sizes_[rank] = static_cast<size_t>(rows * widths_[rank]) * sizeof(float);
    const bool in_place = rows == 1 && parts.size() == 1;
    float* const gathered = in_place ? y : grown(gathered_, rows * all);
    ranks_->gather(own_.data(), sizes_, gathered);
    if (in_place) return;
    const float* from = gathered;
    for (size_t rank = 0; rank < sizes_.size(); ++rank)
      for (int64_t row = 0; row < rows; ++row) {
        float* to = y + row * open_.y_stride;
        for (const RankMatrix* part : parts) {
          const auto count = part->rows_of(rank);
          std::memcpy(to + part->first_of(rank), from, static_cast<size_t>(count) * sizeof(float));
          from += count;
          to += part->rows();
        }
      }
  }

  // Whether the activation of a number needs none of another rank.
  bool activates_alone(const ActivationStep& step) const noexcept {
    if (step.limit > 0 || open_.parts.size() != (step.gated ? 2u : 1u)) return false;
    for (const RankMatrix* part : open_.parts)
      if (part->rows() != step.width || !part->same_shares(*open_.parts[0])) return false;
    return true;
  }

  void activate_own(const ActivationStep& step) {
    const int64_t width = widths_[rank_], left = open_.parts[0]->own();
    ActivationStep own_step = step;
    own_step.width = left;
    auto* const own = reinterpret_cast<float*>(own_.data());
    if (left > 0) CpuEngine::activate(own_step, own, width, open_.rows);
    if (width != left)
      for (int64_t row = 1; row < open_.rows; ++row)
        std::memmove(own + row * left, own + row * width, static_cast<size_t>(left) * sizeof(float));
    const std::span<const RankMatrix* const> first(open_.parts.data(), 1);
    count_widths(first);
    gather(first);
  }

  const std::shared_ptr<Ranks> ranks_;
  const size_t rank_;
  std::vector<size_t> sizes_;    // of each rank's part of an exchange, in bytes
  std::vector<int64_t> widths_;  // of the product that is open
  Open open_;
  bool mixing_ = false;
  Buffer own_, gathered_;
};

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
    std::vector<int64_t> bounds = share_rows(source.rows, row_unit(source), weights_);
    CpuMatrix local(PackedMatrix::pack(rows_of(source, bounds[rank_], bounds[rank_ + 1]), threads));
    return std::make_unique<const RankMatrix>(std::move(local), source.cols, std::move(bounds),
                                              ranks_->rank());
  }

  std::unique_ptr<const DeviceMatrix> matrix(const TensorView& weights, DenseMatrix::Storage storage,
                                             int threads, const Release& release) override {
    expect_matrix(weights);
    std::vector<int64_t> bounds = share_rows(weights.shape[0], kernels::kPanelRows, weights_);
    const int64_t begin = bounds[rank_], count = bounds[rank_ + 1] - begin, cols = weights.shape[1];
    const auto row_bytes = static_cast<size_t>(cols) * dtype_bytes(weights.dtype);
    const TensorView part{
        weights.dtype,
        {count, cols},
        weights.bytes.subspan(static_cast<size_t>(begin) * row_bytes, static_cast<size_t>(count) * row_bytes),
        weights.owner};
    CpuMatrix local(DenseMatrix::pack(part, storage, threads, release));
    return std::make_unique<const RankMatrix>(std::move(local), cols, std::move(bounds), ranks_->rank());
  }

  void place(Constant& constant) override { cpu_device()->place(constant); }
  int64_t page_bytes(const CacheShape& shape) const noexcept override {
    return cpu_device()->page_bytes(shape);
  }
  std::shared_ptr<std::byte> page(size_t bytes) override { return cpu_device()->page(bytes); }
  void copy_page(std::byte* to, const std::byte* from, size_t bytes) override {
    cpu_device()->copy_page(to, from, bytes);
  }
  std::unique_ptr<LayerEngine> engine() override { return std::make_unique<RanksEngine>(ranks_); }

 private:
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
