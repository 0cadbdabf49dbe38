// SPDX-License-Identifier: Apache-2.0
// PairKernels of train.h for processors that multiply pairs of bf16 in one instruction. Compiled once per
// such target, from train-inl.h.
#if defined(__AVX512BF16__)

namespace nfloat::kernels::NFLOAT_TARGET_NAMESPACE {

inline constexpr int kPairRows = 12, kPairPanels = 2;
inline constexpr int64_t kPairColumns = 16 * kPairPanels;

template <int kRows>
static void pair_tile(const PairProductArgs& args, int64_t row) noexcept {
  __m512 sums[kRows][kPairPanels];
  NFLOAT_UNROLL
  for (int i = 0; i < kRows; ++i) NFLOAT_UNROLL
  for (int p = 0; p < kPairPanels; ++p) sums[i][p] = _mm512_setzero_ps();
  const uint32_t* a = args.a + row * args.a_row;
  const uint32_t* b = args.b;
  for (int64_t l = 0; l < args.pairs; ++l, ++a, b += kPairColumns) {
    __m512i lanes[kPairPanels];
    NFLOAT_UNROLL
    for (int p = 0; p < kPairPanels; ++p) lanes[p] = _mm512_loadu_si512(b + 16 * p);
    NFLOAT_UNROLL
    for (int i = 0; i < kRows; ++i) {
      const __m512i one = _mm512_set1_epi32(static_cast<int>(a[i * args.a_row]));
      NFLOAT_UNROLL
      for (int p = 0; p < kPairPanels; ++p)
        sums[i][p] = _mm512_dpbf16_ps(sums[i][p], reinterpret_cast<__m512bh>(one),
                                      reinterpret_cast<__m512bh>(lanes[p]));
    }
  }
  NFLOAT_UNROLL
  for (int i = 0; i < kRows; ++i) NFLOAT_UNROLL
  for (int p = 0; p < kPairPanels; ++p) {
    const int64_t left = args.n - 16 * p;
    if (left <= 0) continue;
    const __mmask16 mask = static_cast<__mmask16>(left >= 16 ? 0xffff : (1 << left) - 1);
    float* c = args.c + (row + i) * args.c_stride + 16 * p;
    const __m512 old = args.accumulate ? _mm512_maskz_loadu_ps(mask, c) : _mm512_setzero_ps();
    _mm512_mask_storeu_ps(c, mask, _mm512_add_ps(sums[i][p], old));
  }
}

template <int kRows>
static void pair_rows_of(const PairProductArgs& args, int64_t row, int64_t rows) noexcept {
  if constexpr (kRows > 1) {
    if (rows < kRows) return pair_rows_of<kRows - 1>(args, row, rows);
  }
  pair_tile<kRows>(args, row);
}

// Tiles as even as they can be.
static void pair_product(const PairProductArgs& args) noexcept {
  const int64_t tiles = (args.m + kPairRows - 1) / kPairRows;
  for (int64_t tile = 0; tile < tiles; ++tile) {
    const int64_t begin = args.m * tile / tiles, end = args.m * (tile + 1) / tiles;
    pair_rows_of<kPairRows>(args, begin, end - begin);
  }
}

static void round_row(const float* x, int64_t count, uint16_t* output) noexcept {
  int64_t i = 0;
  for (; i + 16 <= count; i += 16) {
    const __m256bh rounded = _mm512_cvtneps_pbh(_mm512_loadu_ps(x + i));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(output + i), reinterpret_cast<__m256i>(rounded));
  }
  if (i == count) return;
  const __mmask16 mask = static_cast<__mmask16>((1 << (count - i)) - 1);
  const __m256bh rounded = _mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(mask, x + i));
  _mm256_mask_storeu_epi16(output + i, mask, reinterpret_cast<__m256i>(rounded));
}

static void pair_weights(const float* rows, int64_t pairs, uint32_t* output) noexcept {
  alignas(64) static constexpr uint16_t kOrder[32] = {0,  16, 1,  17, 2,  18, 3,  19, 4,  20, 5,
                                                      21, 6,  22, 7,  23, 8,  24, 9,  25, 10, 26,
                                                      11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  const __m512i order = _mm512_load_si512(kOrder);
  for (int64_t l = 0; l < pairs; ++l, rows += 2 * kPairColumns, output += kPairColumns) {
    __m512i paired[kPairPanels];
    NFLOAT_UNROLL
    for (int p = 0; p < kPairPanels; ++p) {
      const __m512 low = _mm512_loadu_ps(rows + 16 * p), high = _mm512_loadu_ps(rows + kPairColumns + 16 * p);
      const __m512bh both = _mm512_cvtne2ps_pbh(high, low);
      paired[p] = _mm512_permutexvar_epi16(order, reinterpret_cast<__m512i>(both));
    }
    NFLOAT_UNROLL
    for (int p = 0; p < kPairPanels; ++p) _mm512_storeu_si512(output + 16 * p, paired[p]);
  }
}

inline constexpr PairKernels kPairKernels = {.rows = kPairRows,
                                             .columns = static_cast<int>(kPairColumns),
                                             .product = pair_product,
                                             .round_row = round_row,
                                             .pair_weights = pair_weights};

}  // namespace nfloat::kernels::NFLOAT_TARGET_NAMESPACE

#endif
