// SPDX-License-Identifier: Apache-2.0
#include "nfloat/machine.h"

#include <gtest/gtest.h>

#include "base/cpu_features.h"
#include "nfloat/error.h"

namespace {

// Bounds that hold on an emulated processor under a sanitizer and on any that is yet to come.
TEST(Machine, FiguresArePossible) {
  nfloat::MachineOptions options;
  options.threads = 2;
  options.memory = uint64_t{32} << 20;
  const nfloat::MachineLimits limits = nfloat::measure_machine(options);
  EXPECT_EQ(limits.threads, 2);
  EXPECT_EQ(limits.memory, uint64_t{32} << 20);
  for (const double rate : {limits.read, limits.write, limits.copy, limits.cached_read, limits.fma_f32}) {
    EXPECT_GT(rate, 0.01);
    EXPECT_LT(rate, 1e5);
  }
  EXPECT_GT(limits.region_seconds, 1e-9);
  EXPECT_LT(limits.region_seconds, 0.1);
  const nfloat::CpuFeatures& cpu = nfloat::cpu_features();
  EXPECT_EQ(limits.dot_int8 > 0, cpu.avx512_vnni || cpu.avx_vnni || cpu.neon_dotprod);
  EXPECT_EQ(limits.dot_bf16 > 0, cpu.avx512_bf16 || cpu.neon_bf16);
}

TEST(Machine, TooLittleMemoryIsRefused) {
  nfloat::MachineOptions options;
  options.memory = 1 << 20;
  EXPECT_THROW(nfloat::measure_machine(options), nfloat::Error);
}

TEST(Machine, NamesItsProcessor) {
  EXPECT_FALSE(nfloat::machine_processor().empty());
}

}  // namespace
