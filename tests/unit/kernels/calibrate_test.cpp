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

struct Columns {
  CodeTable table = uneven_code(16);
  size_t columns, sets, stride;
  std::vector<float> work, scales, inverses, matrix, inverse_diagonal, losses;
  std::vector<int32_t> ranks;

  Columns(size_t width, size_t set_count, bool symmetric)
      : columns(width), sets(set_count), stride(width + 3) {
    work = gaussian(sets * columns * kLanes, 1);
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
    for (size_t i = 0; i < ranks.size(); ++i) ranks[i] = static_cast<int32_t>(i * 5 % 16);
  }
  ColumnsArgs args() {
    return {.table = &table,
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
    for (int32_t& rank : ranks) rank &= 15;
  }
};

template <typename Body>
void for_shapes(const Body& body) {
  for (const size_t columns : {1u, 2u, 3u, 16u, 33u, 64u})
    for (const size_t sets : {1u, 2u, 3u, 5u}) {
      SCOPED_TRACE(testing::Message() << columns << " columns, " << sets << " sets");
      body(columns, sets);
    }
}

TEST(CalibrateKernels, FeedColumnsEverywhereAsInDouble) {
  for_shapes([](size_t columns, size_t sets) {
    const Columns before(columns, sets, false);
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
          for (size_t i = 0; i < j; ++i)
            target += static_cast<double>(first.work[at(i)]) * before.matrix[i * before.stride + j];
          const double level = level_of(first.table, first.ranks[at(j)]), x = target / scale;
          ASSERT_LE(std::fabs(x - level), distance_to_nearest(first.table, x) + 1e-5);
          const double error = (scale * level - target) * before.inverse_diagonal[j];
          ASSERT_NEAR(first.work[at(j)], error, 1e-5);
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
  for_shapes([](size_t columns, size_t sets) {
    const Columns before(columns, sets, true);
    Columns first = before;
    runnable_tables()[0]->calibrate.move_columns(first.args());
    first.clean_ranks();
    for (size_t set = 0; set < sets; ++set)
      for (size_t lane = 0; lane < kLanes; ++lane) {
        const double scale = first.scales[set * kLanes + lane];
        for (size_t j = 0; j < columns; ++j) {
          const auto at = [&](size_t column) { return (set * columns + column) * kLanes + lane; };
          double gradient = before.work[at(j)];
          for (size_t i = 0; i < j; ++i)
            gradient += static_cast<double>(first.work[at(i)]) * before.matrix[i * before.stride + j];
          const double coded = scale * level_of(first.table, before.ranks[at(j)]);
          const double x = (coded - gradient * before.inverse_diagonal[j]) / scale;
          const double level = level_of(first.table, first.ranks[at(j)]);
          ASSERT_LE(std::fabs(x - level), distance_to_nearest(first.table, x) + 1e-5);
          ASSERT_NEAR(first.work[at(j)], scale * level - coded, 1e-5);
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

TEST(CalibrateKernels, ScaleLossesEverywhereAsInDouble) {
  for (const size_t levels : {16u, 7u})
    for (const size_t columns : {1u, 5u, 64u}) {
      const CodeTable table = uneven_code(levels);
      const size_t rows = 3, stride = columns + 2, cells = 48;
      const std::vector<float> values = gaussian(rows * stride, 4), weights = gaussian(columns, 5);
      const std::vector<float> inverses = gaussian(rows * cells, 6);
      const std::vector<int32_t> counts = {1, 33, 20};
      std::vector<float> first;
      for (const KernelTable* target : runnable_tables()) {
        SCOPED_TRACE(target->name);
        std::vector<float> losses(rows * cells, .25f);
        target->calibrate.scale_losses({.table = &table,
                                        .values = values.data(),
                                        .weights = weights.data(),
                                        .inverses = inverses.data(),
                                        .losses = losses.data(),
                                        .counts = counts.data(),
                                        .rows = static_cast<int64_t>(rows),
                                        .columns = static_cast<int64_t>(columns),
                                        .value_stride = static_cast<int64_t>(stride),
                                        .candidate_stride = static_cast<int64_t>(cells)});
        if (first.empty()) first = losses;
        ASSERT_EQ(losses, first);
        for (size_t row = 0; row < rows; ++row)
          for (size_t i = 0; i < static_cast<size_t>(counts[row]); ++i) {
            double loss = .25;
            for (size_t j = 0; j < columns; ++j)
              loss += std::pow(distance_to_nearest(table, static_cast<double>(values[row * stride + j]) *
                                                              inverses[row * cells + i]) *
                                   weights[j],
                               2);
            ASSERT_NEAR(losses[row * cells + i], loss, 1e-5 * loss);
          }
      }
    }
}

}  // namespace
}  // namespace nfloat::kernels
