// SPDX-License-Identifier: Apache-2.0
#include "machine/memory-inl.h"

namespace nfloat::machine {
namespace {

double fma_f32(int64_t rounds) noexcept {
  const __m256 factor = _mm256_set1_ps(1.0f), term = _mm256_set1_ps(0.5f);
  run_chains(rounds, term, [&](__m256 x) { return _mm256_fmadd_ps(x, factor, term); });
  return static_cast<double>(rounds) * kChains * 8 * 2;
}

}  // namespace

const Probes kAvx2Probes = {.memory = kMemory, .fma_f32 = fma_f32, .dot_bf16 = nullptr, .dot_int8 = nullptr};

}  // namespace nfloat::machine
