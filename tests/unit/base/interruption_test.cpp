// SPDX-License-Identifier: Apache-2.0
#include "base/interruption.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#include "base/parallel.h"
#include "nfloat/error.h"

namespace nfloat {
namespace {

template <typename Work>
bool ends(const Work& work) {
  try {
    work();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInterrupted);
    return true;
  }
  return false;
}

TEST(Interruption, LoopsThatCanBeEndedVisitEveryIndexOnceOnGrainBorders) {
  const std::atomic<bool> stop = false;
  const Interruptible ending(stop);
  for (const int64_t count : {0, 1, 65, 1000, 4097}) {
    for (const int64_t grain : {1, 2, 64, 5000}) {
      for (const int threads : {1, 2, 7}) {
        std::vector<std::atomic<int>> visits(static_cast<size_t>(count));
        parallel_for(count, grain, threads, [&](int64_t begin, int64_t end) {
          EXPECT_EQ(begin % grain, 0);
          EXPECT_TRUE(end % grain == 0 || end == count);
          // Long enough that pieces grow, and shrink again.
          if (begin == 0) std::this_thread::sleep_for(std::chrono::milliseconds(count == 4097 ? 25 : 0));
          for (int64_t i = begin; i < end; ++i) ++visits[static_cast<size_t>(i)];
        });
        for (const auto& visit : visits) EXPECT_EQ(visit, 1);
      }
    }
  }
}

TEST(Interruption, ALoopEndsWithThePiecesAtWork) {
  for (const int threads : {1, 2}) {
    std::atomic<bool> stop = false;
    std::atomic<int64_t> visits = 0, after = 0;
    const Interruptible ending(stop);
    EXPECT_TRUE(ends([&] {
      parallel_for(int64_t{1} << 40, 1, threads, [&](int64_t begin, int64_t end) {
        if (stop) ++after;
        visits += end - begin;
        if (visits > 100) stop = true;
      });
    }));
    EXPECT_LE(after, threads);  // a thread may have looked just before
    EXPECT_GT(visits, 100);
    // Nothing begins any more.
    visits = 0;
    EXPECT_TRUE(ends([&] { parallel_for(8, 1, threads, [&](int64_t, int64_t) { ++visits; }); }));
    EXPECT_EQ(visits, 0);
    stop = false;
    EXPECT_FALSE(ends([&] { parallel_for(8, 1, threads, [&](int64_t b, int64_t e) { visits += e - b; }); }));
    EXPECT_EQ(visits, 8);
  }
}

TEST(Interruption, BodiesAreDoneWithTheirInnerLoops) {
  std::atomic<bool> stop = false;
  std::atomic<int64_t> inner = 0;
  const Interruptible ending(stop);
  EXPECT_TRUE(ends([&] {
    parallel_for(1, 1, 1, [&](int64_t, int64_t) {
      stop = true;
      EXPECT_EQ(interruption(), nullptr);
      parallel_for(5, 1, 2, [&](int64_t begin, int64_t end) { inner += end - begin; });
      end_if_interrupted();
    });
  }));
  EXPECT_EQ(inner, 5);
}

TEST(Interruption, TheInnerOneCountsAndOnlyInItsThread) {
  const std::atomic<bool> yes = true, no = false;
  EXPECT_EQ(interruption(), nullptr);
  {
    const Interruptible outer(yes);
    EXPECT_TRUE(ends(end_if_interrupted));
    {
      const Interruptible within(no);
      EXPECT_FALSE(ends(end_if_interrupted));
    }
    {
      const Uninterrupted within;
      EXPECT_FALSE(ends(end_if_interrupted));
    }
    EXPECT_TRUE(ends(end_if_interrupted));
    std::thread([] { EXPECT_EQ(interruption(), nullptr); }).join();
    Looks looks;
    EXPECT_TRUE(ends([&] {
      for (int i = 0; i < 1024; ++i) looks.step();
    }));
  }
  EXPECT_FALSE(ends(end_if_interrupted));
}

}  // namespace
}  // namespace nfloat
