// SPDX-License-Identifier: Apache-2.0
#include "machine/memory-inl.h"

namespace nfloat::machine {

double avx_vnni_int8(int64_t rounds) noexcept {
  const __m256i bytes = _mm256_set1_epi8(1);
  run_chains(rounds, bytes, [&](__m256i x) { return _mm256_dpbusd_avx_epi32(x, bytes, bytes); });
  return static_cast<double>(rounds) * kChains * 8 * 4 * 2;
}

}  // namespace nfloat::machine
