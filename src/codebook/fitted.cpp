// SPDX-License-Identifier: Apache-2.0
#include "codebook/fitted.h"

#include <algorithm>
#include <cmath>

#include "codebook/source.h"

namespace nfloat {
namespace {

// The density w(y) of y = weight / block maximum, weighted by maximum^power (what an error at y costs), with
// its integrals from 0, on [-1, 1]. Tabulated on [0, 1]; between the points cubic Hermite polynomials, good
// to 1e-13.
class WeightedDensity {
 public:
  WeightedDensity(int64_t block_size, int power)
      : zeroth_(kPanels + 1), first_(kPanels + 1), density_(kPanels + 1) {
    const Source source(SourceDistribution{});
    const double share_of_largest = 1.0 / static_cast<double>(block_size);
    const double at_zero = source.density(0);
    for (const MaximumNode& node : block_maximum_nodes(source, block_size)) {
      const double m = node.maximum;
      const double cost = node.weight * std::pow(m, power);
      const double weight = (1 - share_of_largest) * cost / node.inside;
      mass_of_largest_ += share_of_largest * cost;
      for (size_t i = 0; i <= kPanels; ++i) {
        const double x = m * static_cast<double>(i) / kPanels;
        const double f = source.density(x);
        density_[i] += weight * m * f;
        first_[i] += weight / m * (at_zero - f);
        zeroth_[i] += weight * 0.5 * std::erf(x * M_SQRT1_2);
      }
    }
  }

  // Of the block's largest weight, which sits at the end of the interval.
  double mass_of_largest() const { return mass_of_largest_; }

  double density(double y) const {
    const auto [i, t] = locate(y);
    return density_[i] + t * (density_[i + 1] - density_[i]);
  }
  double zeroth(double y) const {
    const double value = interpolate(y, zeroth_, [](double) { return 1.0; });
    return y < 0 ? -value : value;
  }
  double first(double y) const {
    return interpolate(y, first_, [](double at) { return at; });
  }

 private:
  static constexpr size_t kPanels = 2048;

  struct Place {
    size_t panel;
    double fraction;
  };
  static Place locate(double y) {
    const double scaled = std::min(std::fabs(y), 1.0) * kPanels;
    const size_t panel = std::min(static_cast<size_t>(scaled), kPanels - 1);
    return {panel, scaled - static_cast<double>(panel)};
  }
  // The derivative of the tabulated integral at y is factor(y) w(y).
  template <typename Factor>
  double interpolate(double y, const std::vector<double>& values, Factor factor) const {
    const auto [i, t] = locate(y);
    constexpr double kWidth = 1.0 / kPanels;
    const double slope0 = kWidth * density_[i] * factor(static_cast<double>(i) * kWidth);
    const double slope1 = kWidth * density_[i + 1] * factor(static_cast<double>(i + 1) * kWidth);
    const double rise = values[i + 1] - values[i];
    return values[i] +
           t * (slope0 + t * ((3 * rise - 2 * slope0 - slope1) + t * (slope0 + slope1 - 2 * rise)));
  }

  std::vector<double> zeroth_;
  std::vector<double> first_;
  std::vector<double> density_;
  double mass_of_largest_ = 0;
};

constexpr double kConverged = 1e-13;
constexpr int kMaxIterations = 200000;

// The level with the least error for the interval [begin, end].
double best_level(const WeightedDensity& weights, double begin, double end, bool absolute,
                  double mass_at_begin, double mass_at_end) {
  const double below = weights.zeroth(begin);
  const double above = weights.zeroth(end);
  const double mass = above - below + mass_at_begin + mass_at_end;
  if (!absolute) {
    return (weights.first(end) - weights.first(begin) + mass_at_end * end + mass_at_begin * begin) / mass;
  }
  // The median: Newton steps kept inside a shrinking bracket.
  const double target = below - mass_at_begin + 0.5 * mass;
  double low = begin;
  double high = end;
  double y = 0.5 * (begin + end);
  for (int i = 0; i < 100 && high - low > 1e-15; ++i) {
    const double excess = weights.zeroth(y) - target;
    (excess > 0 ? high : low) = y;
    const double next = y - excess / weights.density(y);
    if (std::fabs(next - y) < 1e-15) break;
    y = next > low && next < high ? next : 0.5 * (low + high);
  }
  return y;
}

}  // namespace

std::vector<double> fit_levels(const FitOptions& options) {
  const WeightedDensity weights(options.block_size, options.absolute ? 1 : 2);
  const auto count = static_cast<size_t>(options.levels);
  std::vector<double> levels(count);
  std::vector<bool> fixed(count, false);
  for (size_t i = 0; i < count; ++i) {
    levels[i] = (2.0 * static_cast<double>(i) + 1) / static_cast<double>(count) - 1;
  }
  for (double pin : options.pinned) {
    const size_t rank = pin < 0 ? 0 : pin > 0 ? count - 1 : count / 2 - 1;
    levels[rank] = pin;
    fixed[rank] = true;
  }
  const double mass_low = options.signed_scale ? 0 : 0.5 * weights.mass_of_largest();
  const double mass_high = weights.mass_of_largest() - mass_low;
  double change = 1;
  for (int iteration = 0; iteration < kMaxIterations && change > kConverged; ++iteration) {
    change = 0;
    std::vector<double> next = levels;
    for (size_t i = 0; i < count; ++i) {
      if (fixed[i]) continue;
      const bool is_first = i == 0;
      const bool is_last = i + 1 == count;
      const double begin = is_first ? -1 : 0.5 * (levels[i - 1] + levels[i]);
      const double end = is_last ? 1 : 0.5 * (levels[i] + levels[i + 1]);
      next[i] =
          best_level(weights, begin, end, options.absolute, is_first ? mass_low : 0, is_last ? mass_high : 0);
      change = std::max(change, std::fabs(next[i] - levels[i]));
    }
    levels = std::move(next);
  }
  return levels;
}

std::vector<double> abnormal_float_levels(int64_t block_size) {
  const WeightedDensity weights(block_size, 0);
  // `count` levels on (0, 1], the last at 1, the first cell beginning at 0.
  const auto side = [&](size_t count) {
    std::vector<double> levels(count);
    for (size_t i = 0; i < count; ++i) levels[i] = static_cast<double>(i + 1) / static_cast<double>(count);
    double change = 1;
    for (int iteration = 0; iteration < kMaxIterations && change > kConverged; ++iteration) {
      change = 0;
      std::vector<double> next = levels;
      for (size_t i = 0; i + 1 < count; ++i) {
        const double begin = i == 0 ? 0 : 0.5 * (levels[i - 1] + levels[i]);
        next[i] = best_level(weights, begin, 0.5 * (levels[i] + levels[i + 1]), true, 0, 0);
        change = std::max(change, std::fabs(next[i] - levels[i]));
      }
      levels = std::move(next);
    }
    return levels;
  };
  std::vector<double> levels = {0.0};
  for (double level : side(8)) levels.push_back(level);
  for (double level : side(7)) levels.push_back(-level);
  std::sort(levels.begin(), levels.end());
  return levels;
}

}  // namespace nfloat
