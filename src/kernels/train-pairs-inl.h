// SPDX-License-Identifier: Apache-2.0
// PairKernels of train.h for processors that multiply pairs of bf16 in one instruction. Compiled once per
// such target, from train-inl.h.
#if defined(__AVX512BF16__)

namespace nfloat::kernels::NFLOAT_TARGET_NAMESPACE {

inline constexpr int kPairRows = 12, kPairPanels = 2;
inline constexpr int64_t kPairColumns = 16 * kPairPanels;

template <int kRows, int kPanels>
static void pair_tile(const PairProductArgs& args, int64_t row) noexcept {
  __m512 sums[kRows][kPanels];
  NFLOAT_UNROLL
  for (int i = 0; i < kRows; ++i) NFLOAT_UNROLL
  for (int p = 0; p < kPanels; ++p) sums[i][p] = _mm512_setzero_ps();
  // What the sums are added to comes nearer meanwhile.
  NFLOAT_UNROLL
  for (int i = 0; i < kRows; ++i) NFLOAT_UNROLL
  for (int p = 0; p < kPanels; ++p) __builtin_prefetch(args.c + (row + i) * args.c_stride + 16 * p, 1);
  const uint32_t* a = args.a + row * args.a_row;
  const uint32_t* b = args.b;
  for (int64_t l = 0; l < args.pairs; ++l, a += args.a_column, b += args.b_row) {
    __m512i lanes[kPanels];
    NFLOAT_UNROLL
    for (int p = 0; p < kPanels; ++p) lanes[p] = _mm512_loadu_si512(b + 16 * p);
    NFLOAT_UNROLL
    for (int i = 0; i < kRows; ++i) {
      const __m512i one = _mm512_set1_epi32(static_cast<int>(a[i * args.a_row]));
      NFLOAT_UNROLL
      for (int p = 0; p < kPanels; ++p)
        sums[i][p] = _mm512_dpbf16_ps(sums[i][p], reinterpret_cast<__m512bh>(one),
                                      reinterpret_cast<__m512bh>(lanes[p]));
    }
  }
  const __m512 alpha = _mm512_set1_ps(args.alpha);
  NFLOAT_UNROLL
  for (int i = 0; i < kRows; ++i) NFLOAT_UNROLL
  for (int p = 0; p < kPanels; ++p) {
    const int64_t left = args.n - 16 * p;
    if (left <= 0) continue;
    const __mmask16 mask = static_cast<__mmask16>(left >= 16 ? 0xffff : (1 << left) - 1);
    float* c = args.c + (row + i) * args.c_stride + 16 * p;
    const __m512 old = args.accumulate ? _mm512_maskz_loadu_ps(mask, c) : _mm512_setzero_ps();
    _mm512_mask_storeu_ps(c, mask, _mm512_fmadd_ps(sums[i][p], alpha, old));
  }
}

template <int kRows, int kPanels>
static void pair_rows_of(const PairProductArgs& args, int64_t row, int64_t rows) noexcept {
  if constexpr (kRows > 1) {
    if (rows < kRows) return pair_rows_of<kRows - 1, kPanels>(args, row, rows);
  }
  pair_tile<kRows, kPanels>(args, row);
}

// Tiles as even as they can be.
template <int kPanels>
static void pair_product_of(const PairProductArgs& args) noexcept {
  const int64_t tiles = (args.m + kPairRows - 1) / kPairRows;
  for (int64_t tile = 0; tile < tiles; ++tile) {
    const int64_t begin = args.m * tile / tiles, end = args.m * (tile + 1) / tiles;
    pair_rows_of<kPairRows, kPanels>(args, begin, end - begin);
  }
}

static void pair_product(const PairProductArgs& args) noexcept {
  if (args.n <= kPairColumns / 2) return pair_product_of<kPairPanels / 2>(args);
  pair_product_of<kPairPanels>(args);
}

static void widen_row(const uint16_t* x, int64_t count, float* output) noexcept {
  const auto widened = [](__m256i halves) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
  };
  int64_t i = 0;
  for (; i + 16 <= count; i += 16)
    _mm512_storeu_ps(output + i, widened(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(x + i))));
  if (i == count) return;
  const __mmask16 mask = static_cast<__mmask16>((1 << (count - i)) - 1);
  _mm512_mask_storeu_ps(output + i, mask, widened(_mm256_maskz_loadu_epi16(mask, x + i)));
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

// Sixteen of one vector and sixteen of the next, in turn.
alignas(64) static constexpr uint16_t kInTurn[32] = {0,  16, 1,  17, 2,  18, 3,  19, 4,  20, 5,
                                                     21, 6,  22, 7,  23, 8,  24, 9,  25, 10, 26,
                                                     11, 27, 12, 28, 13, 29, 14, 30, 15, 31};

static void pair_floats(const float* x, const float* y, int64_t count, uint32_t* output) noexcept {
  const __m512i order = _mm512_load_si512(kInTurn);
  for (int64_t i = 0; i < count; i += 16) {
    const int64_t left = count - i;
    const __mmask16 mask = static_cast<__mmask16>(left >= 16 ? 0xffff : (1 << left) - 1);
    const __m512bh both =
        _mm512_cvtne2ps_pbh(_mm512_maskz_loadu_ps(mask, y + i), _mm512_maskz_loadu_ps(mask, x + i));
    _mm512_mask_storeu_epi32(output + i, mask,
                             _mm512_permutexvar_epi16(order, reinterpret_cast<__m512i>(both)));
  }
}

static void pair_rows(const uint16_t* x, int64_t stride, int64_t rows, int64_t count,
                      uint32_t* output) noexcept {
  const __mmask32 mask = count >= 32 ? ~__mmask32{0} : (__mmask32{1} << count) - 1;
  const __m512i order = _mm512_load_si512(kInTurn);
  for (int64_t i = 0; i < rows; i += 2, x += 2 * stride, output += kPairColumns) {
    const __m512i even = _mm512_maskz_loadu_epi16(mask, x);
    const __m512i odd = i + 1 < rows ? _mm512_maskz_loadu_epi16(mask, x + stride) : _mm512_setzero_si512();
    const __m512i low = _mm512_shuffle_i64x2(even, odd, 0x44), high = _mm512_shuffle_i64x2(even, odd, 0xee);
    _mm512_storeu_si512(output, _mm512_permutexvar_epi16(order, low));
    _mm512_storeu_si512(output + 16, _mm512_permutexvar_epi16(order, high));
  }
}

// Sixteen rows of sixteen, turned.
static inline void turn16(__m512i (&x)[16]) noexcept {
  __m512i y[16];
  NFLOAT_UNROLL
  for (int i = 0; i < 16; i += 2) {
    y[i] = _mm512_unpacklo_epi32(x[i], x[i + 1]);
    y[i + 1] = _mm512_unpackhi_epi32(x[i], x[i + 1]);
  }
  // x[4 q + j] has column 4 b + j of rows 4 q to 4 q + 3 in its 128 bits b.
  NFLOAT_UNROLL
  for (int i = 0; i < 16; i += 4) {
    x[i] = _mm512_unpacklo_epi64(y[i], y[i + 2]);
    x[i + 1] = _mm512_unpackhi_epi64(y[i], y[i + 2]);
    x[i + 2] = _mm512_unpacklo_epi64(y[i + 1], y[i + 3]);
    x[i + 3] = _mm512_unpackhi_epi64(y[i + 1], y[i + 3]);
  }
  NFLOAT_UNROLL
  for (int j = 0; j < 4; ++j) {
    const __m512i a = _mm512_shuffle_i64x2(x[j], x[4 + j], 0x44);
    const __m512i b = _mm512_shuffle_i64x2(x[j], x[4 + j], 0xee);
    const __m512i c = _mm512_shuffle_i64x2(x[8 + j], x[12 + j], 0x44);
    const __m512i d = _mm512_shuffle_i64x2(x[8 + j], x[12 + j], 0xee);
    y[j] = _mm512_shuffle_i64x2(a, c, 0x88);
    y[4 + j] = _mm512_shuffle_i64x2(a, c, 0xdd);
    y[8 + j] = _mm512_shuffle_i64x2(b, d, 0x88);
    y[12 + j] = _mm512_shuffle_i64x2(b, d, 0xdd);
  }
  NFLOAT_UNROLL
  for (int i = 0; i < 16; ++i) x[i] = y[i];
}

static void turn_pairs(const uint32_t* x, int64_t stride, int64_t rows, int64_t pairs,
                       uint32_t* output) noexcept {
  for (int64_t row = 0; row < kPairColumns; row += 16)
    for (int64_t l = 0; l < pairs; l += 16) {
      const int64_t count = pairs - l < 16 ? pairs - l : 16;
      const __mmask16 mask = static_cast<__mmask16>((1 << count) - 1);
      __m512i tile[16];
      NFLOAT_UNROLL
      for (int i = 0; i < 16; ++i)
        tile[i] = row + i < rows ? _mm512_maskz_loadu_epi32(mask, x + (row + i) * stride + l)
                                 : _mm512_setzero_si512();
      turn16(tile);
      for (int64_t i = 0; i < count; ++i) _mm512_storeu_si512(output + (l + i) * kPairColumns + row, tile[i]);
    }
}

static void pair_weights(const float* rows, int64_t pairs, uint32_t* output) noexcept {
  const __m512i order = _mm512_load_si512(kInTurn);
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

// Sixteen floats, those of rows 2l and 2l + 1 in turn: column by column of one octet. A byte 4 r + j of row r
// has column j in its low nibble, column 4 + j in its high one.
static inline __m512 pair_levels_of(const uint8_t* rows, __m512 levels, __m512 scales) noexcept {
  const __m512i shifts = _mm512_setr_epi32(0, 0, 8, 8, 16, 16, 24, 24, 4, 4, 12, 12, 20, 20, 28, 28);
  int64_t both = 0;
  __builtin_memcpy(&both, rows, sizeof both);
  const __m512i codes = _mm512_srlv_epi32(_mm512_set1_epi64(both), shifts);
  return _mm512_mul_ps(_mm512_permutexvar_ps(codes, levels), scales);
}

static void pair_codes(const uint8_t* packed, int64_t octets, const LevelTables& tables, const float* scales,
                       uint32_t* output) noexcept {
  const __m512 levels = _mm512_load_ps(tables.f32);
  NFLOAT_UNROLL
  for (int l = 0; l < 8; ++l) {
    double both = 0;
    __builtin_memcpy(&both, scales + 2 * l, sizeof both);
    const __m512 own = _mm512_castpd_ps(_mm512_set1_pd(both));
    uint32_t* to = output + l * kPairColumns;
    const uint8_t* from = packed + 8 * l;
    int64_t octet = 0;
    for (; octet + 2 <= octets; octet += 2, from += 2 * kPackedOctetBytes, to += 16) {
      const __m512bh rounded = _mm512_cvtne2ps_pbh(pair_levels_of(from + kPackedOctetBytes, levels, own),
                                                   pair_levels_of(from, levels, own));
      _mm512_storeu_si512(to, reinterpret_cast<__m512i>(rounded));
    }
    if (octet == octets) continue;
    const __m256bh rounded = _mm512_cvtneps_pbh(pair_levels_of(from, levels, own));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), reinterpret_cast<__m256i>(rounded));
  }
}

// Two octets of bf16, whose pairs of columns are (0,2) (4,6) (1,3) (5,7) in the lanes of 16 rows. Eight rows
// of eight quadwords are turned, each two rows of one pair of columns, and then the columns put in order.
static inline void pair_two_octets(const __m512i* x, uint32_t* output) noexcept {
  alignas(64) static constexpr uint16_t kOrder[32] = {0,  2,  8,  10, 1,  3,  9,  11, 4,  6,  12,
                                                      14, 5,  7,  13, 15, 16, 18, 24, 26, 17, 19,
                                                      25, 27, 20, 22, 28, 30, 21, 23, 29, 31};
  const __m512i order = _mm512_load_si512(kOrder);
  __m512i y[8], z[8];
  NFLOAT_UNROLL
  for (int i = 0; i < 8; i += 2) {
    y[i] = _mm512_unpacklo_epi64(x[i], x[i + 1]);
    y[i + 1] = _mm512_unpackhi_epi64(x[i], x[i + 1]);
  }
  // y[i] has, in its 128 bits q, rows pair 2q + i % 2 of x[i & ~1] and the next.
  NFLOAT_UNROLL
  for (int i = 0; i < 2; ++i) {
    z[4 * i] = _mm512_shuffle_i64x2(y[i], y[i + 2], 0x44);
    z[4 * i + 1] = _mm512_shuffle_i64x2(y[i], y[i + 2], 0xee);
    z[4 * i + 2] = _mm512_shuffle_i64x2(y[i + 4], y[i + 6], 0x44);
    z[4 * i + 3] = _mm512_shuffle_i64x2(y[i + 4], y[i + 6], 0xee);
  }
  NFLOAT_UNROLL
  for (int i = 0; i < 2; ++i) NFLOAT_UNROLL
  for (int half = 0; half < 2; ++half) {
    const __m512i even = _mm512_shuffle_i64x2(z[4 * i + half], z[4 * i + 2 + half], 0x88);
    const __m512i odd = _mm512_shuffle_i64x2(z[4 * i + half], z[4 * i + 2 + half], 0xdd);
    const int first = 4 * half + i;
    _mm512_storeu_si512(output + first * kPairColumns, _mm512_permutexvar_epi16(order, even));
    _mm512_storeu_si512(output + (first + 2) * kPairColumns, _mm512_permutexvar_epi16(order, odd));
  }
}

static void pair_halves(const uint8_t* halves, int64_t octets, uint32_t* output) noexcept {
  int64_t octet = 0;
  for (; octet + 2 <= octets; octet += 2, halves += 2 * kHalfOctetBytes, output += 16) {
    __m512i x[8];
    NFLOAT_UNROLL
    for (int i = 0; i < 8; ++i) x[i] = _mm512_loadu_si512(halves + 64 * i);
    pair_two_octets(x, output);
  }
  if (octet == octets) return;
  __m512i x[8];
  for (int i = 0; i < 4; ++i) x[i] = _mm512_loadu_si512(halves + 64 * i);
  for (int i = 4; i < 8; ++i) x[i] = _mm512_setzero_si512();
  uint32_t whole[8 * kPairColumns];
  pair_two_octets(x, whole);
  for (int l = 0; l < 8; ++l)
    __builtin_memcpy(output + l * kPairColumns, whole + l * kPairColumns, 8 * sizeof(uint32_t));
}

// One column of sixteen rows.
template <int kShift>
static inline __m512 column_of(__m512i codes, __m512 levels, __m512 scales) noexcept {
  return _mm512_mul_ps(_mm512_permutexvar_ps(_mm512_srli_epi32(codes, kShift), levels), scales);
}

// Of an octet's dwords: the shifts of two columns.
template <int kFirst, int kSecond>
static inline void two_columns(__m512i codes, __m512 levels, __m512 scales, __m512i order,
                               uint32_t* output) noexcept {
  const __m512bh both = _mm512_cvtne2ps_pbh(column_of<kSecond>(codes, levels, scales),
                                            column_of<kFirst>(codes, levels, scales));
  _mm512_storeu_si512(output, _mm512_permutexvar_epi16(order, reinterpret_cast<__m512i>(both)));
}

static void pair_columns(const uint8_t* packed, int64_t octets, const LevelTables& tables,
                         const float* scales, uint32_t* output) noexcept {
  const __m512 levels = _mm512_load_ps(tables.f32), own = _mm512_loadu_ps(scales);
  const __m512i order = _mm512_load_si512(kInTurn);
  for (int64_t octet = 0; octet < octets; ++octet, packed += kPackedOctetBytes, output += 4 * kPairColumns) {
    const __m512i codes = _mm512_loadu_si512(packed);
    two_columns<0, 8>(codes, levels, own, order, output);
    two_columns<16, 24>(codes, levels, own, order, output + kPairColumns);
    two_columns<4, 12>(codes, levels, own, order, output + 2 * kPairColumns);
    two_columns<20, 28>(codes, levels, own, order, output + 3 * kPairColumns);
  }
}

// Pairs (0,2) and (1,3) to (0,1) and (2,3).
static void pair_half_columns(const uint8_t* halves, int64_t octets, uint32_t* output) noexcept {
  constexpr __mmask32 kUpper = 0xaaaaaaaa;
  for (int64_t i = 0; i < 2 * octets; ++i, output += 2 * kPairColumns) {
    const uint8_t* from = halves + i / 2 * kHalfOctetBytes + i % 2 * 64;
    const __m512i even = _mm512_loadu_si512(from), odd = _mm512_loadu_si512(from + 128);
    _mm512_storeu_si512(output, _mm512_mask_blend_epi16(kUpper, even, _mm512_slli_epi32(odd, 16)));
    _mm512_storeu_si512(output + kPairColumns,
                        _mm512_mask_blend_epi16(kUpper, _mm512_srli_epi32(even, 16), odd));
  }
}

inline constexpr PairKernels kPairKernels = {.rows = kPairRows,
                                             .columns = static_cast<int>(kPairColumns),
                                             .product = pair_product,
                                             .round_row = round_row,
                                             .widen_row = widen_row,
                                             .pair_floats = pair_floats,
                                             .pair_rows = pair_rows,
                                             .turn_pairs = turn_pairs,
                                             .pair_weights = pair_weights,
                                             .pair_codes = pair_codes,
                                             .pair_halves = pair_halves,
                                             .pair_columns = pair_columns,
                                             .pair_half_columns = pair_half_columns};

}  // namespace nfloat::kernels::NFLOAT_TARGET_NAMESPACE

#endif
