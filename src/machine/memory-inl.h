// SPDX-License-Identifier: Apache-2.0
// Passes over memory. Compiled once per instruction set.
#include <cstring>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "machine/probes.h"

namespace nfloat::machine {
namespace {

// A cache line; the compiler makes as many registers of it as it takes.
typedef uint64_t Line __attribute__((vector_size(64)));

// Not by value: without AVX-512 that would be another calling convention.
inline void load_line(const char* from, Line* line) noexcept {
  std::memcpy(line, __builtin_assume_aligned(from, 64), sizeof *line);
}

inline void stream_line(char* to, const Line& line) noexcept {
#if defined(__AVX512F__)
  _mm512_stream_si512(reinterpret_cast<__m512i*>(to), reinterpret_cast<const __m512i&>(line));
#elif defined(__AVX__)
  __m256i parts[2];
  std::memcpy(parts, &line, sizeof parts);
  for (int i = 0; i < 2; ++i) _mm256_stream_si256(reinterpret_cast<__m256i*>(to) + i, parts[i]);
#elif defined(__x86_64__)
  __m128i parts[4];
  std::memcpy(parts, &line, sizeof parts);
  for (int i = 0; i < 4; ++i) _mm_stream_si128(reinterpret_cast<__m128i*>(to) + i, parts[i]);
#else
  std::memcpy(__builtin_assume_aligned(to, 64), &line, sizeof line);
#endif
}

inline void finish_streams() noexcept {
#if defined(__x86_64__)
  _mm_sfence();
#endif
}

uint64_t read_memory(const void* from, size_t bytes) noexcept {
  const char* at = static_cast<const char*>(from);
  Line sums[8] = {};
  for (size_t i = 0; i < bytes; i += 512) {
    for (size_t k = 0; k < 8; ++k) {
      Line line;
      load_line(at + i + 64 * k, &line);
      sums[k] ^= line;
    }
  }
  Line all = sums[0];
  for (int k = 1; k < 8; ++k) all ^= sums[k];
  uint64_t result = 0;
  for (int k = 0; k < 8; ++k) result ^= all[k];
  return result;
}

void write_memory(void* to, size_t bytes) noexcept {
  char* at = static_cast<char*>(to);
  const Line line = {1, 2, 3, 4, 5, 6, 7, 8};
  for (size_t i = 0; i < bytes; i += 256) {
    for (size_t k = 0; k < 4; ++k) stream_line(at + i + 64 * k, line);
  }
  finish_streams();
}

void copy_memory(void* to, const void* from, size_t bytes) noexcept {
  char* at = static_cast<char*>(to);
  const char* source = static_cast<const char*>(from);
  for (size_t i = 0; i < bytes; i += 256) {
    Line lines[4];
    for (size_t k = 0; k < 4; ++k) load_line(source + i + 64 * k, &lines[k]);
    for (size_t k = 0; k < 4; ++k) stream_line(at + i + 64 * k, lines[k]);
  }
  finish_streams();
}

constexpr MemoryProbes kMemory = {.read = read_memory, .write = write_memory, .copy = copy_memory};

inline constexpr int kChains = 12;

// The barrier keeps the chains in registers and the loop from being folded.
#if defined(__x86_64__)
#define NFLOAT_IN_REGISTERS(a, b, c, d) __asm__ volatile("" : "+v"(a), "+v"(b), "+v"(c), "+v"(d))
#elif defined(__aarch64__)
#define NFLOAT_IN_REGISTERS(a, b, c, d) __asm__ volatile("" : "+w"(a), "+w"(b), "+w"(c), "+w"(d))
#else
#define NFLOAT_IN_REGISTERS(a, b, c, d) __asm__ volatile("" ::: "memory")
#endif

// Rounds of step(accumulator) on kChains registers, enough to hide the latency of any of these instructions.
// One variable each: GCC keeps an array of them in memory.
template <typename Register, typename Step>
inline void run_chains(int64_t rounds, Register start, Step step) noexcept {
  Register a = start, b = start, c = start, d = start, e = start, f = start;
  Register g = start, h = start, i = start, j = start, k = start, l = start;
  for (int64_t round = 0; round < rounds; ++round) {
    a = step(a), b = step(b), c = step(c), d = step(d), e = step(e), f = step(f);
    g = step(g), h = step(h), i = step(i), j = step(j), k = step(k), l = step(l);
    NFLOAT_IN_REGISTERS(a, b, c, d);
    NFLOAT_IN_REGISTERS(e, f, g, h);
    NFLOAT_IN_REGISTERS(i, j, k, l);
  }
}

}  // namespace
}  // namespace nfloat::machine
