// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_BENCH_BANDWIDTH_H_
#define NFLOAT_BENCH_BANDWIDTH_H_

#include <cstddef>

namespace nfloat::bench {

// One pass over `bytes` (a multiple of 4096), split evenly over `threads`.
// Reads everything; the result keeps the reads alive.
double read_pass(const void* data, size_t bytes, int threads);
// Overwrites everything with stores past the caches.
void stream_pass(void* data, size_t bytes, int threads);

}  // namespace nfloat::bench

#endif  // NFLOAT_BENCH_BANDWIDTH_H_
