// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_THREADS_H_
#define NFLOAT_THREADS_H_

#include "nfloat/api.h"

namespace nfloat {

// The number of threads where an option `threads` is 0: the last one that set_threads() was called with, else
// the first number of the environment variable
// OMP_NUM_THREADS, else the processors that this process may use (its affinity mask, or fewer where the
// processor quota of its control group is smaller), read once. 1 to 4096.
//
// Parallel work may be called from several threads at once: calls do not wait for each other. It works in a
// child of fork() too. Helper threads live until the process ends, at most 4096.
NFLOAT_API int default_threads() noexcept;

// For the whole process, from the next call on; models keep the number that they were loaded with. 0 or less:
// as at the start.
NFLOAT_API void set_threads(int threads) noexcept;

}  // namespace nfloat

#endif  // NFLOAT_THREADS_H_
