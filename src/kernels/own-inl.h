// SPDX-License-Identifier: Apache-2.0
// Expanded weights in the target's own order (gemm.h), and products of two rows by two. Included by
// gemm-inl.h after its sources of weights.
namespace nfloat::kernels::NFLOAT_TARGET_NAMESPACE {

#if defined(NFLOAT_OWN_ORDER)
// As Dense, for weights that expand_own_* wrote. Where rows lie in pairs, single ones are taken out of them.
struct Own : Dense {
  static constexpr bool kOwn = true;
  using Dense::Dense;
  template <int kHalf>
  Bytes64 byte_weights(const uint8_t* w) const noexcept {
    return own_octet<kHalf>(w);
  }
#if defined(NFLOAT_PAIR_PRODUCTS)
  template <int kPair>
  Pairs16 pair_weights(const uint8_t* w) const noexcept {
    const Bytes64 x = own_octet<kPair % 2>(w + 128 * (kPair / 2));
    Pairs16 pairs;
    std::memcpy(&pairs, &x, sizeof pairs);
    return pairs;
  }
#endif
};

static void expand_own_int8(const uint8_t* packed, int64_t octets, const LevelTables& levels,
                            uint8_t* output) noexcept {
  const ByteLevels table = byte_levels(levels);
  for (int64_t i = 0; i < octets; ++i) {
    const Bytes64 codes = load_bytes(packed + i * kPackedOctetBytes);
    store_own_octet(output + i * kInt8OctetBytes, lookup_bytes<0>(codes, table),
                    lookup_bytes<4>(codes, table));
  }
}
#endif

#if defined(NFLOAT_PAIR_PRODUCTS)
static void expand_own_bf16(const uint8_t* packed, int64_t octets, const LevelTables& levels,
                            uint8_t* output) noexcept {
  const PairLevels table = pair_levels(levels);
  for (int64_t i = 0; i < octets; ++i, output += kHalfOctetBytes) {
    const Bytes64 codes = load_bytes(packed + i * kPackedOctetBytes);
    store_row_pairs(output, zip_pairs(lookup_pairs<0>(codes, table), lookup_pairs<4>(codes, table)));
    store_row_pairs(output + 128, zip_pairs(lookup_pairs<8>(codes, table), lookup_pairs<12>(codes, table)));
  }
}

template <typename Source>
static inline RowPairs byte_pairs(const Source& source, const uint8_t* w) noexcept {
  if constexpr (Source::kOwn) return load_row_pairs(w);
  return zip_pairs(source.template byte_weights<0>(w), source.template byte_weights<1>(w));
}
template <int kHalf, typename Source>
static inline RowPairs bf16_pairs(const Source& source, const uint8_t* w) noexcept {
  if constexpr (Source::kOwn) return load_row_pairs(w + 128 * kHalf);
  return zip_pairs(source.template pair_weights<2 * kHalf>(w),
                   source.template pair_weights<2 * kHalf + 1>(w));
}

// ByteStep and Bf16Step of an even number of rows. One panel.
template <typename Source>
struct PairByteStep {
  using Element = int8_t;
  static constexpr int kBytes = Source::kInt8Bytes;
  template <int kRows>
  static inline void begin(const PanelArgs&, int64_t, const int32_t* x_offsets,
                           I32x16 (&sums)[1][kRows]) noexcept {
    NFLOAT_UNROLL
    for (int m = 0; m < kRows; m += 2)
      pair_offsets(sums[0][m], sums[0][m + 1], x_offsets[m], x_offsets[m + 1]);
  }
  template <int kRows>
  static NFLOAT_INLINE void octet(const Source& source, const uint8_t* w, size_t, const int8_t* x,
                                  I32x16 (&sums)[1][kRows], I32x16 (&)[1][kRows]) noexcept {
    const RowPairs weights = byte_pairs(source, w);
    NFLOAT_UNROLL
    for (int m = 0; m < kRows; m += 2) pair_dot8(sums[0][m], sums[0][m + 1], weights, x + m * kOctet);
  }
  template <int kRows>
  static inline void settle(I32x16 (&sums)[kRows]) noexcept {
    NFLOAT_UNROLL
    for (int m = 0; m < kRows; m += 2) settle_pairs(sums[m], sums[m + 1]);
  }
};
template <typename Source>
struct PairBf16Step {
  using Element = uint16_t;
  static constexpr int kBytes = Source::kBf16Bytes;
  template <int kHalf, int kRows>
  static NFLOAT_INLINE void part(const Source& source, const uint8_t* w, const uint16_t* x,
                                 F32x16 (&sums)[1][kRows]) noexcept {
    const RowPairs weights = bf16_pairs<kHalf>(source, w);
    NFLOAT_UNROLL
    for (int m = 0; m < kRows; m += 2) pair_dot4<kHalf>(sums[0][m], sums[0][m + 1], weights, x + m * kOctet);
  }
  template <int kRows>
  static NFLOAT_INLINE void octet(const Source& source, const uint8_t* w, size_t, const uint16_t* x,
                                  F32x16 (&sums)[1][kRows], F32x16 (&)[1][kRows]) noexcept {
    part<0>(source, w, x, sums);
    part<1>(source, w, x, sums);
  }
  template <int kRows>
  static inline void settle(F32x16 (&sums)[kRows]) noexcept {
    NFLOAT_UNROLL
    for (int m = 0; m < kRows; m += 2) settle_pairs(sums[m], sums[m + 1]);
  }
};
#endif

}  // namespace nfloat::kernels::NFLOAT_TARGET_NAMESPACE
