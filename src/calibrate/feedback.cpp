// SPDX-License-Identifier: Apache-2.0
#include "base/parallel.h"
#include "calibrate/block_work.h"
#include "calibrate/cancel.h"
#include "kernels/dispatch.h"

namespace nfloat {
namespace {

constexpr int64_t kFinalists = 8;  // of two blocks they fill the lanes
constexpr int64_t kMostCandidates = 256;
// Scales are looked for from this share of the largest magnitude to that one.
constexpr float kLeastShare = .55f, kMostShare = 1.15f, kUsualShare = .9f;

struct Candidate {
  float loss;
  uint8_t code;
  bool operator<(const Candidate& other) const noexcept {
    return loss < other.loss || (loss == other.loss && code < other.code);
  }
};

class Feedback {
 public:
  Feedback(std::span<const float> weights, const HessianFactor& factor, const Levels& levels,
           const StoredScales& scales, int finalists, Coding& coding)
      : kernels_(kernels::table()),
        weights_(weights),
        upper_(factor.upper),
        levels_(levels),
        scales_(scales),
        most_finalists_(std::clamp<int64_t>(finalists, 1, kFinalists)),
        coding_(coding),
        columns_(coding.columns),
        inverse_diagonal_(inverse_diagonal(factor.upper, columns_)) {}

  void run(const UnitBatch& batch, const Cancel& cancel) {
    batch_ = batch;
    const int64_t begin = batch.first_row * columns_;
    const int64_t count = std::min(batch.count * batch.unit_rows, coding_.rows - batch.first_row) * columns_;
    target_.assign(weights_.begin() + begin, weights_.begin() + begin + count);
    for (int64_t block = 0; block < batch.unit_blocks && !cancel.asked(); ++block) code(block);
  }

 private:
  // Of the first unit of the batch; those of the others lie `unit_stride` behind each other.
  float* target(const BlockPart& part) {
    return target_.data() + (part.row - batch_.first_row) * columns_ + part.begin;
  }
  int64_t unit_stride() const noexcept { return batch_.unit_rows * columns_; }

  // Block `index` of every unit.
  void code(int64_t index) {
    coding_.parts_of(batch_.first_block + index, parts_);
    size_ = 0;
    for (const BlockPart& part : parts_) size_ += part.end - part.begin;
    gather();
    find_candidates(index);
    cheap_losses();
    choose_finalists();
    judge(index);
    settle(index);
  }

  void gather() {
    values_.resize(static_cast<size_t>(batch_.count * size_));
    int64_t at = 0;
    for (const BlockPart& part : parts_) {
      const float* from = target(part);
      for (int64_t unit = 0; unit < batch_.count; ++unit)
        std::copy_n(from + unit * unit_stride(), part.end - part.begin, values_.data() + unit * size_ + at);
      at += part.end - part.begin;
    }
  }

  void find_candidates(int64_t index) {
    const auto cells = static_cast<size_t>(batch_.count * kMostCandidates);
    codes_.resize(cells);
    inverses_.assign(cells, 1.0f);
    losses_.assign(cells, 0.0f);
    counts_.resize(static_cast<size_t>(batch_.count));
    for (int64_t unit = 0; unit < batch_.count; ++unit) {
      const int64_t block = batch_.block(unit, index);
      float most = 0;
      for (int64_t i = 0; i < size_; ++i)
        most = std::max(most, std::fabs(values_[static_cast<size_t>(unit * size_ + i)]));
      int32_t& count = counts_[static_cast<size_t>(unit)];
      count = 0;
      const auto take = [&](int code) {
        const auto place = static_cast<size_t>(unit * kMostCandidates + count++);
        codes_[place] = static_cast<uint8_t>(code);
        inverses_[place] = 1 / scales_.at(block, code);
      };
      for (int code = scales_.first_above(block, kLeastShare * most); code < 256; ++code) {
        if (scales_.at(block, code) > kMostShare * most) break;
        take(code);
        if (code <= StoredScales::kMirror) take(StoredScales::kMirror - code);
      }
      if (count == 0) take(scales_.nearest(block, kUsualShare * most));
    }
  }

  void cheap_losses() {
    int64_t at = 0;
    for (const BlockPart& part : parts_) {
      const int64_t count = part.end - part.begin;
      kernels_.calibrate.scale_losses({.table = &levels_.table,
                                       .values = values_.data() + at,
                                       .weights = inverse_diagonal_.data() + part.begin,
                                       .inverses = inverses_.data(),
                                       .losses = losses_.data(),
                                       .counts = counts_.data(),
                                       .rows = batch_.count,
                                       .columns = count,
                                       .value_stride = size_,
                                       .candidate_stride = kMostCandidates});
      at += count;
    }
  }

  void choose_finalists() {
    finalists_.resize(static_cast<size_t>(batch_.count * kFinalists));
    for (int64_t unit = 0; unit < batch_.count; ++unit) {
      Candidate best[kFinalists];
      int64_t kept = 0;
      for (int64_t i = 0; i < counts_[static_cast<size_t>(unit)]; ++i) {
        const auto place = static_cast<size_t>(unit * kMostCandidates + i);
        const float inverse = inverses_[place];
        const Candidate candidate{losses_[place] / (inverse * inverse), codes_[place]};
        if (kept == most_finalists_ && !(candidate < best[kept - 1])) continue;
        int64_t to = kept < most_finalists_ ? kept++ : kept - 1;
        for (; to > 0 && candidate < best[to - 1]; --to) best[to] = best[to - 1];
        best[to] = candidate;
      }
      for (int64_t i = 0; i < kFinalists; ++i)
        finalists_[static_cast<size_t>(unit * kFinalists + i)] = best[std::min(i, kept - 1)].code;
    }
  }

  // All finalists with feedback inside the block; two units a set.
  void judge(int64_t index) {
    const int64_t sets = (batch_.count + 1) / 2, lanes = sets * kLanes;
    const auto unit_of = [&](int64_t lane) { return std::min(lane / kFinalists, batch_.count - 1); };
    lane_scales_.resize(static_cast<size_t>(lanes));
    lane_inverses_.resize(lane_scales_.size());
    lane_losses_.assign(lane_scales_.size(), 0.0f);
    for (int64_t lane = 0; lane < lanes; ++lane) {
      const int64_t unit = unit_of(lane);
      const float scale = scales_.at(batch_.block(unit, index),
                                     finalists_[static_cast<size_t>(unit * kFinalists + lane % kFinalists)]);
      lane_scales_[static_cast<size_t>(lane)] = scale;
      lane_inverses_[static_cast<size_t>(lane)] = 1 / scale;
    }
    work_.resize(static_cast<size_t>(lanes * size_));
    ranks_.resize(work_.size());
    int64_t at = 0;
    for (const BlockPart& part : parts_) {
      const int64_t count = part.end - part.begin;
      float* to = work_.data() + at * lanes;
      for (int64_t set = 0; set < sets; ++set) {
        const float* low = values_.data() + unit_of(set * kLanes) * size_ + at;
        const float* high = values_.data() + unit_of(set * kLanes + kFinalists) * size_ + at;
        for (int64_t j = 0; j < count; ++j, to += kLanes) {
          std::fill_n(to, kFinalists, low[j]);
          std::fill_n(to + kFinalists, kFinalists, high[j]);
        }
      }
      kernels_.calibrate.feed_columns({.table = &levels_.table,
                                       .work = work_.data() + at * lanes,
                                       .ranks = ranks_.data() + at * lanes,
                                       .scales = lane_scales_.data(),
                                       .inverses = lane_inverses_.data(),
                                       .matrix = upper_.data() + part.begin * columns_ + part.begin,
                                       .stride = columns_,
                                       .inverse_diagonal = inverse_diagonal_.data() + part.begin,
                                       .columns = count,
                                       .sets = sets},
                                      lane_losses_.data());
      at += count;
    }
  }

  // The best finalist of each unit is its coding; its errors go on to all columns behind.
  void settle(int64_t index) {
    const int64_t lanes = (batch_.count + 1) / 2 * kLanes;
    best_.resize(static_cast<size_t>(batch_.count));
    for (int64_t unit = 0; unit < batch_.count; ++unit) {
      const float* loss = lane_losses_.data() + unit * kFinalists;
      const int64_t best = std::min_element(loss, loss + kFinalists) - loss;
      best_[static_cast<size_t>(unit)] = best;
      coding_.scale_codes[static_cast<size_t>(batch_.block(unit, index))] =
          finalists_[static_cast<size_t>(unit * kFinalists + best)];
    }
    int64_t at = 0;
    for (const BlockPart& part : parts_) {
      const int64_t count = part.end - part.begin;
      errors_.resize(static_cast<size_t>(batch_.count * count));
      for (int64_t unit = 0; unit < batch_.count; ++unit) {
        const int64_t lane = unit % 2 * kFinalists + best_[static_cast<size_t>(unit)];
        const int64_t from = at * lanes + unit / 2 * kLanes * count + lane;
        uint8_t* places =
            coding_.places.data() + (part.row + unit * batch_.unit_rows) * columns_ + part.begin;
        for (int64_t j = 0; j < count; ++j) {
          places[j] = static_cast<uint8_t>(ranks_[static_cast<size_t>(from + j * kLanes)] & 15);
          errors_[static_cast<size_t>(unit * count + j)] = work_[static_cast<size_t>(from + j * kLanes)];
        }
      }
      if (part.end < columns_)
        kernels_.train.product({.a = errors_.data(),
                                .a_row = count,
                                .a_column = 1,
                                .b = upper_.data() + part.begin * columns_ + part.end,
                                .b_stride = columns_,
                                .c = target(part) + count,
                                .c_stride = unit_stride(),
                                .m = batch_.count,
                                .n = columns_ - part.end,
                                .k = count,
                                .accumulate = true});
      at += count;
    }
  }

  const kernels::KernelTable& kernels_;
  const std::span<const float> weights_;
  const SquareMatrix& upper_;
  const Levels& levels_;
  const StoredScales& scales_;
  const int64_t most_finalists_;
  Coding& coding_;
  const int64_t columns_;
  const std::vector<float> inverse_diagonal_;
  UnitBatch batch_;
  int64_t size_ = 0;                      // of a block
  std::vector<float> target_;             // of the units, less what was fed on
  std::vector<float> values_;             // [units][size]
  std::vector<float> inverses_, losses_;  // [units][kMostCandidates]
  std::vector<uint8_t> codes_;            // likewise
  std::vector<int32_t> counts_;
  std::vector<uint8_t> finalists_;  // [units][kFinalists]
  std::vector<float> lane_scales_, lane_inverses_, lane_losses_, work_, errors_;
  std::vector<int32_t> ranks_;
  std::vector<int64_t> best_;
  std::vector<BlockPart> parts_;
};

}  // namespace

void feed_back(std::span<const float> weights, const HessianFactor& factor, const Levels& levels,
               const StoredScales& scales, int finalists, int threads, Coding& coding) {
  const Cancel cancel;
  parallel_for(coding.units(), 1, threads, [&](int64_t begin, int64_t end) {
    Feedback feedback(weights, factor, levels, scales, finalists, coding);
    for (const UnitBatch& batch : batches_of(coding, begin, end)) feedback.run(batch, cancel);
  });
  cancel.expect_none();
}

}  // namespace nfloat
