// SPDX-License-Identifier: Apache-2.0
// No containers: compiled for AVX2, as the targets.
#include <immintrin.h>

#include "kernels/gemm.h"

// Sums of four products of unsigned and signed bytes, exact, added to 32 bits.
static inline __m256i emulated_dpbusd(__m256i sum, __m256i unsigned_bytes, __m256i signed_bytes) noexcept {
  const __m256i low_byte = _mm256_set1_epi16(255);
  const __m256i even = _mm256_madd_epi16(_mm256_and_si256(unsigned_bytes, low_byte),
                                         _mm256_srai_epi16(_mm256_slli_epi16(signed_bytes, 8), 8));
  const __m256i odd =
      _mm256_madd_epi16(_mm256_srli_epi16(unsigned_bytes, 8), _mm256_srai_epi16(signed_bytes, 8));
  return _mm256_add_epi32(sum, _mm256_add_epi32(even, odd));
}
#define _mm256_dpbusd_avx_epi32 emulated_dpbusd
#define __AVXVNNI__ 1

#define NFLOAT_TARGET_NAMESPACE emulated_avxvnni
#include "kernels/gemm-inl.h"

namespace nfloat::kernels {

extern const GemmKernels kEmulatedAvxVnni;
const GemmKernels kEmulatedAvxVnni = emulated_avxvnni::kGemmKernels;

}  // namespace nfloat::kernels
