// SPDX-License-Identifier: Apache-2.0
#include "base/parallel.h"

#include <gtest/gtest.h>

#include <atomic>
#include <vector>

namespace nfloat {
namespace {

TEST(Parallel, VisitsEveryIndexOnceOnGrainBorders) {
  for (int64_t count : {0, 1, 2, 63, 64, 65, 1000, 4097}) {
    for (int64_t grain : {1, 2, 64, 5000}) {
      for (int threads : {1, 2, 3, 7}) {
        std::vector<std::atomic<int>> visits(static_cast<size_t>(count));
        parallel_for(count, grain, threads, [&](int64_t begin, int64_t end) {
          EXPECT_EQ(begin % grain, 0);
          EXPECT_TRUE(end % grain == 0 || end == count);
          for (int64_t i = begin; i < end; ++i) ++visits[static_cast<size_t>(i)];
        });
        for (const auto& visit : visits) EXPECT_EQ(visit, 1);
      }
    }
  }
}

}  // namespace
}  // namespace nfloat
