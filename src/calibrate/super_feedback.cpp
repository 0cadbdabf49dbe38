// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <limits>

#include "base/fail.h"
#include "base/float16.h"
#include "base/parallel.h"
#include "calibrate/block_work.h"
#include "calibrate/cancel.h"
#include "calibrate/super_lanes.h"
#include "gguf/tables.h"
#include "kernels/dispatch.h"

namespace nfloat {
namespace {

constexpr int64_t kJudged = 8;       // candidates of a block with feedback: of two rows they fill the lanes
constexpr int64_t kMostTried = 256;  // candidates of a block without
constexpr int kScalesTried = 14, kMinimaTried = 9;
constexpr int64_t kBatchRows = 64;  // rows that share what is read of the factor

class SuperFeedback {
 public:
  SuperFeedback(std::span<const float> weights, const HessianFactor& factor, const SuperFormat& format,
                int finalists, SuperCoding& coding)
      : kernels_(kernels::table()),
        weights_(weights),
        upper_(factor.upper),
        format_(format),
        most_judged_(std::clamp<int64_t>(finalists, 1, kJudged)),
        coding_(coding),
        columns_(coding.columns),
        inverse_diagonal_(inverse_diagonal(factor.upper, columns_)) {
    for (const float d : inverse_diagonal_) importance_.push_back(d * d);
  }

  void run(int64_t first, int64_t count, const Cancel& cancel) {
    first_ = first;
    rows_ = count;
    target_.assign(weights_.begin() + first * columns_, weights_.begin() + (first + count) * columns_);
    for (int64_t super = 0; super < coding_.row_blocks() && !cancel.asked(); ++super) {
      for (int64_t row = 0; row < rows_; ++row)
        search_super_block(format_.type, target_.data() + row * columns_ + super * kSuperBlock,
                           importance_.data() + super * kSuperBlock, coding_.at(first_ + row, super));
      for (int64_t block = 0; block < format_.blocks(); ++block) code(super, block);
    }
  }

 private:
  struct Candidate {
    float loss;
    int64_t place;  // the order among equals
    bool operator<(const Candidate& other) const noexcept {
      return loss < other.loss || (loss == other.loss && place < other.place);
    }
  };

  const float* values(int64_t row) const noexcept { return target_.data() + row * columns_ + begin_; }

  void code(int64_t super, int64_t block) {
    super_ = super;
    block_ = block;
    begin_ = super * kSuperBlock + block * format_.block;
    find_candidates();
    choose_finalists();
    judge();
    settle();
  }

  void find_candidates() {
    const auto cells = static_cast<size_t>(rows_ * kMostTried);
    tried_.resize(cells);
    inverses_.assign(cells, 0.0f);
    minima_.assign(cells, 0.0f);
    losses_.assign(cells, 0.0f);
    counts_.resize(static_cast<size_t>(rows_));
    for (int64_t row = 0; row < rows_; ++row) {
      const SuperBlock& super = coding_.at(first_ + row, super_);
      int64_t count = 0;
      const auto take = [&](int scale, int minimum) {
        if (scale < format_.least || scale > format_.most || count == kMostTried) return;
        const SuperScale multiples{scale, std::clamp(minimum, 0, SuperFormat::kMostMinimum)};
        const BlockValues block(format_, super, multiples);
        const auto place = static_cast<size_t>(row * kMostTried + count++);
        tried_[place] = multiples;
        inverses_[place] = block.inverse();
        minima_[place] = block.minimum;
      };
      const auto [low, high] = std::minmax_element(values(row), values(row) + format_.block);
      format_.minima ? pairs(super, std::min(*low, 0.0f), *high, take) : scales(super, *low, *high, take);
      take(super.scales[block_], format_.minima ? super.minima[block_] : 0);
      counts_[static_cast<size_t>(row)] = static_cast<int32_t>(count);
    }
    kernels_.calibrate.scale_losses({.table = &format_.table,
                                     .steps = format_.steps,
                                     .values = values(0),
                                     .weights = inverse_diagonal_.data() + begin_,
                                     .inverses = inverses_.data(),
                                     .minima = minima_.data(),
                                     .losses = losses_.data(),
                                     .counts = counts_.data(),
                                     .rows = rows_,
                                     .columns = format_.block,
                                     .value_stride = columns_,
                                     .candidate_stride = kMostTried});
  }

  // Multiples of the scale over a range, and for each the minima that share out what does not fit.
  template <typename Take>
  void pairs(const SuperBlock& super, float low, float high, const Take& take) const {
    const float scale = f16_to_float(super.scale), minimum = f16_to_float(super.minimum);
    const auto steps = static_cast<float>(format_.steps);
    const float span = (high - low) / steps;
    if (!(span > 0) || !(scale > 0)) return;
    const int first = std::max(1, static_cast<int>(multiple(format_.least_share * span, scale)));
    const int last = static_cast<int>(multiple(format_.most_share * span, scale)) + 1;
    const int stride = (last - first) / kScalesTried + 1;
    for (int s = first; s <= last; s += stride) {
      if (!(minimum > 0)) {
        take(s, 0);
        continue;
      }
      // The levels reach from -m to s * steps - m; low and high overhang alike at `middle`.
      const float reach = scale * static_cast<float>(s) * steps;
      const float middle = multiple((reach - low - high) / 2, minimum);
      const float slack = std::fabs(reach - (high - low)) / (2 * minimum);
      const float step = std::max(1.0f, 2 * slack / (kMinimaTried - 1));
      int before = -1;
      for (int i = -(kMinimaTried / 2); i <= kMinimaTried / 2; ++i) {
        const float offset = static_cast<float>(i) * step;
        if (std::fabs(offset) > slack + 1) continue;
        const int m = static_cast<int>(std::clamp(middle + offset + .5f, 0.0f, 63.0f));
        if (m == before) continue;
        take(s, before = m);
      }
    }
  }

  template <typename Take>
  void scales(const SuperBlock& super, float low, float high, const Take& take) const {
    const float factor = std::fabs(f16_to_float(super.scale));
    const float reach = std::max(std::fabs(low), std::fabs(high)) /
                        std::max(std::fabs(format_.level(0) - format_.offset),
                                 std::fabs(format_.level(format_.highest_code()) - format_.offset));
    if (!(reach > 0) || !(factor > 0)) return;
    const int first = std::max(1, static_cast<int>(multiple(format_.least_share * reach, factor)));
    const int last = static_cast<int>(multiple(format_.most_share * reach, factor)) + 1;
    const int stride = (last - first) / static_cast<int>(kMostTried / 4) + 1;
    for (int s = first; s <= last; s += stride) {
      take(s, 0);
      take(-s, 0);
    }
  }

  // How often `unit` goes into a number, in bounds that an int has.
  static float multiple(float value, float unit) noexcept {
    return std::clamp(value / unit, -256.0f, 256.0f);
  }

  void choose_finalists() {
    finalists_.resize(static_cast<size_t>(rows_ * kJudged));
    for (int64_t row = 0; row < rows_; ++row) {
      const int64_t count = counts_[static_cast<size_t>(row)];
      ranked_.clear();
      for (int64_t i = 0; i < count; ++i) {
        const auto place = static_cast<size_t>(row * kMostTried + i);
        ranked_.push_back({inverses_[place] != 0 ? losses_[place] / (inverses_[place] * inverses_[place])
                                                 : std::numeric_limits<float>::max(),
                           row * kMostTried + i});
      }
      const int64_t kept = std::min(count, most_judged_);
      std::partial_sort(ranked_.begin(), ranked_.begin() + kept, ranked_.end());
      for (int64_t i = 0; i < kJudged; ++i)
        finalists_[static_cast<size_t>(row * kJudged + i)] =
            ranked_[static_cast<size_t>(std::min(i, kept - 1))].place;
    }
  }

  int64_t row_of(int64_t lane) const noexcept { return std::min(lane / kJudged, rows_ - 1); }

  // With feedback inside the block; two rows a set.
  void judge() {
    lanes_.begin((rows_ + 1) / 2, format_.block);
    for (int64_t lane = 0; lane < lanes_.count(); ++lane) {
      const int64_t row = row_of(lane);
      const auto place = static_cast<size_t>(finalists_[static_cast<size_t>(row * kJudged + lane % kJudged)]);
      const BlockValues block(format_, coding_.at(first_ + row, super_), tried_[place]);
      lanes_.set(lane, block);
      float* to = lanes_.work.data() + lanes_.at(lane, 0);
      for (int64_t j = 0; j < format_.block; ++j) to[j * kLanes] = values(row)[j] + block.minimum;
    }
    kernels_.calibrate.feed_columns(lanes_.args(format_, upper_.data() + begin_ * columns_ + begin_, columns_,
                                                inverse_diagonal_.data() + begin_),
                                    lanes_.losses.data());
  }

  // The best finalist of each row is its coding; its errors go on to all columns behind.
  void settle() {
    const int64_t n = format_.block;
    errors_.resize(static_cast<size_t>(rows_ * n));
    for (int64_t row = 0; row < rows_; ++row) {
      const float* losses = lanes_.losses.data() + row * kJudged;
      const int64_t best = std::min_element(losses, losses + kJudged) - losses;
      const auto place = static_cast<size_t>(finalists_[static_cast<size_t>(row * kJudged + best)]);
      SuperBlock& super = coding_.at(first_ + row, super_);
      super.scales[block_] = static_cast<int8_t>(tried_[place].scale);
      if (format_.minima) super.minima[block_] = static_cast<uint8_t>(tried_[place].minimum);
      const int64_t lane = row * kJudged + best;
      for (int64_t j = 0; j < n; ++j) {
        const size_t at = lanes_.at(lane, j);
        super.codes[block_ * n + j] = static_cast<uint8_t>(lanes_.ranks[at] & format_.highest_code());
        errors_[static_cast<size_t>(row * n + j)] = lanes_.work[at];
      }
    }
    const int64_t end = begin_ + n;
    if (end == columns_) return;
    kernels_.train.product({.a = errors_.data(),
                            .a_row = n,
                            .a_column = 1,
                            .b = upper_.data() + begin_ * columns_ + end,
                            .b_stride = columns_,
                            .c = target_.data() + end,
                            .c_stride = columns_,
                            .m = rows_,
                            .n = columns_ - end,
                            .k = n,
                            .accumulate = true});
  }

  const kernels::KernelTable& kernels_;
  const std::span<const float> weights_;
  const SquareMatrix& upper_;
  const SuperFormat& format_;
  const int64_t most_judged_;
  SuperCoding& coding_;
  const int64_t columns_;
  const std::vector<float> inverse_diagonal_;
  std::vector<float> importance_;
  int64_t first_ = 0, rows_ = 0;                   // at work
  int64_t super_ = 0, block_ = 0, begin_ = 0;      // begin_: the block's first column
  std::vector<float> target_;                      // of the rows, less what was fed on
  std::vector<SuperScale> tried_;                  // [rows][kMostTried]
  std::vector<float> inverses_, minima_, losses_;  // likewise
  std::vector<int32_t> counts_;
  std::vector<Candidate> ranked_;
  std::vector<int64_t> finalists_;  // [rows][kJudged]: places in tried_
  SuperLanes lanes_;
  std::vector<float> errors_;
};

}  // namespace

bool SuperFormat::knows(GgufType type) noexcept {
  return type == GgufType::kQ4_K || type == GgufType::kQ5_K || type == GgufType::kQ6_K ||
         type == GgufType::kIQ4_XS;
}

SuperFormat::SuperFormat(GgufType given) : type(given) {
  if (!knows(given))
    fail(ErrorCode::kUnsupported, "{} has no super-blocks that are calibrated", gguf_type_info(given).name);
  if (given == GgufType::kQ4_K || given == GgufType::kQ5_K) {
    steps = given == GgufType::kQ4_K ? 15 : 31;
    minima = true;
    least_share = .7f;
    most_share = 1.1f;
    return;
  }
  if (given == GgufType::kQ6_K) {
    block = 16;
    steps = 63;
    offset = 32;
    least = -128;
    most = 127;
    least_share = .8f;
    most_share = 1.1f;
    return;
  }
  least = -32;
  most = 31;
  least_share = .55f;
  most_share = 1.15f;
  for (size_t i = 0; i < kIq4NlLevels.size(); ++i) {
    table.levels[i] = kIq4NlLevels[i];
    table.code_of_rank[i] = static_cast<uint8_t>(i);
    table.thresholds[i] =
        i + 1 < kIq4NlLevels.size() ? (kIq4NlLevels[i] + kIq4NlLevels[i + 1]) / 2 : INFINITY;
  }
}

BlockValues::BlockValues(const SuperFormat& format, const SuperBlock& super, SuperScale multiples) noexcept
    : scale(f16_to_float(super.scale) * static_cast<float>(multiples.scale)),
      minimum(format.minima ? f16_to_float(super.minimum) * static_cast<float>(multiples.minimum)
                            : format.offset * scale) {}

void feed_back(std::span<const float> weights, const HessianFactor& factor, const SuperFormat& format,
               int finalists, int threads, SuperCoding& coding) {
  const Cancel cancel;
  parallel_for(coding.rows, 1, threads, [&](int64_t begin, int64_t end) {
    SuperFeedback feedback(weights, factor, format, finalists, coding);
    for (int64_t row = begin; row < end; row += kBatchRows)
      feedback.run(row, std::min(kBatchRows, end - row), cancel);
  });
  cancel.expect_none();
}

std::vector<std::byte> bytes_of(const SuperCoding& coding, const SuperFormat& format) {
  const auto size = static_cast<size_t>(gguf_type_info(format.type).block_bytes);
  std::vector<std::byte> bytes(coding.blocks.size() * size);
  for (size_t i = 0; i < coding.blocks.size(); ++i)
    put_super_block(format.type, coding.blocks[i], reinterpret_cast<uint8_t*>(bytes.data()) + i * size);
  return bytes;
}

}  // namespace nfloat
