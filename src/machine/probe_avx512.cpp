// SPDX-License-Identifier: Apache-2.0
// Each function uses one extension alone: machine.cpp takes those that the processor has.
#include "machine/memory-inl.h"

namespace nfloat::machine {
namespace {

double fma_f32(int64_t rounds) noexcept {
  const __m512 factor = _mm512_set1_ps(1.0f), term = _mm512_set1_ps(0.5f);
  run_chains(rounds, term, [&](__m512 x) { return _mm512_fmadd_ps(x, factor, term); });
  return static_cast<double>(rounds) * kChains * 16 * 2;
}

double dot_bf16(int64_t rounds) noexcept {
  const __m512i bits = _mm512_set1_epi16(0x3f80);
  const __m512bh ones = reinterpret_cast<const __m512bh&>(bits);
  run_chains(rounds, _mm512_setzero_ps(), [&](__m512 x) { return _mm512_dpbf16_ps(x, ones, ones); });
  return static_cast<double>(rounds) * kChains * 16 * 2 * 2;
}

double dot_int8(int64_t rounds) noexcept {
  const __m512i bytes = _mm512_set1_epi8(1);
  run_chains(rounds, bytes, [&](__m512i x) { return _mm512_dpbusd_epi32(x, bytes, bytes); });
  return static_cast<double>(rounds) * kChains * 16 * 4 * 2;
}

}  // namespace

const Probes kAvx512Probes = {
    .memory = kMemory, .fma_f32 = fma_f32, .dot_bf16 = dot_bf16, .dot_int8 = dot_int8};

}  // namespace nfloat::machine
