// SPDX-License-Identifier: Apache-2.0
#include "bench/bandwidth.h"

#include <cstdint>
#include <cstring>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "base/parallel.h"

namespace nfloat::bench {
namespace {

typedef int64_t Line __attribute__((vector_size(64)));
constexpr int64_t kPage = 4096;

void stream_line(char* to, const Line& line) {
#if defined(__AVX512F__)
  _mm512_stream_si512(reinterpret_cast<__m512i*>(to), reinterpret_cast<const __m512i&>(line));
#elif defined(__x86_64__)
  __m128i parts[4];
  std::memcpy(parts, &line, sizeof parts);
  for (int i = 0; i < 4; ++i) _mm_stream_si128(reinterpret_cast<__m128i*>(to) + i, parts[i]);
#else
  std::memcpy(to, &line, sizeof line);
#endif
}

}  // namespace

double read_pass(const void* data, size_t bytes, int threads) {
  const char* from = static_cast<const char*>(data);
  int64_t total = 0;
  parallel_for(static_cast<int64_t>(bytes), kPage, threads, [&](int64_t begin, int64_t end) {
    Line sums[4] = {};
    for (int64_t i = begin; i < end; i += 256) {
      for (int k = 0; k < 4; ++k) {
        Line line;
        std::memcpy(&line, from + i + 64 * k, sizeof line);
        sums[k] ^= line;
      }
    }
    const Line all = (sums[0] ^ sums[1]) ^ (sums[2] ^ sums[3]);
    __atomic_fetch_add(&total, all[0] ^ all[1] ^ all[2] ^ all[3] ^ all[4] ^ all[5] ^ all[6] ^ all[7],
                       __ATOMIC_RELAXED);
  });
  return static_cast<double>(total);
}

void stream_pass(void* data, size_t bytes, int threads) {
  char* to = static_cast<char*>(data);
  parallel_for(static_cast<int64_t>(bytes), kPage, threads, [&](int64_t begin, int64_t end) {
    const Line line = {1, 2, 3, 4, 5, 6, 7, 8};
    for (int64_t i = begin; i < end; i += 64) stream_line(to + i, line);
#if defined(__x86_64__)
    _mm_sfence();
#endif
  });
}

}  // namespace nfloat::bench
