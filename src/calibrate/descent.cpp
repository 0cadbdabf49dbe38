// SPDX-License-Identifier: Apache-2.0
#include <map>

#include "base/parallel.h"
#include "calibrate/block_work.h"
#include "calibrate/cancel.h"
#include "kernels/dispatch.h"

namespace nfloat {
namespace {

constexpr int kSteps = 3;  // of stored scales to either side that a block tries, and their negatives
constexpr double kWorthwhile = 1e-5;  // share of a block's loss that a new coding has to win

using RangeInverses = std::map<Range, RangeInverse>;

// Of every range of columns that a block of the coding covers.
RangeInverses inverses_of(const HessianFactor& factor, int threads, const Coding& coding,
                          const Cancel& cancel) {
  RangeInverses ranges;
  std::vector<BlockPart> parts;
  std::vector<Range> wanted;
  for (const int64_t unit : {int64_t{0}, coding.units() - 1}) {  // the last one may be shorter
    const auto [first, last] = coding.blocks_of_unit(unit);
    for (int64_t block = first; block < last; ++block) {
      coding.parts_of(block, parts);
      for (const BlockPart& part : parts)
        if (ranges.try_emplace({part.begin, part.end}).second) wanted.emplace_back(part.begin, part.end);
    }
  }
  parallel_for(std::ssize(wanted), 1, threads, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end && !cancel.asked(); ++i) {
      const Range& range = wanted[static_cast<size_t>(i)];
      ranges.at(range) = inverse_of(factor.damped, coding.columns, range);
    }
  });
  cancel.expect_none();
  return ranges;
}

class Descent {
 public:
  Descent(std::span<const float> weights, const HessianFactor& factor, const RangeInverses& ranges,
          const Levels& levels, const StoredScales& scales, bool whole, Coding& coding)
      : kernels_(kernels::table()),
        weights_(weights),
        h_(factor.damped),
        ranges_(ranges),
        levels_(levels),
        scales_(scales),
        whole_(whole),
        coding_(coding),
        columns_(coding.columns),
        inverse_diagonal_(inverse_diagonal(factor.damped, columns_)) {}

  void run(const UnitBatch& batch, const Cancel& cancel) {
    batch_ = batch;
    const int64_t begin = batch.first_row * columns_;
    const int64_t count = std::min(batch.count * batch.unit_rows, coding_.rows - batch.first_row) * columns_;
    error_.resize(static_cast<size_t>(count));
    for (int64_t i = 0; i < count; ++i) {
      const auto at = static_cast<size_t>(begin + i);
      const float scale = this->scale(static_cast<int64_t>(at) / coding_.block_size);
      error_[static_cast<size_t>(i)] = scale * levels_.level[coding_.places[at]] - weights_[at];
    }
    for (int64_t block = 0; block < batch.unit_blocks && !cancel.asked(); ++block) {
      take(block);
      move_scales(block);
      if (whole_) recode(block);
      move_codes(block);
    }
  }

 private:
  // The part of a block in one row, in all units: [units][count] each.
  struct Part {
    BlockPart place;
    int64_t count = 0;
    std::vector<float> coded, gradient, change, moved;
    std::vector<float> work;  // of the kernels, with `ranks`
    std::vector<int32_t> ranks;
  };

  float scale(int64_t block) const noexcept {
    return scales_.at(block, coding_.scale_codes[static_cast<size_t>(block)]);
  }
  uint8_t* places(const Part& part, int64_t unit) {
    return coding_.places.data() + (part.place.row + unit * batch_.unit_rows) * columns_ + part.place.begin;
  }
  float* error(const Part& part, int64_t unit) {
    return error_.data() + (part.place.row - batch_.first_row + unit * batch_.unit_rows) * columns_ +
           part.place.begin;
  }
  // to [units][count] = from [units][count] times `matrix`, square, row by row `stride` apart.
  void multiply(const Part& part, const std::vector<float>& from, const float* matrix, int64_t stride,
                std::vector<float>& to, bool accumulate) {
    to.resize(from.size());
    kernels_.train.product({.a = from.data(),
                            .a_row = part.count,
                            .a_column = 1,
                            .b = matrix,
                            .b_stride = stride,
                            .c = to.data(),
                            .c_stride = part.count,
                            .m = batch_.count,
                            .n = part.count,
                            .k = part.count,
                            .accumulate = accumulate});
  }
  const float* own_hessian(const Part& part) const noexcept {
    return h_.data() + part.place.begin * columns_ + part.place.begin;
  }
  std::span<float> row(std::vector<float>& values, const Part& part, int64_t unit) const {
    return std::span(values).subspan(static_cast<size_t>(unit * part.count), static_cast<size_t>(part.count));
  }

  // Codings and gradients R H of the block in every unit.
  void take(int64_t index) {
    coding_.parts_of(batch_.first_block + index, block_parts_);
    parts_.resize(block_parts_.size());
    for (size_t p = 0; p < parts_.size(); ++p) {
      Part& part = parts_[p];
      part.place = block_parts_[p];
      part.count = part.place.end - part.place.begin;
      const auto cells = static_cast<size_t>(batch_.count * part.count);
      part.coded.resize(cells);
      part.gradient.resize(cells);
      part.change.assign(cells, 0.0f);
      for (int64_t unit = 0; unit < batch_.count; ++unit) {
        const float scale = this->scale(batch_.block(unit, index));
        const uint8_t* from = places(part, unit);
        for (float& value : row(part.coded, part, unit)) value = scale * levels_.level[*from++];
      }
      // As many columns of H as the product takes together, packed, serve all units.
      const int64_t panel = kernels_.train.product_columns;
      for (int64_t first = 0; first < part.count; first += panel) {
        const int64_t width = std::min(panel, part.count - first);
        panel_.resize(static_cast<size_t>(columns_ * panel));
        const float* from = h_.data() + part.place.begin + first;
        for (int64_t k = 0; k < columns_; ++k)
          std::copy_n(from + k * columns_, width, panel_.data() + k * panel);
        kernels_.train.product({.a = error(part, 0) - part.place.begin,
                                .a_row = batch_.unit_rows * columns_,
                                .a_column = 1,
                                .b = panel_.data(),
                                .b_stride = panel,
                                .c = part.gradient.data() + first,
                                .c_stride = part.count,
                                .m = batch_.count,
                                .n = width,
                                .k = columns_});
      }
    }
  }

  // Each block's scale to the stored one nearest to its best, its codes staying.
  void move_scales(int64_t index) {
    for (Part& part : parts_) multiply(part, part.coded, own_hessian(part), columns_, part.moved, false);
    for (int64_t unit = 0; unit < batch_.count; ++unit) {
      double slope = 0, curvature = 0;
      for (Part& part : parts_) {
        const auto coded = row(part.coded, part, unit);
        slope += dot(coded, row(part.gradient, part, unit));
        curvature += dot(coded, row(part.moved, part, unit));
      }
      if (!(curvature > 0)) continue;
      const int64_t block = batch_.block(unit, index);
      const float old = scale(block);
      const int code = scales_.nearest(block, static_cast<float>((1 - slope / curvature) * double{old}));
      const float share = scales_.at(block, code) / old - 1;
      if (share == 0 || !(2 * share * slope + share * share * curvature < 0)) continue;
      coding_.scale_codes[static_cast<size_t>(block)] = static_cast<uint8_t>(code);
      for (Part& part : parts_) {
        const auto gradient = row(part.gradient, part, unit), moved = row(part.moved, part, unit);
        for (size_t j = 0; j < gradient.size(); ++j) gradient[j] += share * moved[j];
        const uint8_t* place = places(part, unit);
        float* error = this->error(part, unit);
        for (float& value : row(part.coded, part, unit)) {
          const float after = scales_.at(block, code) * levels_.level[*place++];
          *error++ += after - value;
          value = after;
        }
      }
    }
  }
  double dot(std::span<const float> a, std::span<const float> b) const noexcept {
    return static_cast<double>(kernels_.train.dot(a.data(), b.data(), std::ssize(a)));
  }

  // Each block anew against all others, by the best of the scales near its own and their negatives.
  void recode(int64_t index) {
    present_.assign(static_cast<size_t>(batch_.count), 0.0);
    for (Part& part : parts_) {
      // The way to the best continuous block: H^-1 G.
      const std::vector<float>& inverse = ranges_.at({part.place.begin, part.place.end}).inverse;
      multiply(part, part.gradient, inverse.data(), part.count, part.moved, false);
      for (int64_t unit = 0; unit < batch_.count; ++unit)
        present_[static_cast<size_t>(unit)] +=
            dot(row(part.moved, part, unit), row(part.gradient, part, unit));
    }
    const int64_t lanes = batch_.count * kLanes;
    lane_codes_.resize(static_cast<size_t>(lanes));
    lane_scales_.resize(lane_codes_.size());
    lane_inverses_.resize(lane_codes_.size());
    lane_losses_.assign(lane_codes_.size(), 0.0f);
    for (int64_t unit = 0; unit < batch_.count; ++unit) {
      const int64_t block = batch_.block(unit, index);
      const int code = coding_.scale_codes[static_cast<size_t>(block)];
      int64_t lane = unit * kLanes;
      const auto take = [&](int tried) {
        const auto at = static_cast<size_t>(lane++);
        lane_codes_[at] = static_cast<uint8_t>(tried);
        lane_scales_[at] = scales_.at(block, tried);
        lane_inverses_[at] = 1 / lane_scales_[at];
      };
      for (int step = -kSteps; step <= kSteps; ++step)
        for (const int tried : {code + step, StoredScales::kMirror - (code + step)})
          if (tried >= 0 && tried < 256 && tried != StoredScales::kZero) take(tried);
      while (lane < (unit + 1) * kLanes) take(code);
    }
    for (Part& part : parts_) feed(part, lanes);
    for (int64_t unit = 0; unit < batch_.count; ++unit) {
      const float* loss = lane_losses_.data() + unit * kLanes;
      const int64_t best = std::min_element(loss, loss + kLanes) - loss;
      const double present = present_[static_cast<size_t>(unit)];
      if (!(static_cast<double>(loss[best]) < (1 - kWorthwhile) * present)) continue;
      coding_.scale_codes[static_cast<size_t>(batch_.block(unit, index))] =
          lane_codes_[static_cast<size_t>(unit * kLanes + best)];
      for (Part& part : parts_) accept(part, unit, best);
    }
    for (Part& part : parts_) multiply(part, part.change, own_hessian(part), columns_, part.gradient, true);
  }

  void feed(Part& part, int64_t lanes) {
    const RangeInverse& range = ranges_.at({part.place.begin, part.place.end});
    part.work.resize(static_cast<size_t>(lanes * part.count));
    part.ranks.resize(part.work.size());
    float* to = part.work.data();
    for (size_t i = 0; i < part.coded.size(); ++i, to += kLanes)
      std::fill_n(to, kLanes, part.coded[i] - part.moved[i]);
    kernels_.calibrate.feed_columns({.table = &levels_.table,
                                     .work = part.work.data(),
                                     .ranks = part.ranks.data(),
                                     .scales = lane_scales_.data(),
                                     .inverses = lane_inverses_.data(),
                                     .matrix = range.upper.data(),
                                     .stride = part.count,
                                     .inverse_diagonal = range.inverse_diagonal.data(),
                                     .columns = part.count,
                                     .sets = batch_.count},
                                    lane_losses_.data());
  }

  void accept(Part& part, int64_t unit, int64_t lane) {
    const float scale = lane_scales_[static_cast<size_t>(unit * kLanes + lane)];
    const int32_t* rank = part.ranks.data() + unit * part.count * kLanes + lane;
    uint8_t* place = places(part, unit);
    float* error = this->error(part, unit);
    const auto coded = row(part.coded, part, unit), change = row(part.change, part, unit);
    for (size_t j = 0; j < coded.size(); ++j, rank += kLanes) {
      place[j] = static_cast<uint8_t>(*rank & 15);
      const float after = scale * levels_.level[place[j]];
      change[j] = after - coded[j];
      error[j] += change[j];
      coded[j] = after;
    }
  }

  // Each weight in order to the level that is best with all others as they are; units are the lanes.
  void move_codes(int64_t index) {
    const int64_t sets = (batch_.count + kLanes - 1) / kLanes;
    const auto unit_of = [&](int64_t lane) { return std::min(lane, batch_.count - 1); };
    lane_scales_.resize(static_cast<size_t>(sets * kLanes));
    lane_inverses_.resize(lane_scales_.size());
    for (int64_t lane = 0; lane < sets * kLanes; ++lane) {
      const float scale = this->scale(batch_.block(unit_of(lane), index));
      lane_scales_[static_cast<size_t>(lane)] = scale;
      lane_inverses_[static_cast<size_t>(lane)] = 1 / scale;
    }
    for (Part& part : parts_) {
      const auto cells = static_cast<size_t>(sets * kLanes * part.count);
      part.work.resize(cells);
      part.ranks.resize(cells);
      const auto at = [&](int64_t lane, int64_t j) {
        return static_cast<size_t>((lane / kLanes * part.count + j) * kLanes + lane % kLanes);
      };
      for (int64_t lane = 0; lane < sets * kLanes; ++lane) {
        const auto gradient = row(part.gradient, part, unit_of(lane));
        const uint8_t* place = places(part, unit_of(lane));
        for (int64_t j = 0; j < part.count; ++j) {
          part.work[at(lane, j)] = gradient[static_cast<size_t>(j)];
          part.ranks[at(lane, j)] = place[j];
        }
      }
      kernels_.calibrate.move_columns({.table = &levels_.table,
                                       .work = part.work.data(),
                                       .ranks = part.ranks.data(),
                                       .scales = lane_scales_.data(),
                                       .inverses = lane_inverses_.data(),
                                       .matrix = own_hessian(part),
                                       .stride = columns_,
                                       .inverse_diagonal = inverse_diagonal_.data() + part.place.begin,
                                       .columns = part.count,
                                       .sets = sets});
      for (int64_t unit = 0; unit < batch_.count; ++unit) {
        uint8_t* place = places(part, unit);
        float* error = this->error(part, unit);
        for (int64_t j = 0; j < part.count; ++j) {
          place[j] = static_cast<uint8_t>(part.ranks[at(unit, j)] & 15);
          error[j] += part.work[at(unit, j)];
        }
      }
    }
  }

  const kernels::KernelTable& kernels_;
  const std::span<const float> weights_;
  const SquareMatrix& h_;
  const RangeInverses& ranges_;
  const Levels& levels_;
  const StoredScales& scales_;
  const bool whole_;
  Coding& coding_;
  const int64_t columns_;
  const std::vector<float> inverse_diagonal_;
  UnitBatch batch_;
  std::vector<float> error_;  // of the units: coding less weights
  std::vector<BlockPart> block_parts_;
  std::vector<Part> parts_;
  std::vector<double> present_;
  std::vector<float> panel_, lane_scales_, lane_inverses_, lane_losses_;
  std::vector<uint8_t> lane_codes_;
};

}  // namespace

RangeInverse inverse_of(const SquareMatrix& h, int64_t columns, const Range& range) {
  const int64_t n = range.second - range.first;
  const auto at = [n](int64_t i, int64_t j) { return static_cast<size_t>(i * n + j); };
  std::vector<double> lower(static_cast<size_t>(n * n)), upper(lower.size()), inverse(lower.size());
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j <= i; ++j) {
      double sum = h[static_cast<size_t>((range.second - 1 - i) * columns + range.second - 1 - j)];
      for (int64_t p = 0; p < j; ++p) sum -= lower[at(i, p)] * lower[at(j, p)];
      lower[at(i, j)] = i == j ? std::sqrt(std::max(sum, 1e-300)) : sum / lower[at(j, j)];
    }
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j <= i; ++j) upper[at(n - 1 - i, n - 1 - j)] = lower[at(i, j)];
  for (int64_t i = n - 1; i >= 0; --i) {
    inverse[at(i, i)] = 1;
    for (int64_t p = i + 1; p < n; ++p)
      for (int64_t j = p; j < n; ++j) inverse[at(i, j)] -= upper[at(i, p)] * inverse[at(p, j)];
    for (int64_t j = i; j < n; ++j) inverse[at(i, j)] /= upper[at(i, i)];
  }
  RangeInverse result;
  result.upper.assign(inverse.begin(), inverse.end());
  for (int64_t i = 0; i < n; ++i) result.inverse_diagonal.push_back(1 / result.upper[at(i, i)]);
  result.inverse.resize(result.upper.size());
  std::vector<double> sums(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) {
    std::fill(sums.begin(), sums.end(), 0.0);
    for (int64_t p = 0; p <= i; ++p)
      for (int64_t j = p; j < n; ++j) sums[static_cast<size_t>(j)] += inverse[at(p, i)] * inverse[at(p, j)];
    for (int64_t j = 0; j < n; ++j)
      result.inverse[at(i, j)] = static_cast<float>(sums[static_cast<size_t>(j)]);
  }
  return result;
}

void descend(std::span<const float> weights, const HessianFactor& factor, const Levels& levels,
             const StoredScales& scales, bool whole, int threads, Coding& coding) {
  const Cancel cancel;
  const RangeInverses ranges = whole ? inverses_of(factor, threads, coding, cancel) : RangeInverses{};
  parallel_for(coding.units(), 1, threads, [&](int64_t begin, int64_t end) {
    Descent descent(weights, factor, ranges, levels, scales, whole, coding);
    for (const UnitBatch& batch : batches_of(coding, begin, end)) descent.run(batch, cancel);
  });
  cancel.expect_none();
}

}  // namespace nfloat
