// SPDX-License-Identifier: Apache-2.0
// The inner loops of calibration on every target that this machine runs: the same bits everywhere, and each
// decision checked against double precision.
#include "kernels/calibrate.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "kernels/dispatch.h"

namespace nfloat::kernels {
namespace {

constexpr size_t kLanes = 16;
// What float32 leaves of sums of up to 64 products, a share of the sum of their sizes.
constexpr double kSums = 64 * 0x1p-24;

std::vector<float> gaussian(size_t count, uint32_t seed, float size = 1) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(count);
  for (float& value : values) value = size * normal(generator);
  return values;
}

// Uneven levels, stored in an order of their own; of `count` of them.
CodeTable uneven_code(size_t count) {
  CodeTable table{};
  std::vector<float> levels;
  for (size_t i = 0; i < 16; ++i) {
    const float x = static_cast<float>(std::min(i, count - 1)) / static_cast<float>(count - 1) * 2 - 1;
    levels.push_back(x * (.6f + .4f * x * x));
  }
  for (size_t rank = 0; rank < 16; ++rank) {
    const size_t code = (rank * 7 + 3) % 16;
    table.code_of_rank[rank] = static_cast<uint8_t>(code);
    table.levels[code] = levels[rank];
    table.thresholds[rank] = rank + 1 < count ? (levels[rank] + levels[rank + 1]) / 2 : INFINITY;
  }
  return table;
}

float level_of(const CodeTable& table, int32_t rank) {
  return table.levels[table.code_of_rank[rank & 15]];
}
double distance_to_nearest(const CodeTable& table, double x) {
  double best = INFINITY;
  for (const float level : table.levels) best = std::min(best, std::fabs(x - static_cast<double>(level)));
  return best;
}

// Of levels that are whole numbers; 0: the table.
double distance_to_nearest(const CodeTable& table, int32_t steps, double x) {
  return steps == 0 ? distance_to_nearest(table, x)
                    : std::fabs(x - std::clamp(std::nearbyint(x), 0.0, static_cast<double>(steps)));
}

struct Columns {
  CodeTable table = uneven_code(16);
  int32_t steps;
  size_t columns, sets, stride;
  std::vector<float> work, scales, inverses, matrix, inverse_diagonal, losses;
  std::vector<int32_t> ranks;

  Columns(int32_t step_count, size_t width, size_t set_count, bool symmetric)
      : steps(step_count), columns(width), sets(set_count), stride(width + 3) {
    // Of steps some of the targets lie outside.
    work = gaussian(sets * columns * kLanes, 1, steps == 0 ? 1 : .7f * static_cast<float>(steps));
    scales = gaussian(sets * kLanes, 2);
    for (float& scale : scales) scale = std::copysign(1 + std::fabs(scale), scale);
    for (const float scale : scales) inverses.push_back(1 / scale);
    matrix = gaussian(columns * stride, 3, .2f);
    for (size_t j = 0; j < columns; ++j) {
      matrix[j * stride + j] = 2 + .1f * static_cast<float>(j % 5);
      inverse_diagonal.push_back(1 / matrix[j * stride + j]);
      for (size_t k = 0; symmetric && k < j; ++k) matrix[j * stride + k] = matrix[k * stride + j];
    }
    losses.assign(sets * kLanes, .5f);
    ranks.resize(work.size());
    for (size_t i = 0; i < ranks.size(); ++i)
      ranks[i] = steps == 0 ? static_cast<int32_t>(i * 5 % 16)
                            : kStepBits + static_cast<int32_t>(i * 5) % (steps + 1);
  }
  float level(int32_t rank) const {
    return steps == 0 ? level_of(table, rank) : static_cast<float>(rank - kStepBits);
  }
  double distance(double x) const { return distance_to_nearest(table, steps, x); }
  ColumnsArgs args() {
    return {.table = &table,
            .steps = steps,
            .work = work.data(),
            .ranks = ranks.data(),
            .scales = scales.data(),
            .inverses = inverses.data(),
            .matrix = matrix.data(),
            .stride = static_cast<int64_t>(stride),
            .inverse_diagonal = inverse_diagonal.data(),
            .columns = static_cast<int64_t>(columns),
            .sets = static_cast<int64_t>(sets)};
  }
  void clean_ranks() {
    if (steps != 0) return;
    for (int32_t& rank : ranks) rank &= 15;
  }
};

template <typename Body>
void for_shapes(const Body& body) {
  for (const int32_t steps : {0, 15, 63})
    for (const size_t columns : {1u, 2u, 3u, 16u, 33u, 64u})
      for (const size_t sets : {1u, 2u, 3u, 5u}) {
        SCOPED_TRACE(testing::Message() << steps << " steps, " << columns << " columns, " << sets << " sets");
        body(steps, columns, sets);
      }
}

TEST(CalibrateKernels, FeedColumnsEverywhereAsInDouble) {
  for_shapes([](int32_t steps, size_t columns, size_t sets) {
    const Columns before(steps, columns, sets, false);
    Columns first = before;
    runnable_tables()[0]->calibrate.feed_columns(first.args(), first.losses.data());
    first.clean_ranks();
    for (size_t set = 0; set < sets; ++set)
      for (size_t lane = 0; lane < kLanes; ++lane) {
        const double scale = first.scales[set * kLanes + lane];
        double loss = .5;
        for (size_t j = 0; j < columns; ++j) {
          const auto at = [&](size_t column) { return (set * columns + column) * kLanes + lane; };
          double target = before.work[at(j)];
          double size = std::fabs(target);
          for (size_t i = 0; i < j; ++i) {
            const double fed = static_cast<double>(first.work[at(i)]) * before.matrix[i * before.stride + j];
            target += fed;
            size += std::fabs(fed);
          }
          const double level = first.level(first.ranks[at(j)]), x = target / scale;
          const double rounding = kSums * (size + std::fabs(scale * level));
          ASSERT_LE(std::fabs(x - level), first.distance(x) + rounding / std::fabs(scale));
          const double error = (scale * level - target) * before.inverse_diagonal[j];
          ASSERT_NEAR(first.work[at(j)], error, rounding * std::fabs(before.inverse_diagonal[j]));
          loss += error * error;
        }
        ASSERT_NEAR(first.losses[set * kLanes + lane], loss, 1e-5 * loss);
      }
    for (const KernelTable* table : runnable_tables()) {
      SCOPED_TRACE(table->name);
      Columns other = before;
      table->calibrate.feed_columns(other.args(), other.losses.data());
      other.clean_ranks();
      ASSERT_EQ(other.ranks, first.ranks);
      ASSERT_EQ(other.work, first.work);
      ASSERT_EQ(other.losses, first.losses);
    }
  });
}

TEST(CalibrateKernels, MoveColumnsEverywhereAsInDouble) {
  for_shapes([](int32_t steps, size_t columns, size_t sets) {
    const Columns before(steps, columns, sets, true);
    Columns first = before;
    runnable_tables()[0]->calibrate.move_columns(first.args());
    first.clean_ranks();
    for (size_t set = 0; set < sets; ++set)
      for (size_t lane = 0; lane < kLanes; ++lane) {
        const double scale = first.scales[set * kLanes + lane];
        for (size_t j = 0; j < columns; ++j) {
          const auto at = [&](size_t column) { return (set * columns + column) * kLanes + lane; };
          double gradient = before.work[at(j)];
          double size = std::fabs(gradient);
          for (size_t i = 0; i < j; ++i) {
            const double fed = static_cast<double>(first.work[at(i)]) * before.matrix[i * before.stride + j];
            gradient += fed;
            size += std::fabs(fed);
          }
          const double coded = scale * before.level(before.ranks[at(j)]);
          const double x = (coded - gradient * before.inverse_diagonal[j]) / scale;
          const double level = first.level(first.ranks[at(j)]);
          const double rounding = kSums * (size * std::fabs(before.inverse_diagonal[j]) + std::fabs(coded) +
                                           std::fabs(scale * level));
          ASSERT_LE(std::fabs(x - level), first.distance(x) + rounding / std::fabs(scale));
          ASSERT_NEAR(first.work[at(j)], scale * level - coded, rounding);
        }
      }
    for (const KernelTable* table : runnable_tables()) {
      SCOPED_TRACE(table->name);
      Columns other = before;
      table->calibrate.move_columns(other.args());
      other.clean_ranks();
      ASSERT_EQ(other.ranks, first.ranks);
      ASSERT_EQ(other.work, first.work);
    }
  });
}

struct LossCase {
  int32_t steps;
  size_t levels, columns;
  bool minima;
};

void check_losses(const LossCase& one) {
  const CodeTable table = uneven_code(one.levels);
  const size_t rows = 3, stride = one.columns + 2, cells = 48;
  const std::vector<float> values = gaussian(rows * stride, 4, one.steps == 0 ? 1 : 9);
  const std::vector<float> weights = gaussian(one.columns, 5);
  const std::vector<float> inverses = gaussian(rows * cells, 6), minima = gaussian(rows * cells, 7);
  const std::vector<int32_t> counts = {1, 33, 20};
  std::vector<float> first;
  for (const KernelTable* target : runnable_tables()) {
    SCOPED_TRACE(target->name);
    std::vector<float> losses(rows * cells, .25f);
    target->calibrate.scale_losses({.table = &table,
                                    .steps = one.steps,
                                    .values = values.data(),
                                    .weights = weights.data(),
                                    .inverses = inverses.data(),
                                    .minima = one.minima ? minima.data() : nullptr,
                                    .losses = losses.data(),
                                    .counts = counts.data(),
                                    .rows = static_cast<int64_t>(rows),
                                    .columns = static_cast<int64_t>(one.columns),
                                    .value_stride = static_cast<int64_t>(stride),
                                    .candidate_stride = static_cast<int64_t>(cells)});
    if (first.empty()) first = losses;
    ASSERT_EQ(losses, first);
    for (size_t row = 0; row < rows; ++row)
      for (size_t i = 0; i < static_cast<size_t>(counts[row]); ++i) {
        const size_t place = row * cells + i;
        double loss = .25;
        for (size_t j = 0; j < one.columns; ++j) {
          const double value =
              static_cast<double>(values[row * stride + j]) + (one.minima ? minima[place] : 0);
          loss += std::pow(distance_to_nearest(table, one.steps, value * inverses[place]) * weights[j], 2);
        }
        ASSERT_NEAR(losses[place], loss, 1e-5 * loss);
      }
  }
}

TEST(CalibrateKernels, ScaleLossesEverywhereAsInDouble) {
  for (const size_t columns : {1u, 5u, 64u})
    for (const bool minima : {false, true}) {
      for (const size_t levels : {16u, 7u}) check_losses({0, levels, columns, minima});
      for (const int32_t steps : {15, 31, 63}) check_losses({steps, 16, columns, minima});
    }
}

}  // namespace
}  // namespace nfloat::kernels
