// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>

#include "base/float16.h"
#include "base/parallel.h"
#include "calibrate/block_work.h"
#include "calibrate/cancel.h"
#include "calibrate/super_lanes.h"
#include "kernels/dispatch.h"

namespace nfloat {
namespace {

constexpr int kNearScales = 2;       // multiples to either side that a block with a minimum tries,
constexpr int kNearMinima = 1;       // and minima around that which keeps its middle
constexpr int kAloneScales = 3;      // without minima, and their negatives
constexpr double kLeastGain = 1e-5;  // share of a block's loss that a new coding has to win
constexpr int64_t kDescentRows = 64;

class SuperDescent {
 public:
  SuperDescent(std::span<const float> weights, const HessianFactor& factor,
               const std::vector<RangeInverse>& inverses, const SuperFormat& format, SuperCoding& coding)
      : kernels_(kernels::table()),
        weights_(weights),
        h_(factor.damped),
        inverses_(inverses),
        format_(format),
        coding_(coding),
        columns_(coding.columns),
        n_(format.block),
        inverse_diagonal_(inverse_diagonal(factor.damped, columns_)) {}

  void run(int64_t first, int64_t count, int sweeps, const Cancel& cancel) {
    first_ = first;
    rows_ = count;
    error_.resize(static_cast<size_t>(count * columns_));
    for (int64_t row = 0; row < count; ++row)
      for (int64_t begin = 0; begin < columns_; begin += n_) put_errors(row, begin);
    for (int sweep = 0; sweep < sweeps; ++sweep)
      for (int64_t begin = 0; begin < columns_ && !cancel.asked(); begin += n_) {
        begin_ = begin;
        begin_block();
        format_.minima ? move_pairs() : move_scales();
        if (!inverses_.empty()) recode();
        move_codes();
        for (int64_t row = 0; row < count; ++row) put_errors(row, begin);
      }
  }

 private:
  int64_t block_of(int64_t begin) const noexcept { return begin % kSuperBlock / n_; }
  SuperBlock& super(int64_t row) { return coding_.at(first_ + row, begin_ / kSuperBlock); }
  uint8_t* codes(int64_t row) { return super(row).codes + begin_ % kSuperBlock; }
  SuperScale multiples(int64_t row) {
    const auto block = static_cast<size_t>(block_of(begin_));
    const SuperBlock& own = super(row);
    return {own.scales[block], format_.minima ? own.minima[block] : 0};
  }
  void set(int64_t row, SuperScale chosen) {
    const auto block = static_cast<size_t>(block_of(begin_));
    super(row).scales[block] = static_cast<int8_t>(chosen.scale);
    if (format_.minima) super(row).minima[block] = static_cast<uint8_t>(chosen.minimum);
  }
  bool allowed(SuperScale chosen) const noexcept {
    return chosen.scale >= format_.least && chosen.scale <= format_.most && chosen.scale != 0 &&
           chosen.minimum >= 0 && chosen.minimum <= SuperFormat::kMostMinimum;
  }
  std::span<float> row_of(std::vector<float>& values, int64_t row) const {
    return std::span(values).subspan(static_cast<size_t>(row * n_), static_cast<size_t>(n_));
  }
  double dot(std::span<const float> a, std::span<const float> b) const noexcept {
    return static_cast<double>(kernels_.train.dot(a.data(), b.data(), std::ssize(a)));
  }

  // What the block stands for, less the weights.
  void put_errors(int64_t row, int64_t begin) {
    begin_ = begin;
    const BlockValues block(format_, super(row), multiples(row));
    const float* weight = weights_.data() + (first_ + row) * columns_ + begin;
    float* error = error_.data() + row * columns_ + begin;
    const uint8_t* code = codes(row);
    for (int64_t j = 0; j < n_; ++j)
      error[j] = block.scale * format_.level(code[j]) - block.minimum - weight[j];
  }

  // to [rows][n] = from [rows][n] times `matrix` [n][n].
  void multiply(const std::vector<float>& from, const float* matrix, int64_t stride, std::vector<float>& to,
                bool accumulate) {
    to.resize(from.size());
    kernels_.train.product({.a = from.data(),
                            .a_row = n_,
                            .a_column = 1,
                            .b = matrix,
                            .b_stride = stride,
                            .c = to.data(),
                            .c_stride = n_,
                            .m = rows_,
                            .n = n_,
                            .k = n_,
                            .accumulate = accumulate});
  }
  const float* own_hessian() const noexcept { return h_.data() + begin_ * columns_ + begin_; }

  // Levels of the codes, less the offset, and gradients R H.
  void begin_block() {
    const auto cells = static_cast<size_t>(rows_ * n_);
    levels_.resize(cells);
    gradient_.resize(cells);
    for (int64_t row = 0; row < rows_; ++row) put_levels(row);
    kernels_.train.product({.a = error_.data(),
                            .a_row = columns_,
                            .a_column = 1,
                            .b = h_.data() + begin_,
                            .b_stride = columns_,
                            .c = gradient_.data(),
                            .c_stride = n_,
                            .m = rows_,
                            .n = n_,
                            .k = columns_});
  }
  void put_levels(int64_t row) {
    const uint8_t* code = codes(row);
    for (float& level : row_of(levels_, row)) level = format_.level(*code++) - format_.offset;
  }

  // Multiples of the scale, the codes staying.
  void move_scales() {
    multiply(levels_, own_hessian(), columns_, moved_, false);
    for (int64_t row = 0; row < rows_; ++row) {
      const auto levels = row_of(levels_, row), moved = row_of(moved_, row),
                 gradient = row_of(gradient_, row);
      const double slope = dot(levels, gradient), curvature = dot(levels, moved);
      const float unit = f16_to_float(super(row).scale);
      const SuperScale before = multiples(row);
      if (!(curvature > 0) || unit == 0) continue;
      const double wanted = before.scale - slope / curvature / double{unit};
      const SuperScale after{
          static_cast<int>(std::lround(std::clamp<double>(wanted, format_.least, format_.most))), 0};
      const double change = double{unit} * (after.scale - before.scale);
      if (!allowed(after) || !(2 * change * slope + change * change * curvature < 0)) continue;
      set(row, after);
      for (size_t j = 0; j < moved.size(); ++j) gradient[j] += static_cast<float>(change) * moved[j];
    }
  }

  // Multiples of scale and minimum together: the best of those around the minimum of the loss.
  void move_pairs() {
    multiply(levels_, own_hessian(), columns_, moved_, false);
    sums_.assign(static_cast<size_t>(n_), 0.0f);
    for (int64_t i = 0; i < n_; ++i)
      for (int64_t j = 0; j < n_; ++j) sums_[static_cast<size_t>(j)] += own_hessian()[i * columns_ + j];
    double both = 0;
    for (const float sum : sums_) both += double{sum};
    for (int64_t row = 0; row < rows_; ++row) {
      const auto levels = row_of(levels_, row), moved = row_of(moved_, row),
                 gradient = row_of(gradient_, row);
      const double scale_unit = f16_to_float(super(row).scale),
                   minimum_unit = f16_to_float(super(row).minimum);
      // Of a change s of the scale and m of the minimum: 2 (s a - m b) + s^2 c - 2 s m d + m^2 e.
      double b = 0;
      for (const float value : gradient) b += double{value};
      const double a = dot(levels, gradient), c = dot(levels, moved), d = dot(levels, sums_), e = both;
      const double determinant = c * e - d * d;
      if (!(determinant > 0) || scale_unit == 0) continue;
      const SuperScale before = multiples(row);
      const double wanted_scale = (b * d - a * e) / determinant / scale_unit;
      const double wanted_minimum = minimum_unit > 0 ? (b * c - a * d) / determinant / minimum_unit : 0;
      SuperScale best = before;
      double least = 0;
      for (const int up : {0, 1})
        for (const int right : {0, 1}) {
          const SuperScale tried{before.scale + whole_change(wanted_scale) + up,
                                 before.minimum + whole_change(wanted_minimum) + right};
          if (!allowed(tried)) continue;
          const double s = (tried.scale - before.scale) * scale_unit;
          const double m = (tried.minimum - before.minimum) * minimum_unit;
          const double change = 2 * (s * a - m * b) + s * s * c - 2 * s * m * d + m * m * e;
          if (change < least) {
            least = change;
            best = tried;
          }
        }
      if (!(least < 0)) continue;
      set(row, best);
      const auto s = static_cast<float>((best.scale - before.scale) * scale_unit);
      const auto m = static_cast<float>((best.minimum - before.minimum) * minimum_unit);
      for (size_t j = 0; j < moved.size(); ++j) gradient[j] += s * moved[j] - m * sums_[j];
    }
  }
  static int whole_change(double wanted) noexcept {
    return static_cast<int>(std::floor(std::clamp(wanted, -64.0, 64.0)));
  }

  template <typename Take>
  void near(int64_t row, const Take& take) {
    const SuperScale own = multiples(row);
    if (!format_.minima) {
      for (int step = -kAloneScales; step <= kAloneScales; ++step)
        for (const int sign : {1, -1}) take(SuperScale{sign * (own.scale + step), 0});
      return;
    }
    const float scale_unit = f16_to_float(super(row).scale), minimum_unit = f16_to_float(super(row).minimum);
    const float shift =
        minimum_unit > 0 ? scale_unit * static_cast<float>(format_.steps) / 2 / minimum_unit : 0.0f;
    for (int step = -kNearScales; step <= kNearScales; ++step) {
      const float middle = std::clamp(static_cast<float>(step) * shift, -64.0f, 64.0f);
      for (int beside = -kNearMinima; beside <= kNearMinima; ++beside)
        take(SuperScale{own.scale + step, own.minimum + static_cast<int>(std::lround(middle)) + beside});
    }
  }

  // Each block anew against all others, by the best of the multiples near its own.
  void recode() {
    const RangeInverse& range = inverses_[static_cast<size_t>(begin_ / n_)];
    // The way to the best continuous block: H^-1 G.
    multiply(gradient_, range.inverse.data(), n_, moved_, false);
    lanes_.begin(rows_, n_);
    tried_.resize(static_cast<size_t>(lanes_.count()));
    for (int64_t row = 0; row < rows_; ++row) {
      int64_t lane = row * kLanes;
      const auto take = [&](SuperScale tried) {
        if (lane < (row + 1) * kLanes && allowed(tried)) tried_[static_cast<size_t>(lane++)] = tried;
      };
      near(row, take);
      while (lane < (row + 1) * kLanes) tried_[static_cast<size_t>(lane++)] = multiples(row);
      const BlockValues own(format_, super(row), multiples(row));
      const auto levels = row_of(levels_, row), moved = row_of(moved_, row);
      for (lane = row * kLanes; lane < (row + 1) * kLanes; ++lane) {
        const BlockValues block(format_, super(row), tried_[static_cast<size_t>(lane)]);
        lanes_.set(lane, block);
        const float shift = block.minimum + own.scale * format_.offset - own.minimum;
        float* to = lanes_.work.data() + lanes_.at(lane, 0);
        for (size_t j = 0; j < levels.size(); ++j) to[j * kLanes] = own.scale * levels[j] - moved[j] + shift;
      }
    }
    kernels_.calibrate.feed_columns(
        lanes_.args(format_, range.upper.data(), n_, range.inverse_diagonal.data()), lanes_.losses.data());
    change_.assign(gradient_.size(), 0.0f);
    for (int64_t row = 0; row < rows_; ++row) accept(row);
    multiply(change_, own_hessian(), columns_, gradient_, true);
  }

  void accept(int64_t row) {
    const float* losses = lanes_.losses.data() + row * kLanes;
    const int64_t best = std::min_element(losses, losses + kLanes) - losses;
    const double present = dot(row_of(moved_, row), row_of(gradient_, row));
    if (!(static_cast<double>(losses[best]) < (1 - kLeastGain) * present)) return;
    const BlockValues before(format_, super(row), multiples(row));
    set(row, tried_[static_cast<size_t>(row * kLanes + best)]);
    const BlockValues after(format_, super(row), multiples(row));
    const int32_t* rank = lanes_.ranks.data() + lanes_.at(row * kLanes + best, 0);
    uint8_t* code = codes(row);
    const auto change = row_of(change_, row);
    for (size_t j = 0; j < change.size(); ++j, rank += kLanes) {
      const auto next = static_cast<uint8_t>(*rank & format_.highest_code());
      change[j] = (after.scale * format_.level(next) - after.minimum) -
                  (before.scale * format_.level(code[j]) - before.minimum);
      code[j] = next;
    }
  }

  // Each weight in order to the level that is best with all others as they are; rows are the lanes.
  void move_codes() {
    lanes_.begin((rows_ + kLanes - 1) / kLanes, n_);
    for (int64_t lane = 0; lane < lanes_.count(); ++lane) {
      const int64_t row = std::min(lane, rows_ - 1);
      lanes_.set(lane, BlockValues(format_, super(row), multiples(row)));
      const auto gradient = row_of(gradient_, row);
      const uint8_t* code = codes(row);
      for (int64_t j = 0; j < n_; ++j) {
        lanes_.work[lanes_.at(lane, j)] = gradient[static_cast<size_t>(j)];
        lanes_.ranks[lanes_.at(lane, j)] = (format_.steps > 0 ? kernels::kStepBits : 0) + code[j];
      }
    }
    kernels_.calibrate.move_columns(
        lanes_.args(format_, own_hessian(), columns_, inverse_diagonal_.data() + begin_));
    for (int64_t row = 0; row < rows_; ++row) {
      if (multiples(row).scale == 0) continue;
      uint8_t* code = codes(row);
      for (int64_t j = 0; j < n_; ++j)
        code[j] = static_cast<uint8_t>(lanes_.ranks[lanes_.at(row, j)] & format_.highest_code());
    }
  }

  const kernels::KernelTable& kernels_;
  const std::span<const float> weights_;
  const SquareMatrix& h_;
  const std::vector<RangeInverse>& inverses_;  // of each block of columns; empty: blocks are not coded anew
  const SuperFormat& format_;
  SuperCoding& coding_;
  const int64_t columns_, n_;
  const std::vector<float> inverse_diagonal_;
  int64_t first_ = 0, rows_ = 0, begin_ = 0;               // at work: rows, first column of the block
  std::vector<float> error_;                               // [rows][columns]: coding less weights
  std::vector<float> levels_, gradient_, moved_, change_;  // of the block, [rows][n]
  std::vector<float> sums_;
  std::vector<SuperScale> tried_;
  SuperLanes lanes_;
};

}  // namespace

void descend(std::span<const float> weights, const HessianFactor& factor, const SuperFormat& format,
             bool whole, int sweeps, int threads, SuperCoding& coding) {
  const Cancel cancel;
  std::vector<RangeInverse> inverses(whole ? static_cast<size_t>(coding.columns / format.block) : 0);
  parallel_for(std::ssize(inverses), 1, threads, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end && !cancel.asked(); ++i)
      inverses[static_cast<size_t>(i)] =
          inverse_of(factor.damped, coding.columns, {i * format.block, (i + 1) * format.block});
  });
  cancel.expect_none();
  parallel_for(coding.rows, 1, threads, [&](int64_t begin, int64_t end) {
    SuperDescent descent(weights, factor, inverses, format, coding);
    for (int64_t row = begin; row < end; row += kDescentRows)
      descent.run(row, std::min(kDescentRows, end - row), sweeps, cancel);
  });
  cancel.expect_none();
}

}  // namespace nfloat
