// SPDX-License-Identifier: Apache-2.0
#include "base/parallel.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <utility>

#include "base/available_threads.h"
#include "base/interruption.h"
#include "base/worker_team.h"
#include "nfloat/threads.h"

namespace nfloat {
namespace {

// Shares a thread: when another program has one of the cores for a while, or one is slower, the others take
// over what it has not begun.
constexpr int64_t kSharesPerThread = 4;

using Clock = std::chrono::steady_clock;
// A piece of a loop that can be ended is longer than a look at the clock matters, shorter than anyone
// notices.
constexpr std::chrono::milliseconds kShortPiece{2}, kLongPiece{20};

struct Split {
  int64_t count, grain, grains;
  int64_t shares;
  void (*body)(void*, int64_t, int64_t);
  void* context;
  const std::atomic<bool>* stop;

  // The larger shares come first: what is taken last, while the other threads end, is small.
  std::pair<int64_t, int64_t> share(int64_t number) const noexcept {
    const int64_t least = grains / shares, larger = grains % shares;
    const auto first = [&](int64_t i) { return (i * least + std::min(i, larger)) * grain; };
    return {first(number), std::min(count, first(number + 1))};
  }

  void run(int64_t begin, int64_t end) const {
    if (stop == nullptr) return body(context, begin, end);
    for (int64_t piece = grain; begin < end && !stop->load(std::memory_order_relaxed);) {
      const Clock::time_point start = Clock::now();
      const int64_t next = end - begin > piece ? begin + piece : end;
      body(context, begin, next);
      begin = next;
      const Clock::duration took = Clock::now() - start;
      if (took < kShortPiece && piece < end - begin) piece *= 2;
      if (took > kLongPiece && piece > grain) piece = std::max(grain, piece / 2 / grain * grain);
    }
  }
};

}  // namespace

int thread_count(int requested) noexcept {
  return requested > 0 ? requested : default_threads();
}

void parallel_ranges(int64_t count, int64_t grain, int threads, void (*body)(void*, int64_t, int64_t),
                     void* context) {
  if (count <= 0) return;
  const std::atomic<bool>* const stop = interruption();
  const int64_t grains = (count + grain - 1) / grain;
  const int team = static_cast<int>(std::min<int64_t>({thread_count(threads), grains, kMostThreads}));
  Split split{count, grain, grains, std::min(grains, team * kSharesPerThread), body, context, stop};
  {
    const Uninterrupted bodies;
    if (team <= 1) {
      split.run(0, count);
    } else {
      run_shares(
          team, static_cast<int>(split.shares),
          [](void* shared, int share) {
            const Split& s = *static_cast<const Split*>(shared);
            const auto [begin, end] = s.share(share);
            if (begin < end) s.run(begin, end);
          },
          &split);
    }
  }
  end_if_interrupted();
}

}  // namespace nfloat
