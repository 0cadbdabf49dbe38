// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_BASE_PARALLEL_H_
#define NFLOAT_BASE_PARALLEL_H_

#include <cstdint>
#include <type_traits>

namespace nfloat {

// Threads a loop will use: `requested` if positive, else default_threads() (nfloat/threads.h).
int thread_count(int requested) noexcept;

// Calls body(context, begin, end) from at most `threads` threads for even, contiguous shares of [0, count), a
// few for each thread, shares being multiples of `grain` (except the last). The same split for the same
// arguments. `body` must not throw. Where something can end the thread's work (base/interruption.h) the
// shares come in pieces of some milliseconds, multiples of `grain` too; throws kInterrupted, bodies done or
// not begun.
void parallel_ranges(int64_t count, int64_t grain, int threads, void (*body)(void*, int64_t, int64_t),
                     void* context);

// The same for a callable body(begin, end).
template <typename Body>
void parallel_for(int64_t count, int64_t grain, int threads, Body&& body) {
  parallel_ranges(
      count, grain, threads,
      [](void* context, int64_t begin, int64_t end) {
        (*static_cast<std::remove_reference_t<Body>*>(context))(begin, end);
      },
      const_cast<void*>(static_cast<const void*>(&body)));
}

}  // namespace nfloat

#endif  // NFLOAT_BASE_PARALLEL_H_
