// SPDX-License-Identifier: Apache-2.0
#include "machine/memory-inl.h"

namespace nfloat::machine {
namespace {

typedef float Four __attribute__((vector_size(16)));

// Two instructions where the baseline has no fused one: what its kernels can do, too.
double multiply_add(int64_t rounds) noexcept {
  const Four factor = {1.0f, 1.0f, 1.0f, 1.0f}, term = {0.5f, 0.5f, 0.5f, 0.5f};
  run_chains(rounds, term, [&](const Four& x) { return x * factor + term; });
  return static_cast<double>(rounds) * kChains * 4 * 2;
}

}  // namespace

const Probes kPortableProbes = {
    .memory = kMemory, .fma_f32 = multiply_add, .dot_bf16 = nullptr, .dot_int8 = nullptr};

}  // namespace nfloat::machine
