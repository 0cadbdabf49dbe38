// SPDX-License-Identifier: Apache-2.0
#include "engine/ranks/ranks_engine.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <utility>

#include "base/fail.h"
#include "engine/cpu/cpu_engine.h"
#include "engine/ranks/best_numbers.h"
#include "engine/ranks/head_shares.h"
#include "engine/ranks/rank_matrix.h"

namespace nfloat {
namespace {

// A product is computed when it is called and gathered by the step that follows: where that is the activation
// each rank activates its own rows first, so that half as many numbers of a gated layer travel; where it is
// the attention, queries, keys and values of own heads are used where they are, and what is attended travels.
class RanksEngine final : public CpuEngine {
 public:
  RanksEngine(std::shared_ptr<Ranks> ranks, std::vector<double> weights)
      : ranks_(std::move(ranks)),
        weights_(std::move(weights)),
        rank_(static_cast<size_t>(ranks_->rank())),
        sizes_(static_cast<size_t>(ranks_->count())) {}

  // Nothing asks for it: training over ranks has whole models.
  void multiply_transposed(const LinearGroup&, const BufferRows&, const BufferRows&, int64_t,
                           Precision) override {
    fail(ErrorCode::kUnsupported, "gradients through matrices of which each rank has some rows");
  }
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
    if (open_.best > 0 && open_.y == at(rows))
      gather_best();
    else
      gather();
    return CpuEngine::read(rows, count, width);
  }
  bool finite(const BufferRows& rows, int64_t count, int64_t width) override {
    const int64_t look = looks_++;
    if (broken_ >= 0) return true;  // first_broken() says it
    if (by_heads(rows) || (open_.best > 0 && open_.y == at(rows))) {
      // The others learn of it with what is attended, or with the best.
      pending_ = look;
      pending_finite_ = finite_own();
      return true;
    }
    gather();
    return CpuEngine::finite(rows, count, width);
  }
  int64_t first_broken() override {
    const int64_t broken = broken_;
    forget_looks();
    return broken;
  }
  void forget_looks() noexcept override {
    looks_ = 0;
    broken_ = pending_ = -1;
    pending_finite_ = true;
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
    if (norm_own(step, from, to)) return;
    gather();
    CpuEngine::norm(step, from, to, rows);
  }
  void multiply(const LinearGroup& weights, const BufferRows& x, const BufferRows& y, int64_t rows,
                Precision precision) override {
    gather();
    mixing_ = false;  // where a mixture failed
    CpuEngine::multiply(weights, x, y, rows, precision);
    open_.best = std::exchange(best_, 0);
  }
  void expect_best(int64_t best) noexcept override { best_ = best; }
  void attend(const AttentionStep& step, const BufferRows& projected, const BufferRows& attended) override {
    attend_own(step, projected, attended);
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
    if (open_.best > 0 && open_.y == at(x)) {
      CpuEngine::finish(scale, softcap, reinterpret_cast<float*>(own_.data()), rows * widths_[rank_]);
      return;
    }
    gather();
    CpuEngine::finish(scale, softcap, x, rows, width);
  }

 private:
  // A product of which every rank has its own rows only: own_ [rows][widths_[rank_]].
  struct Open {
    float* y = nullptr;  // null: there is none
    int64_t y_stride = 0;
    int64_t rows = 0;
    int64_t best = 0;  // of one matrix, so many of a row's largest numbers are wanted; 0: all
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
      const Constant& bias = group.bias(part);
      for (size_t i = 0; i < weights.ranges().size(); ++i) {
        const RowRange& range = weights.ranges()[i];
        weights.local()[i].multiply(x, own + place,
                                    {.precision = precision,
                                     .threads = threads(),
                                     .bias = bias.empty() ? nullptr : bias.data() + range.first,
                                     .y_stride = width});
        place += range.count;
      }
    }
    open_.y = y;
    open_.y_stride = y_stride;
    open_.rows = rows;
    open_.best = 0;
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
    const bool in_place = rows == 1 && parts.size() == 1 && !parts[0]->by_heads();
    float* const gathered = in_place ? y : grown(gathered_, rows * all);
    ranks_->gather(own_.data(), sizes_, gathered);
    if (in_place) return;
    const float* from = gathered;
    for (size_t rank = 0; rank < sizes_.size(); ++rank)
      for (int64_t row = 0; row < rows; ++row) {
        float* to = y + row * open_.y_stride;
        for (const RankMatrix* part : parts) {
          for (const RowRange& range : part->ranges_of(rank)) {
            std::memcpy(to + range.first, from, static_cast<size_t>(range.count) * sizeof(float));
            from += range.count;
          }
          to += part->rows();
        }
      }
  }

  // Of each row the best that a rank has, and with them whether it has found numbers that are not finite,
  // where that was asked.
  void gather_best() {
    const RankMatrix& matrix = *open_.parts[0];
    const int64_t rows = open_.rows, width = widths_[rank_], asked = pending_ >= 0 ? 1 : 0;
    float* const y = std::exchange(open_.y, nullptr);
    const auto count_of = [&](size_t rank) {
      return static_cast<size_t>(rows * std::min(open_.best, widths_[rank]) + asked);
    };
    const auto* own = reinterpret_cast<const float*>(own_.data());
    best_of_rows_.clear();
    for (int64_t row = 0; row < rows; ++row, own += width)
      best_numbers({own, static_cast<size_t>(width)}, open_.best, best_of_rows_);
    for (size_t i = 0; i < best_of_rows_.size(); ++i) {
      int32_t& place = best_of_rows_[i].place;
      if (place >= 0) place += static_cast<int32_t>(matrix.ranges()[0].first);
    }
    if (asked != 0) best_of_rows_.push_back({0, pending_finite_ ? 0 : 1});
    size_t all = 0;
    for (size_t rank = 0; rank < sizes_.size(); ++rank) {
      sizes_[rank] = count_of(rank) * sizeof(BestNumber);
      all += count_of(rank);
    }
    all_best_.resize(all);
    ranks_->gather(best_of_rows_.data(), sizes_, all_best_.data());
    for (int64_t row = 0; row < rows; ++row)
      std::fill_n(y + row * open_.y_stride, matrix.rows(), std::numeric_limits<float>::quiet_NaN());
    const BestNumber* from = all_best_.data();
    for (size_t rank = 0; rank < sizes_.size(); ++rank) {
      for (int64_t row = 0; row < rows; ++row)
        for (int64_t i = 0; i < std::min(open_.best, widths_[rank]); ++i, ++from)
          if (from->place >= 0) y[row * open_.y_stride + from->place] = from->value;
      if (asked != 0 && (from++)->place != 0) broken_ = pending_;
    }
    pending_ = -1;
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

  // Whether these are rows of an open product of which each rank has its heads.
  bool by_heads(const BufferRows& rows) {
    return open_.y != nullptr && !open_.parts.empty() && open_.y == at(rows) &&
           std::all_of(open_.parts.begin(), open_.parts.end(),
                       [](const RankMatrix* part) { return part->by_heads(); });
  }

  const HeadRange& range_of(const HeadLayout& layout, size_t rank) {
    if (!(layout == layout_)) {
      ranges_ = share_heads(layout.heads, layout.kv_heads, weights_);
      layout_ = layout;
    }
    return ranges_[rank];
  }
  // Of rows that hold own heads alone.
  HeadLayout own_layout(const HeadLayout& layout) {
    const HeadRange& own = range_of(layout, rank_);
    return {own.heads, own.kv_heads, layout.head_dim, layout.interleaved};
  }

  bool finite_own() {
    const auto* const own = reinterpret_cast<const float*>(own_.data());
    const int64_t count = open_.rows * widths_[rank_];
    for (int64_t i = 0; i < count; ++i)
      if (!std::isfinite(own[i])) return false;
    return true;
  }

  // Norms of each head by itself, of an open product.
  bool norm_own(const NormStep& step, const BufferRows& from, const BufferRows& to) {
    if (at(from) != at(to)) return false;
    const BufferRows queries{from.buffer, 0, from.stride};
    if (!by_heads(queries)) return false;
    const HeadLayout& layout = open_.parts[0]->heads();
    const HeadLayout own = own_layout(layout);
    const bool key = from.offset == layout.key_at() && step.parts == layout.kv_heads;
    const bool query = from.offset == 0 && step.parts == layout.heads;
    if (step.width != layout.head_dim || key == query) return false;
    NormStep own_step = step;
    own_step.parts = key ? own.kv_heads : own.heads;
    auto* const rows = reinterpret_cast<float*>(own_.data());
    if (own_step.parts > 0)
      CpuEngine::norm(own_step, rows + (key ? own.key_at() : 0), widths_[rank_], open_.rows);
    return true;
  }

  // Each rank stores and attends for its heads; what is attended is gathered, and with it whether one has
  // found numbers that are not finite, where that was asked.
  void attend_own(const AttentionStep& step, const BufferRows& projected, const BufferRows& attended) {
    const HeadLayout& layout = step.heads;
    const bool compact = by_heads(projected);
    if (!compact) gather();
    open_.y = nullptr;
    const HeadLayout own = own_layout(layout);
    const HeadRange& range = range_of(layout, rank_);
    const int64_t rows = step.sequences.back().row + step.sequences.back().rows;
    const int64_t width = own.query_size(), asked = pending_ >= 0 ? 1 : 0;
    float* const output = grown(attended_, rows * width + asked);
    Heads heads{.range = range, .attended = output, .attended_stride = width};
    if (range.heads == 0) {
      // Others attend.
    } else if (compact) {
      heads.queries = reinterpret_cast<float*>(own_.data());
      heads.keys = heads.queries + own.key_at();
      heads.stride = widths_[rank_];
      heads.value_after_key = own.value_after_key();
    } else {
      heads.queries = at(projected) + range.first * layout.query_stride();
      heads.keys = at(projected) + layout.key_at() + range.first_kv * layout.key_stride();
      heads.stride = projected.stride;
      heads.value_after_key = layout.value_after_key();
    }
    if (range.heads > 0) CpuEngine::attend(step, heads);
    if (asked != 0) output[rows * width] = pending_finite_ ? 0.0f : 1.0f;

    for (size_t rank = 0; rank < sizes_.size(); ++rank)
      sizes_[rank] =
          static_cast<size_t>(rows * range_of(layout, rank).heads * layout.head_dim + asked) * sizeof(float);
    if (rows == 1 && asked == 0) return ranks_->gather(output, sizes_, at(attended));
    const int64_t all = rows * layout.query_size() + asked * ranks_->count();
    const float* from = grown(gathered_, all);
    ranks_->gather(output, sizes_, gathered_.data());
    for (size_t rank = 0; rank < sizes_.size(); ++rank) {
      const HeadRange& other = range_of(layout, rank);
      const int64_t count = other.heads * layout.head_dim;
      for (int64_t row = 0; row < rows; ++row, from += count)
        std::memcpy(at(attended) + row * attended.stride + other.first * layout.head_dim, from,
                    static_cast<size_t>(count) * sizeof(float));
      if (asked != 0 && *from++ != 0) broken_ = pending_;
    }
    pending_ = -1;
  }

  const std::shared_ptr<Ranks> ranks_;
  const std::vector<double> weights_;
  const size_t rank_;
  HeadLayout layout_;              // of ranges_
  std::vector<HeadRange> ranges_;  // heads of each rank
  int64_t looks_ = 0;              // calls of finite() since they were asked for
  int64_t broken_ = -1;            // which of them should have been false, once all ranks know; -1: none
  int64_t pending_ = -1;           // one of which each rank knows its own part; -1: none
  bool pending_finite_ = true;
  std::vector<size_t> sizes_;    // of each rank's part of an exchange, in bytes
  std::vector<int64_t> widths_;  // of the product that is open
  Open open_;
  bool mixing_ = false;
  int64_t best_ = 0;  // of the next product
  std::vector<BestNumber> best_of_rows_, all_best_;
  Buffer own_, gathered_, attended_;
};

}  // namespace

std::unique_ptr<LayerEngine> ranks_engine(std::shared_ptr<Ranks> ranks, std::vector<double> weights) {
  return std::make_unique<RanksEngine>(std::move(ranks), std::move(weights));
}

}  // namespace nfloat
