// SPDX-License-Identifier: Apache-2.0
// What the tiles of gemm-inl.h do with one octet in each precision. Included by gemm-inl.h after its sources
// of weights. A step has
//   begin(a, block, x_offsets, sums): the sums before a block's first octet (int8)
//   octet(source, w, stride, x, a, b): adds one octet's products to a, or by turns to a and b
//   settle(sums): sums of a panel to those of its rows, where the instructions leave them in another order
namespace nfloat::kernels::NFLOAT_TARGET_NAMESPACE {

// Of int8_tile: adds one octet's products, in bytes or in words.
template <typename Source>
struct ByteStep {
  using Element = int8_t;
  static constexpr int kBytes = Source::kInt8Bytes;
  // The sums before a block's first octet.
  template <int kPanels, int kRows>
  static inline void begin(const PanelArgs&, int64_t, const int32_t* x_offsets,
                           I32x16 (&sums)[kPanels][kRows]) noexcept {
    NFLOAT_UNROLL
    for (int m = 0; m < kRows; ++m) {
      const I32x16 offset = splat16(kSignedBytes ? int32_t{0} : x_offsets[m]);
      NFLOAT_UNROLL
      for (int p = 0; p < kPanels; ++p) sums[p][m] = offset;
    }
  }
  template <int kRows>
  static inline void settle(I32x16 (&)[kRows]) noexcept {}
  template <int kHalf, int kPanels, int kRows>
  static NFLOAT_INLINE void part(const Source& source, const uint8_t* w, size_t stride, const int8_t* x,
                                 I32x16 (&sums)[kPanels][kRows]) noexcept {
    Bytes64 weights[kPanels];
    NFLOAT_UNROLL
    for (int p = 0; p < kPanels; ++p)
      weights[p] = source.template byte_weights<kHalf>(w + static_cast<size_t>(p) * stride);
    NFLOAT_UNROLL
    for (int m = 0; m < kRows; ++m) NFLOAT_UNROLL
    for (int p = 0; p < kPanels; ++p) sums[p][m] = dot4_of<kHalf>(sums[p][m], weights[p], x + m * kOctet);
  }
  template <int kPanels, int kRows>
  static NFLOAT_INLINE void octet(const Source& source, const uint8_t* w, size_t stride, const int8_t* x,
                                  I32x16 (&a)[kPanels][kRows], I32x16 (&b)[kPanels][kRows]) noexcept {
    part<0>(source, w, stride, x, a);
    part<1>(source, w, stride, x, b);
  }
};

#if defined(NFLOAT_WORD_PRODUCTS)
// Winograd's inner product: w0 x0 + w1 x1 = (w0 + x1) (w1 + x0) - w0 w1 - x0 x1. It trades half of the
// multiplications for additions, which run on more ports. What is taken away is one number a block, of the
// weights (gemm.h) and of the activations (x_offsets).
template <typename Source>
struct WordStep {
  using Element = int16_t;
  static constexpr int kBytes = kHalfOctetBytes;
  template <int kPanels, int kRows>
  static inline void begin(const PanelArgs& a, int64_t block, const int32_t* x_offsets,
                           I32x16 (&sums)[kPanels][kRows]) noexcept {
    NFLOAT_UNROLL
    for (int p = 0; p < kPanels; ++p) {
      const uint8_t* of_panel = a.weights + static_cast<size_t>(p) * a.weights_stride;
      const I32x16 of_weights =
          load_integers(of_panel + a.octets * kHalfOctetBytes + block * kCorrectionBytes);
      NFLOAT_UNROLL
      for (int m = 0; m < kRows; ++m) sums[p][m] = add(of_weights, splat16(x_offsets[m]));
    }
  }
  template <int kRows>
  static inline void settle(I32x16 (&)[kRows]) noexcept {}
  template <int kPanels, int kRows>
  static NFLOAT_INLINE void octet(const Source&, const uint8_t* w, size_t stride, const int16_t* x,
                                  I32x16 (&sums)[kPanels][kRows], I32x16 (&)[kPanels][kRows]) noexcept {
    NFLOAT_UNROLL
    for (int half = 0; half < 2; ++half) {
      NFLOAT_UNROLL
      for (int p = 0; p < kPanels; ++p) {
        const uint8_t* from = w + static_cast<size_t>(p) * stride + 128 * half;
        const Pairs16 even = load_pairs(from), odd = load_pairs(from + 64);
        NFLOAT_UNROLL
        for (int m = 0; m < kRows; ++m) {
          const int16_t* four = x + m * kOctet + 4 * half;
          sums[p][m] =
              dot2(sums[p][m], add(even, broadcast_words(four + 2)), add(odd, broadcast_words(four)));
        }
      }
    }
  }
};
#endif

// Of float_tile, in bf16 and in float32.
template <typename Source>
struct Bf16Step {
  using Element = uint16_t;
  static constexpr int kBytes = Source::kBf16Bytes;
  template <int kRows>
  static inline void settle(F32x16 (&)[kRows]) noexcept {}
  template <int kPair, int kPanels, int kRows>
  static NFLOAT_INLINE void part(const Source& source, const uint8_t* w, size_t stride, const uint16_t* x,
                                 F32x16 (&sums)[kPanels][kRows]) noexcept {
    Pairs16 weights[kPanels];
    NFLOAT_UNROLL
    for (int p = 0; p < kPanels; ++p)
      weights[p] = source.template pair_weights<kPair>(w + static_cast<size_t>(p) * stride);
    NFLOAT_UNROLL
    for (int m = 0; m < kRows; ++m) NFLOAT_UNROLL
    for (int p = 0; p < kPanels; ++p) sums[p][m] = dot2_of<kPair>(sums[p][m], weights[p], x + m * kOctet);
  }
  template <int kPanels, int kRows>
  static NFLOAT_INLINE void octet(const Source& source, const uint8_t* w, size_t stride, const uint16_t* x,
                                  F32x16 (&a)[kPanels][kRows], F32x16 (&b)[kPanels][kRows]) noexcept {
    part<0>(source, w, stride, x, a);
    part<1>(source, w, stride, x, b);
    part<2>(source, w, stride, x, a);
    part<3>(source, w, stride, x, b);
  }
};

template <typename Source>
struct F32Step {
  using Element = float;
  static constexpr int kBytes = Source::kF32Bytes;
  template <int kRows>
  static inline void settle(F32x16 (&)[kRows]) noexcept {}
  template <int kColumn, int kPanels, int kRows>
  static NFLOAT_INLINE void part(const Source& source, const uint8_t* w, size_t stride, const float* x,
                                 F32x16 (&sums)[kPanels][kRows]) noexcept {
    F32x16 weights[kPanels];
    NFLOAT_UNROLL
    for (int p = 0; p < kPanels; ++p)
      weights[p] = source.template float_weights<kColumn>(w + static_cast<size_t>(p) * stride);
    NFLOAT_UNROLL
    for (int m = 0; m < kRows; ++m) {
      const F32x16 all = splat16(x[m * kOctet + kColumn]);
      NFLOAT_UNROLL
      for (int p = 0; p < kPanels; ++p) sums[p][m] = fma16(weights[p], all, sums[p][m]);
    }
  }
  template <int kPanels, int kRows>
  static NFLOAT_INLINE void octet(const Source& source, const uint8_t* w, size_t stride, const float* x,
                                  F32x16 (&a)[kPanels][kRows], F32x16 (&b)[kPanels][kRows]) noexcept {
    part<0>(source, w, stride, x, a);
    part<1>(source, w, stride, x, b);
    part<2>(source, w, stride, x, a);
    part<3>(source, w, stride, x, b);
    part<4>(source, w, stride, x, a);
    part<5>(source, w, stride, x, b);
    part<6>(source, w, stride, x, a);
    part<7>(source, w, stride, x, b);
  }
};

}  // namespace nfloat::kernels::NFLOAT_TARGET_NAMESPACE
