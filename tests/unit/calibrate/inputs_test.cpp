// SPDX-License-Identifier: Apache-2.0
#include "calibrate/inputs.h"

#include <gtest/gtest.h>

#include <random>

namespace nfloat {
namespace {

// Asked for in between and at the end, over several portions of rows and widths beside those of the tiles.
TEST(ProductSums, AreWholeAndTheSameForAnyThreads) {
  constexpr int64_t kRows = 2100;
  for (const int64_t width : {1, 31, 33, 100}) {
    std::mt19937 generator(5);
    std::normal_distribution<float> normal;
    std::vector<float> x(static_cast<size_t>(2 * kRows * width));
    for (float& value : x) value = normal(generator);
    const ActivationRows first{x.data(), width, kRows, width},
        second{x.data() + kRows * width, width, kRows, width};
    ProductSums one(1), three(3);
    for (ProductSums* sums : {&one, &three}) {
      sums->add(first);
      sums->sums();
      sums->add(second);
    }
    ASSERT_EQ(one.sums(), three.sums()) << width;
    const std::vector<float> sums = one.sums(), mean = one.mean();
    EXPECT_EQ(three.take_mean(), mean);
    EXPECT_EQ(three.rows(), 2 * kRows);
    for (int64_t i = 0; i < width; ++i)
      for (int64_t j = 0; j < width; ++j) {
        double expected = 0;
        for (int64_t row = 0; row < 2 * kRows; ++row)
          expected += static_cast<double>(x[static_cast<size_t>(row * width + i)]) *
                      static_cast<double>(x[static_cast<size_t>(row * width + j)]);
        const auto at = static_cast<size_t>(i * width + j);
        // Seventeen steps of 256 products and three portions are added in float32: each rounds by at most
        // 2^-24 of a sum of at most 4,200 squares.
        ASSERT_NEAR(static_cast<double>(sums[at]), expected, 20 * 0x1p-24 * 4200 * 1.2)
            << width << " " << i << " " << j;
        ASSERT_EQ(sums[at], sums[static_cast<size_t>(j * width + i)]);
        ASSERT_EQ(mean[at], sums[at] / static_cast<float>(2 * kRows));
      }
  }
}

}  // namespace
}  // namespace nfloat
