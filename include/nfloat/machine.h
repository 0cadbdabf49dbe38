// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_MACHINE_H_
#define NFLOAT_MACHINE_H_

#include <cstddef>
#include <cstdint>
#include <string>

#include "nfloat/api.h"

// Measured limits of this machine, with which the rates of kernels are compared.
namespace nfloat {

struct MachineOptions {
  int threads = 0;                      // 0: the default (nfloat/threads.h)
  uint64_t memory = uint64_t{1} << 30;  // bytes passed over; at least 16 MiB, should exceed every cache
};

// Rates are in units of 10^9 bytes or operations a second (a multiply-add is two operations). Each figure
// is the median of several passes of all threads together; 0: this processor lacks the instruction.
struct MachineLimits {
  int threads = 1;
  uint64_t memory = 0;        // bytes passed over, aligned for huge pages where the system gives them
  double read = 0;            // GB/s out of memory
  double write = 0;           // GB/s into memory, with stores past the caches where there are any
  double copy = 0;            // GB/s copied: each byte is read once and written once, past the caches
  double cached_read = 0;     // GB/s out of 512 KiB a thread
  double fma_f32 = 0;         // GFLOP/s, float32 multiply-add
  double dot_bf16 = 0;        // GFLOP/s, pairs of bf16 into float32 (vdpbf16ps, bfmmla)
  double dot_int8 = 0;        // GOP/s, quadruples of bytes into int32 (vpdpbusd, sdot)
  double tile_bf16 = 0;       // GFLOP/s, AMX
  double tile_int8 = 0;       // GOP/s, AMX
  double region_seconds = 0;  // one empty parallel loop of `threads` threads
};

// Takes two to four seconds and options.memory bytes. Throws kInvalidArgument (less than 16 MiB) or
// kOutOfMemory.
NFLOAT_API MachineLimits measure_machine(const MachineOptions& options = {});

// "Intel(R) Xeon(R) ...", or the architecture's name where the processor has no name.
NFLOAT_API std::string machine_processor();

}  // namespace nfloat

#endif  // NFLOAT_MACHINE_H_
