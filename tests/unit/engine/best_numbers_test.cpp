// SPDX-License-Identifier: Apache-2.0
#include "engine/ranks/best_numbers.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <utility>

namespace nfloat {
namespace {

using Pair = std::pair<float, int32_t>;

std::vector<Pair> pairs_of(std::span<const BestNumber> list) {
  std::vector<Pair> pairs;
  for (const BestNumber& one : list) pairs.push_back({one.value, one.place});
  std::sort(pairs.begin(), pairs.end());
  return pairs;
}

// All numbers sorted, without a shortcut.
std::vector<Pair> expected_of(std::span<const float> row, size_t count) {
  std::vector<Pair> all;
  for (size_t i = 0; i < row.size(); ++i)
    if (!std::isnan(row[i])) all.push_back({row[i], static_cast<int32_t>(i)});
  std::stable_sort(all.begin(), all.end(), [](const Pair& a, const Pair& b) { return a.first > b.first; });
  count = std::min(count, row.size());
  all.resize(std::min(count, all.size()));
  while (all.size() < count) all.push_back({0, -1});
  std::sort(all.begin(), all.end());
  return all;
}

// Few different values, so that many are equal; infinities and NaN among them, or nothing else.
TEST(BestNumbers, AreThoseOfASortedRow) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const float nan = std::numeric_limits<float>::quiet_NaN();
  std::mt19937 random(7);
  for (const size_t size : {0u, 1u, 2u, 15u, 64u, 1000u, 5003u})
    for (const int kind : {0, 1, 2, 3, 4}) {
      std::vector<float> row(size);
      for (size_t i = 0; i < size; ++i)
        row[i] = kind == 0   ? static_cast<float>(random() % 1000003)
                 : kind == 1 ? static_cast<float>(random() % 7) - 3
                 : kind == 2 ? (random() % 3 == 0   ? nan
                                : random() % 9 == 0 ? -kInfinity
                                                    : 1.5f)
                 : kind == 3 ? static_cast<float>(i)
                             : nan;
      for (const int64_t count : {1, 2, 3, 40, 256, 6000}) {
        std::vector<BestNumber> found{{42, 42}};
        best_numbers(row, count, found);
        ASSERT_EQ(found[0].place, 42);
        EXPECT_EQ(pairs_of(std::span(found).subspan(1)), expected_of(row, static_cast<size_t>(count)))
            << count << " of " << size << ", kind " << kind;
      }
    }
}

}  // namespace
}  // namespace nfloat
