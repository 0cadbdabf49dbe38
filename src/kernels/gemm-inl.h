// SPDX-License-Identifier: Apache-2.0
// Compiled once per target. Includer defines NFLOAT_TARGET_NAMESPACE.
#include "kernels/gemm.h"
#include "kernels/simd/dot.h"
#include "kernels/unroll.h"

#include "kernels/expand-inl.h"
#include "kernels/pack-inl.h"

namespace nfloat::kernels::NFLOAT_TARGET_NAMESPACE {

inline constexpr int kScalePrefetchBytes = 2048;  // as far as 16 KiB of codes in blocks of 64
inline constexpr int kNestedPrefetchBytes = 512;  // likewise, of 8-bit scales

// Where the weights of a tile come from: decoded on the fly, or expanded before.
struct Packed {
  static constexpr bool kNested = true;
  static constexpr bool kOwn = false;
  static constexpr int kInt8Bytes = kPackedOctetBytes;
  static constexpr int kBf16Bytes = kPackedOctetBytes;
  static constexpr int kF32Bytes = kPackedOctetBytes;
  ByteLevels bytes;
  PairLevels pairs;
  FloatLevels floats;
  int64_t near_bytes, far_bytes;
  explicit Packed(const PanelArgs& a) noexcept
      : bytes(byte_levels(*a.levels)),
        pairs(pair_levels(*a.levels)),
        floats(float_levels(*a.levels)),
        near_bytes(a.near_bytes),
        far_bytes(a.far_bytes) {}
  void ahead(const uint8_t* w) const noexcept {
    prefetch(w + near_bytes);
    prefetch_far(w + far_bytes);
  }
  template <int kHalf>
  Bytes64 byte_weights(const uint8_t* w) const noexcept {
    return lookup_bytes<4 * kHalf>(load_bytes(w), bytes);
  }
  template <int kPair>
  Pairs16 pair_weights(const uint8_t* w) const noexcept {
    return lookup_pairs<4 * kPair>(load_bytes(w), pairs);
  }
  template <int kColumn>
  F32x16 float_weights(const uint8_t* w) const noexcept {
    return lookup_floats<(kColumn < 4 ? 8 * kColumn : 8 * kColumn - 28)>(load_bytes(w), floats);
  }
};

struct Dense {
  static constexpr bool kNested = false;
  static constexpr bool kOwn = false;
  static constexpr int kInt8Bytes = kInt8OctetBytes;
  static constexpr int kBf16Bytes = kHalfOctetBytes;
  static constexpr int kF32Bytes = kF32OctetBytes;
  const uint8_t* next;
  explicit Dense(const PanelArgs& a) noexcept : next(a.ahead == nullptr ? a.weights : a.ahead) {}
  void ahead(const uint8_t*) noexcept {
    prefetch_far(next);
    next += kPackedOctetBytes;
  }
  template <int kHalf>
  Bytes64 byte_weights(const uint8_t* w) const noexcept {
    return turn_sign(load_bytes(w + 64 * kHalf));
  }
  template <int kPair>
  Pairs16 pair_weights(const uint8_t* w) const noexcept {
    return load_pairs(w + 64 * kPair);
  }
  template <int kColumn>
  F32x16 float_weights(const uint8_t* w) const noexcept {
    return load16(reinterpret_cast<const float*>(w) + 16 * kColumn);
  }
};

}  // namespace nfloat::kernels::NFLOAT_TARGET_NAMESPACE

#include "kernels/steps-inl.h"

#include "kernels/own-inl.h"

namespace nfloat::kernels::NFLOAT_TARGET_NAMESPACE {

// The scales of one group after the other, 8-bit ones decoded kMapGroups groups at a time.
template <typename Source>
class GroupScales {
 public:
  explicit GroupScales(const PanelArgs& a) noexcept : args_(a), groups_(a.octets / a.octets_per_group) {}

  // Of panel `p`; groups come in order, each any number of times.
  F32x16 of(int64_t group, int p) noexcept {
    if constexpr (Source::kNested) {
      if (args_.nested != nullptr) {
        if (group >= decoded_) decode(*args_.nested);
        return load16(scales_ + group % kMapGroups * kPanelRows);
      }
    }
    if (args_.scales == nullptr) return splat16(1.0f);
    const float* at = args_.scales + static_cast<size_t>(p) * args_.scales_stride + group * kPanelRows;
    if constexpr (Source::kNested) prefetch(reinterpret_cast<const uint8_t*>(at) + kScalePrefetchBytes);
    return load16(at);
  }

 private:
  void decode(const PanelNested& nested) noexcept {
    const int64_t left = groups_ - decoded_;
    const int count = kMapGroups > 1 && left < kMapGroups ? static_cast<int>(left) : kMapGroups;
    prefetch(nested.codes + decoded_ * kPanelRows + kNestedPrefetchBytes);
    map_scales(*nested.map, nested.codes + decoded_ * kPanelRows, count, scales_);
    const F32x16 absmax = load16(nested.absmax), offset = splat16(nested.offset);
    for (int i = 0; i < count; ++i) {
      float* at = scales_ + i * kPanelRows;
      store16(at, add(multiply(load16(at), absmax), offset));
    }
    decoded_ += kMapGroups;
  }

  const PanelArgs& args_;
  int64_t groups_, decoded_ = 0;
  alignas(64) float scales_[kMapGroups * kPanelRows] = {};
};

template <int kPanels, int kRows>
static inline void store_tile(const PanelArgs& a, int64_t row,
                              const F32x16 (&tile)[kPanels][kRows]) noexcept {
  const F32x16 factor = splat16(a.factor);
  NFLOAT_UNROLL
  for (int p = 0; p < kPanels; ++p) {
    const int64_t first = p * kPanelRows;
    const int64_t columns = a.columns - first;
    if (columns <= 0) return;
    NFLOAT_UNROLL
    for (int m = 0; m < kRows; ++m) {
      float* y = a.y + (row + m) * a.y_stride + first;
      if (columns >= kPanelRows) {
        F32x16 old = splat16(0.0f);
        if (a.accumulate) {
          old = load16(y);
        } else if (a.bias != nullptr) {
          old = load16(a.bias + first);
        }
        store16(y, fma16(tile[p][m], factor, old));
      } else {
        float sums[kPanelRows];
        store16(sums, multiply(tile[p][m], factor));
        for (int64_t n = 0; n < columns; ++n)
          y[n] = sums[n] + (a.accumulate ? y[n] : a.bias != nullptr ? a.bias[first + n] : 0.0f);
      }
    }
  }
}

inline constexpr int kBlockOctets = 8;  // of most blocks

template <typename Sum, int kPanels, int kRows>
static NFLOAT_INLINE void hold_all(Sum (&sums)[kPanels][kRows]) noexcept {
  NFLOAT_UNROLL
  for (int p = 0; p < kPanels; ++p) NFLOAT_UNROLL
  for (int m = 0; m < kRows; ++m) hold(sums[p][m]);
}

template <typename Source, typename Step, int kPanels, int kRows>
static void int8_tile(const PanelArgs& a, int64_t row) noexcept {
  constexpr bool kTwoSets = kPanels * kRows <= 2;  // one would wait for itself
  Source source(a);
  F32x16 tile[kPanels][kRows];
  NFLOAT_UNROLL
  for (int p = 0; p < kPanels; ++p) NFLOAT_UNROLL
  for (int m = 0; m < kRows; ++m) tile[p][m] = splat16(0.0f);
  const uint8_t* w = a.weights;
  const typename Step::Element* x = static_cast<const typename Step::Element*>(a.x) + row * kOctet;
  const int64_t x_step = a.m * kOctet;
  const float* x_scales = a.x_scales + row;
  const int32_t* x_offsets = a.x_offsets + row;
  const int64_t blocks = a.octets / a.octets_per_block;
  const int64_t blocks_per_group = a.octets_per_group / a.octets_per_block;
  GroupScales<Source> scales(a);
  int64_t left_in_group = blocks_per_group, group = 0;
  for (int64_t block = 0; block < blocks; ++block) {
    I32x16 sums[kPanels][kRows], others[kPanels][kRows];
    Step::begin(a, block, x_offsets, sums);
    NFLOAT_UNROLL
    for (int p = 0; p < kPanels; ++p) NFLOAT_UNROLL
    for (int m = 0; m < kRows; ++m) others[p][m] = splat16(int32_t{0});
    const auto add_octet = [&]() __attribute__((always_inline)) {
      source.ahead(w);
      Step::octet(source, w, a.weights_stride, x, sums, kTwoSets ? others : sums);
      hold_all(sums);
      if constexpr (kTwoSets) hold_all(others);
      w += Step::kBytes;
      x += x_step;
    };
    if (kTwoSets && a.octets_per_block == kBlockOctets) {
      NFLOAT_UNROLL
      for (int octet = 0; octet < kBlockOctets; ++octet) add_octet();
    } else {
      for (int64_t octet = 0; octet < a.octets_per_block; ++octet) add_octet();
    }
    NFLOAT_UNROLL
    for (int p = 0; p < kPanels; ++p) {
      const F32x16 scale = scales.of(group, p);
      if constexpr (kTwoSets) NFLOAT_UNROLL
      for (int m = 0; m < kRows; ++m) sums[p][m] = add(sums[p][m], others[p][m]);
      Step::settle(sums[p]);
      NFLOAT_UNROLL
      for (int m = 0; m < kRows; ++m)
        tile[p][m] = fma16(to_float16(sums[p][m]), multiply(scale, splat16(x_scales[m])), tile[p][m]);
    }
    x_scales += a.m;
    x_offsets += a.m;
    if (--left_in_group == 0) {
      left_in_group = blocks_per_group;
      ++group;
    }
  }
  store_tile(a, row, tile);
}

template <typename Source, typename Step, int kPanels, int kRows>
static void float_tile(const PanelArgs& a, int64_t row) noexcept {
  // Few accumulators would wait for one another: two sets then, whatever the panels, since their number
  // follows the threads and the sums must not.
  // Expanded weights, a plain output head among them, are summed in one order for any number of rows.
  constexpr bool kTwoSets = Source::kNested && kRows <= kTileRows / 2;
  Source source(a);
  F32x16 tile[kPanels][kRows];
  NFLOAT_UNROLL
  for (int p = 0; p < kPanels; ++p) NFLOAT_UNROLL
  for (int m = 0; m < kRows; ++m) tile[p][m] = splat16(0.0f);
  const uint8_t* w = a.weights;
  const typename Step::Element* x = static_cast<const typename Step::Element*>(a.x) + row * kOctet;
  const int64_t x_step = a.m * kOctet;
  const int64_t groups = a.octets / a.octets_per_group;
  GroupScales<Source> scales(a);
  for (int64_t group = 0; group < groups; ++group) {
    F32x16 sums[kPanels][kRows], others[kPanels][kRows];
    NFLOAT_UNROLL
    for (int p = 0; p < kPanels; ++p) NFLOAT_UNROLL
    for (int m = 0; m < kRows; ++m) sums[p][m] = others[p][m] = splat16(0.0f);
    const auto add_octet = [&]() __attribute__((always_inline)) {
      source.ahead(w);
      Step::octet(source, w, a.weights_stride, x, sums, kTwoSets ? others : sums);
      hold_all(sums);
      if constexpr (kTwoSets) hold_all(others);
      w += Step::kBytes;
      x += x_step;
    };
    if (kTwoSets && kPanels * kRows <= 2 && a.octets_per_group == kBlockOctets) {
      NFLOAT_UNROLL
      for (int octet = 0; octet < kBlockOctets; ++octet) add_octet();
    } else {
      for (int64_t octet = 0; octet < a.octets_per_group; ++octet) add_octet();
    }
    NFLOAT_UNROLL
    for (int p = 0; p < kPanels; ++p) {
      const F32x16 scale = scales.of(group, p);
      if constexpr (kTwoSets) NFLOAT_UNROLL
      for (int m = 0; m < kRows; ++m) sums[p][m] = add(sums[p][m], others[p][m]);
      Step::settle(sums[p]);
      NFLOAT_UNROLL
      for (int m = 0; m < kRows; ++m) tile[p][m] = fma16(sums[p][m], scale, tile[p][m]);
    }
  }
  store_tile(a, row, tile);
}

// Tiles of one precision; kOfDense: rows of activations of a tile of expanded weights.
struct Int8Tiles {
  static constexpr int kOfDense = kDenseRows;
  template <typename Source, int kPanels, int kRows>
  static void run(const PanelArgs& a, int64_t row) noexcept {
#if defined(NFLOAT_PAIR_PRODUCTS)
    if constexpr (kRows % 2 == 0 && kPanels == 1) {
      return int8_tile<Source, PairByteStep<Source>, kPanels, kRows>(a, row);
    } else if constexpr (kRows > 2 && kPanels == 1) {
      run<Source, kPanels, kRows - 1>(a, row);
      return run<Source, kPanels, 1>(a, row + kRows - 1);
    }
#endif
    int8_tile<Source, ByteStep<Source>, kPanels, kRows>(a, row);
  }
};
#if defined(NFLOAT_WORD_PRODUCTS)
struct WordTiles {
  static constexpr int kOfDense = kDenseRows;
  template <typename Source, int kPanels, int kRows>
  static void run(const PanelArgs& a, int64_t row) noexcept {
    int8_tile<Source, WordStep<Source>, kPanels, kRows>(a, row);
  }
};
#endif
struct Bf16Tiles {
  static constexpr int kOfDense = kDenseBf16Rows;
  template <typename Source, int kPanels, int kRows>
  static void run(const PanelArgs& a, int64_t row) noexcept {
#if defined(NFLOAT_PAIR_PRODUCTS)
    if constexpr (kRows % 2 == 0 && kPanels == 1) {
      return float_tile<Source, PairBf16Step<Source>, kPanels, kRows>(a, row);
    } else if constexpr (kRows > 2 && kPanels == 1) {
      run<Source, kPanels, kRows - 1>(a, row);
      return run<Source, kPanels, 1>(a, row + kRows - 1);
    }
#endif
    float_tile<Source, Bf16Step<Source>, kPanels, kRows>(a, row);
  }
};
struct F32Tiles {
  static constexpr int kOfDense = kDenseRows;
  template <typename Source, int kPanels, int kRows>
  static void run(const PanelArgs& a, int64_t row) noexcept {
    float_tile<Source, F32Step<Source>, kPanels, kRows>(a, row);
  }
};

// All rows of the block in tiles of kRows, the last one of what is left.
template <typename Tiles, typename Source, int kPanels, int kRows>
static void all_rows(const PanelArgs& a, int64_t row) noexcept {
  for (; row + kRows <= a.m; row += kRows) Tiles::template run<Source, kPanels, kRows>(a, row);
  if constexpr (kRows > 1) {
    if (row < a.m) all_rows<Tiles, Source, kPanels, kRows - 1>(a, row);
  }
}

template <typename Tiles>
static void packed_panel(const PanelArgs& a) noexcept {
  all_rows<Tiles, Packed, 1, kTileRows>(a, 0);
}

// Panels of one row: as many sums as hide an addition's latency.
inline constexpr int kRowPanels = kTilePanels < 3 ? 4 : 8;

template <typename Tiles, int kPanels = kRowPanels>
static void dense_row(const PanelArgs& a, int panels) noexcept {
  if constexpr (kPanels > 1) {
    if (panels < kPanels) return dense_row<Tiles, kPanels - 1>(a, panels);
  }
  Tiles::template run<Dense, kPanels, 1>(a, 0);
}

template <typename Tiles, int kPanels = kTilePanels>
static void dense_panels(const PanelArgs& a, int panels) noexcept {
  if constexpr (kPanels == kTilePanels) {
    if (a.m == 1) return dense_row<Tiles>(a, panels);
  }
  if constexpr (kPanels > 1) {
    if (panels < kPanels) return dense_panels<Tiles, kPanels - 1>(a, panels);
  }
  all_rows<Tiles, Dense, kPanels, Tiles::kOfDense>(a, 0);
}

#if defined(NFLOAT_OWN_ORDER)
template <typename Tiles>
static void own_panels(const PanelArgs& a, int panels) noexcept {
  static_assert(kTilePanels == 1);
  static_cast<void>(panels);
  all_rows<Tiles, Own, 1, Tiles::kOfDense>(a, 0);
}
#endif

inline constexpr GemmKernels kGemmKernels = {
    .tiles = nullptr,
    .exact_tiles = nullptr,
    .byte_tiles = nullptr,
    .multiplies_bf16 = kMultipliesBf16,
    .max_panels = kTilePanels,
    .row_panels = kRowPanels,
    .f32_packed = packed_panel<F32Tiles>,
    .bf16_packed = packed_panel<Bf16Tiles>,
    .int8_packed = packed_panel<Int8Tiles>,
    .f32_dense = dense_panels<F32Tiles>,
    .bf16_dense = dense_panels<Bf16Tiles>,
    .int8_dense = dense_panels<Int8Tiles>,
#if defined(NFLOAT_WORD_PRODUCTS)
    .words_dense = dense_panels<WordTiles>,
#else
    .words_dense = nullptr,
#endif
#if defined(NFLOAT_OWN_ORDER)
    .own_int8_dense = own_panels<Int8Tiles>,
    .expand_own_int8 = expand_own_int8,
#else
    .own_int8_dense = nullptr,
    .expand_own_int8 = nullptr,
#endif
#if defined(NFLOAT_PAIR_PRODUCTS)
    .own_bf16_dense = own_panels<Bf16Tiles>,
    .expand_own_bf16 = expand_own_bf16,
#else
    .own_bf16_dense = nullptr,
    .expand_own_bf16 = nullptr,
#endif
    .expand_f32 = expand_f32,
    .expand_bf16 = expand_bf16,
    .expand_int8 = expand_int8,
#if defined(NFLOAT_WORD_PRODUCTS)
    .expand_words = expand_words,
#else
    .expand_words = nullptr,
#endif
    .widen_f16 = widen_f16,
    .widen_bf16 = widen_bf16,
    .widen_int8 = widen_int8,
    .nested_scales = nested_scales,
    .pack = turn_words<CodeOrder>,
    .turn = turn_words<WordOrder>,
    .turn_pairs = turn_words<PairOrder>,
    .turn_halves = turn_words<HalfOrder>,
    .turn_bytes = turn_words<ByteOrder>,
    .x_f32 = x_f32,
    .x_bf16 = x_bf16,
    .x_int8 = x_whole<int8_t>,
#if defined(NFLOAT_WORD_PRODUCTS)
    .x_words = x_whole<int16_t>,
#else
    .x_words = nullptr,
#endif
};

}  // namespace nfloat::kernels::NFLOAT_TARGET_NAMESPACE
