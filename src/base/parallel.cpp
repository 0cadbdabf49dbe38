// SPDX-License-Identifier: Apache-2.0
#include "base/parallel.h"

#include <algorithm>

#include "base/available_threads.h"
#include "base/worker_team.h"
#include "nfloat/threads.h"

namespace nfloat {
namespace {

// Shares a thread: when another program has one of the cores for a while, or one is slower, the others take
// over what it has not begun.
constexpr int64_t kSharesPerThread = 4;

}  // namespace

int thread_count(int requested) noexcept {
  return requested > 0 ? requested : default_threads();
}

void parallel_ranges(int64_t count, int64_t grain, int threads, void (*body)(void*, int64_t, int64_t),
                     void* context) {
  if (count <= 0) return;
  const int64_t grains = (count + grain - 1) / grain;
  const int team = static_cast<int>(std::min<int64_t>({thread_count(threads), grains, kMostThreads}));
  if (team <= 1) {
    body(context, 0, count);
    return;
  }
  const int64_t shares = std::min(grains, team * kSharesPerThread);
  struct Split {
    int64_t count, grain, grains;
    int64_t shares;
    void (*body)(void*, int64_t, int64_t);
    void* context;
  } split{count, grain, grains, shares, body, context};
  run_shares(
      team, static_cast<int>(shares),
      [](void* shared, int share) {
        const Split& s = *static_cast<const Split*>(shared);
        const int64_t begin = s.grains * share / s.shares * s.grain;
        const int64_t end = std::min(s.count, s.grains * (share + 1) / s.shares * s.grain);
        if (begin < end) s.body(s.context, begin, end);
      },
      &split);
}

}  // namespace nfloat
