// SPDX-License-Identifier: Apache-2.0
#include "base/parallel.h"

#include <omp.h>

#include <algorithm>

namespace nfloat {

int thread_count(int requested) noexcept {
  return requested > 0 ? requested : std::max(1, omp_get_max_threads());
}

void parallel_ranges(int64_t count, int64_t grain, int threads, void (*body)(void*, int64_t, int64_t),
                     void* context) {
  if (count <= 0) return;
  const int64_t grains = (count + grain - 1) / grain;
  const int team = static_cast<int>(std::min<int64_t>(thread_count(threads), grains));
  if (team <= 1) {
    body(context, 0, count);
    return;
  }
#pragma omp parallel num_threads(team)
  {
    // The runtime may grant fewer threads than asked for: the split follows what is there.
    const int64_t members = omp_get_num_threads();
    const int64_t member = omp_get_thread_num();
    const int64_t begin = grains * member / members * grain;
    const int64_t end = std::min(count, grains * (member + 1) / members * grain);
    if (begin < end) body(context, begin, end);
  }
}

}  // namespace nfloat
