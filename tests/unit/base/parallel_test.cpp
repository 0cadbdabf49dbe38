// SPDX-License-Identifier: Apache-2.0
#include "base/parallel.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <mutex>
#include <set>
#include <thread>
#include <utility>
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

// Twelve grains in eight shares: with a larger one at the end a thread would work alone meanwhile.
TEST(Parallel, LargerSharesComeFirst) {
  for (const int64_t count : {5, 9, 12, 17, 19, 1001}) {
    for (const int threads : {2, 3}) {
      std::mutex mutex;
      std::vector<std::pair<int64_t, int64_t>> shares;  // begin, size
      parallel_for(count, 1, threads, [&](int64_t begin, int64_t end) {
        const std::lock_guard lock(mutex);
        shares.emplace_back(begin, end - begin);
      });
      std::sort(shares.begin(), shares.end());
      EXPECT_EQ(shares.size(), static_cast<size_t>(std::min<int64_t>(count, 4 * threads)));
      for (size_t i = 1; i < shares.size(); ++i) {
        EXPECT_LE(shares[i].second, shares[i - 1].second) << count << ' ' << threads;
        EXPECT_LE(shares[0].second, shares[i].second + 1) << count << ' ' << threads;
      }
    }
  }
}

// Small loops one after the other: helpers are met awake, falling asleep and asleep.
TEST(Parallel, ManyLoopsInARowLoseNothing) {
  int64_t total = 0;
  for (int round = 0; round < 20000; ++round) {
    std::atomic<int64_t> sum = 0;
    parallel_for(8, 1, 1 + round % 4, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) sum += i;
    });
    total += sum;
    if (round % 2000 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  EXPECT_EQ(total, 20000 * 28);
}

TEST(Parallel, CallersDoNotDisturbEachOtherAndInnerLoopsRunWhereTheyAre) {
  std::atomic<int64_t> visits = 0;
  std::vector<std::thread> callers;
  for (int c = 0; c < 3; ++c)
    callers.emplace_back([&visits] {
      for (int round = 0; round < 500; ++round)
        parallel_for(6, 1, 3, [&](int64_t begin, int64_t end) {
          for (int64_t i = begin; i < end; ++i)
            parallel_for(5, 1, 2, [&](int64_t first, int64_t last) { visits += last - first; });
        });
    });
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(visits, 3 * 500 * 6 * 5);
}

// The rest of a slow thread's loop goes to the other: index 0 ends when all others have.
TEST(Parallel, SharesNotBegunGoToWhoeverIsFree) {
  std::atomic<int> others = 0;
  bool all = false;
  parallel_for(8, 1, 2, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      if (i != 0) {
        ++others;
        continue;
      }
      const auto limit = std::chrono::steady_clock::now() + std::chrono::minutes(2);
      while (others != 7 && std::chrono::steady_clock::now() < limit) std::this_thread::yield();
      all = others == 7;
    }
  });
  EXPECT_TRUE(all);
}

TEST(Parallel, NoMoreThreadsThanAskedFor) {
  parallel_for(64, 1, 4, [](int64_t, int64_t) {});  // three helpers exist now
  std::set<std::thread::id> seen;
  std::mutex guard;
  for (int round = 0; round < 200; ++round)
    parallel_for(64, 1, 2, [&](int64_t, int64_t) {
      const std::lock_guard lock(guard);
      seen.insert(std::this_thread::get_id());
    });
  EXPECT_LE(seen.size(), 2U);
}

// A loop begins and ends while another thread is in the middle of its own.
TEST(Parallel, CallersDoNotWaitForEachOther) {
  std::atomic<bool> begun = false, release = false, ended = false;
  std::thread slow([&] {
    parallel_for(2, 1, 2, [&](int64_t, int64_t) {
      begun = true;
      const auto limit = std::chrono::steady_clock::now() + std::chrono::minutes(2);
      while (!release && std::chrono::steady_clock::now() < limit) std::this_thread::yield();
    });
    ended = true;
  });
  while (!begun) std::this_thread::yield();
  std::atomic<int> visits = 0;
  for (int round = 0; round < 100; ++round)
    parallel_for(8, 1, 2, [&](int64_t begin, int64_t end) { visits += static_cast<int>(end - begin); });
  EXPECT_EQ(visits, 800);
  EXPECT_FALSE(ended);
  release = true;
  slow.join();
}

// More callers at once than there are teams: those without one run their loops themselves.
TEST(Parallel, HundredCallersAtOnce) {
  constexpr int kCallers = 100;
  std::atomic<int> arrived = 0, visits = 0;
  std::vector<std::thread> callers;
  for (int c = 0; c < kCallers; ++c)
    callers.emplace_back([&] {
      parallel_for(4, 1, 2, [&](int64_t begin, int64_t end) {
        if (begin == 0) {
          ++arrived;
          const auto limit = std::chrono::steady_clock::now() + std::chrono::minutes(2);
          while (arrived < kCallers && std::chrono::steady_clock::now() < limit) std::this_thread::yield();
        }
        visits += static_cast<int>(end - begin);
      });
    });
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(arrived, kCallers);
  EXPECT_EQ(visits, kCallers * 4);
}

}  // namespace
}  // namespace nfloat
