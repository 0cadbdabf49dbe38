// SPDX-License-Identifier: Apache-2.0
#include "tensor/orthonormal.h"

#include <gtest/gtest.h>

#include <cmath>

namespace nfloat {
namespace {

TEST(OrthonormalizeRows, KeepsTheSpaceAndZerosWhatDepends) {
  constexpr int64_t kWidth = 5;
  std::vector<double> rows = {3, 0, 4, 0, 0,  //
                              6, 0, 8, 0, 0,  // twice the first
                              1, 2, 0, 1, 0,  //
                              0, 0, 0, 0, 0,  //
                              4, 2, 4, 1, 0,  // the first and the third
                              1, 1, 1, 1, 1};
  EXPECT_EQ(orthonormalize_rows(rows, kWidth), (std::vector<int64_t>{0, 2, 5}));
  EXPECT_DOUBLE_EQ(rows[0], .6);
  EXPECT_DOUBLE_EQ(rows[2], .8);
  for (int64_t i = 0; i < 6; ++i)
    for (int64_t j = 0; j < 6; ++j) {
      double sum = 0;
      for (int64_t k = 0; k < kWidth; ++k)
        sum += rows[static_cast<size_t>(i * kWidth + k)] * rows[static_cast<size_t>(j * kWidth + k)];
      EXPECT_NEAR(sum, i == j && (i == 0 || i == 2 || i == 5) ? 1 : 0, 1e-15) << i << " " << j;
    }
}

TEST(OrthonormalizeRows, NoRows) {
  std::vector<double> none;
  EXPECT_TRUE(orthonormalize_rows(none, 7).empty());
}

}  // namespace
}  // namespace nfloat
