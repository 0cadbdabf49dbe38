// SPDX-License-Identifier: Apache-2.0
// Passes over memory. Compiled once per instruction set.
#include <cstring>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "machine/probes.h"

namespace nfloat::machine {
namespace {

// The widest register: wider vectors GCC takes apart word by word.
#if defined(__AVX512F__)
inline constexpr size_t kVectorBytes = 64;
#elif defined(__AVX__)
inline constexpr size_t kVectorBytes = 32;
#else
inline constexpr size_t kVectorBytes = 16;
#endif
typedef uint64_t Vector __attribute__((vector_size(kVectorBytes)));
inline constexpr size_t kVectors = 8;  // side by side; they stay in registers
inline constexpr size_t kStepBytes = kVectors * kVectorBytes;
static_assert(4096 % kStepBytes == 0);

// Not by value: without the wide registers that would be another calling convention.
inline void load_vector(const char* from, Vector* vector) noexcept {
  std::memcpy(vector, __builtin_assume_aligned(from, kVectorBytes), sizeof *vector);
}

inline void stream_vector(char* to, const Vector& vector) noexcept {
#if defined(__AVX512F__)
  _mm512_stream_si512(reinterpret_cast<__m512i*>(to), reinterpret_cast<const __m512i&>(vector));
#elif defined(__AVX__)
  _mm256_stream_si256(reinterpret_cast<__m256i*>(to), reinterpret_cast<const __m256i&>(vector));
#elif defined(__x86_64__)
  _mm_stream_si128(reinterpret_cast<__m128i*>(to), reinterpret_cast<const __m128i&>(vector));
#else
  std::memcpy(__builtin_assume_aligned(to, kVectorBytes), &vector, sizeof vector);
#endif
}

inline void finish_streams() noexcept {
#if defined(__x86_64__)
  _mm_sfence();
#endif
}

uint64_t read_memory(const void* from, size_t bytes) noexcept {
  const char* at = static_cast<const char*>(from);
  Vector sums[kVectors] = {};
  for (size_t i = 0; i < bytes; i += kStepBytes) {
    for (size_t k = 0; k < kVectors; ++k) {
      Vector vector;
      load_vector(at + i + kVectorBytes * k, &vector);
      sums[k] ^= vector;
    }
  }
  Vector all = sums[0];
  for (size_t k = 1; k < kVectors; ++k) all ^= sums[k];
  uint64_t result = 0;
  for (size_t k = 0; k < kVectorBytes / sizeof result; ++k) result ^= all[k];
  return result;
}

void write_memory(void* to, size_t bytes) noexcept {
  char* at = static_cast<char*>(to);
  Vector vector = {};
  for (size_t k = 0; k < kVectorBytes / sizeof(uint64_t); ++k) vector[k] = k + 1;
  for (size_t i = 0; i < bytes; i += kStepBytes) {
    for (size_t k = 0; k < kVectors; ++k) stream_vector(at + i + kVectorBytes * k, vector);
  }
  finish_streams();
}

void copy_memory(void* to, const void* from, size_t bytes) noexcept {
  char* at = static_cast<char*>(to);
  const char* source = static_cast<const char*>(from);
  for (size_t i = 0; i < bytes; i += kStepBytes) {
    Vector vectors[kVectors];
    for (size_t k = 0; k < kVectors; ++k) load_vector(source + i + kVectorBytes * k, &vectors[k]);
    for (size_t k = 0; k < kVectors; ++k) stream_vector(at + i + kVectorBytes * k, vectors[k]);
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
