// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_MACHINE_PROBES_H_
#define NFLOAT_MACHINE_PROBES_H_

#include <cstddef>
#include <cstdint>

// The loops that are timed, one thread's share each. probe_*.cpp are compiled for one instruction set each
// and hold nothing but these loops; machine.cpp chooses. Bytes are multiples of 4096, pointers of 64.
namespace nfloat::machine {

struct MemoryProbes {
  uint64_t (*read)(const void* from, size_t bytes) noexcept;  // the result keeps the loads alive
  void (*write)(void* to, size_t bytes) noexcept;
  void (*copy)(void* to, const void* from, size_t bytes) noexcept;
};

// Runs `rounds` of a loop of independent operations in registers; returns how many operations that were.
using ComputeProbe = double (*)(int64_t rounds) noexcept;

// Null where the build has no such instruction.
struct Probes {
  MemoryProbes memory;
  ComputeProbe fma_f32;
  ComputeProbe dot_bf16;
  ComputeProbe dot_int8;
};

extern const Probes kPortableProbes;
#if defined(__x86_64__)
extern const Probes kAvx2Probes;
extern const Probes kAvx512Probes;
double avx_vnni_int8(int64_t rounds) noexcept;
double amx_int8(int64_t rounds) noexcept;
double amx_bf16(int64_t rounds) noexcept;
#elif defined(__aarch64__)
double neon_int8(int64_t rounds) noexcept;
double neon_bf16(int64_t rounds) noexcept;
#endif

}  // namespace nfloat::machine

#endif  // NFLOAT_MACHINE_PROBES_H_
