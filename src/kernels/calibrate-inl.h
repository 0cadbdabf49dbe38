// SPDX-License-Identifier: Apache-2.0
// Kernels of calibrate.h on the vocabulary of wide.h. Compiled once per target; includer defines
// NFLOAT_TARGET_NAMESPACE.
#include "kernels/calibrate.h"
#include "kernels/ranks-inl.h"
#include "kernels/unroll.h"

namespace nfloat::kernels::NFLOAT_TARGET_NAMESPACE {

// Sets and columns at a time: independent chains hide the latency of finding a level.
#if defined(__AVX512F__)
inline constexpr int kFeedSets = 4, kFeedColumns = 2;
#else
inline constexpr int kFeedSets = 2, kFeedColumns = 2;
#endif

// Levels of a table, by their rank.
struct TableCode {
  using Rank = I32x16;

  template <typename Args>
  explicit TableCode(const Args& args) noexcept
      : tables(make_rank_tables(*args.table)), below(multiply(tables.levels, splat16(-1.0f))) {}
  inline Rank rank(const F32x16& x) const noexcept { return rank_of<false, true>(x, tables); }
  inline F32x16 level(const Rank& rank) const noexcept { return lookup16(tables.levels, rank); }
  inline F32x16 minus_level(const Rank& rank) const noexcept { return lookup16(below, rank); }

  RankTables tables;
  F32x16 below;
};

// Levels 0 to `steps`; a rank is 1.5 * 2^23 plus the level, where floats are whole numbers.
struct StepCode {
  using Rank = F32x16;
  static constexpr float kShift = 12582912.0f;

  template <typename Args>
  explicit StepCode(const Args& args) noexcept : most(splat16(static_cast<float>(args.steps))) {}
  inline Rank rank(const F32x16& x) const noexcept {
    const F32x16 minus = splat16(-1.0f);
    const F32x16 below_zero = smaller(multiply(smaller(x, most), minus), splat16(0.0f));
    return add(multiply(below_zero, minus), splat16(kShift));
  }
  inline F32x16 level(const Rank& rank) const noexcept { return add(rank, splat16(-kShift)); }
  inline F32x16 minus_level(const Rank& rank) const noexcept {
    return add(multiply(rank, splat16(-1.0f)), splat16(kShift));
  }

  F32x16 most;
};

template <typename Rank>
static inline void store_ranks(int32_t* to, const Rank& ranks) noexcept {
  static_assert(sizeof ranks == 16 * sizeof *to);
  std::memcpy(to, &ranks, sizeof ranks);
}
template <typename Rank>
static inline Rank load_ranks(const int32_t* from) noexcept {
  Rank ranks;
  std::memcpy(&ranks, from, sizeof ranks);
  return ranks;
}

// What becomes of a column whose target, or gradient, is final.
struct FeedColumn {
  static constexpr bool kSumsLosses = true;
  template <typename Code>
  static inline F32x16 decide(const F32x16& target, const Code& code, const F32x16& scale,
                              const F32x16& inverse, const F32x16& inverse_diagonal,
                              int32_t* ranks) noexcept {
    const typename Code::Rank rank = code.rank(multiply(target, inverse));
    store_ranks(ranks, rank);
    const F32x16 coded = multiply(scale, code.level(rank));
    return multiply(add(coded, multiply(target, splat16(-1.0f))), inverse_diagonal);
  }
};
struct MoveColumn {
  static constexpr bool kSumsLosses = false;
  template <typename Code>
  static inline F32x16 decide(const F32x16& gradient, const Code& code, const F32x16& scale,
                              const F32x16& inverse, const F32x16& inverse_diagonal,
                              int32_t* ranks) noexcept {
    const F32x16 minus = splat16(-1.0f);
    const F32x16 coded = multiply(scale, code.level(load_ranks<typename Code::Rank>(ranks)));
    const F32x16 wanted = add(coded, multiply(multiply(gradient, inverse_diagonal), minus));
    const typename Code::Rank rank = code.rank(multiply(wanted, inverse));
    store_ranks(ranks, rank);
    return add(multiply(scale, code.level(rank)), multiply(coded, minus));
  }
};

template <typename Column, int kSets, int kColumns, typename Code>
static inline void column_group(const ColumnsArgs& args, const Code& code, int64_t set, int64_t first,
                                float* losses) noexcept {
  const int64_t size = args.columns * 16;
  F32x16 sums[kSets][kColumns];
  NFLOAT_UNROLL
  for (int s = 0; s < kSets; ++s) NFLOAT_UNROLL
  for (int c = 0; c < kColumns; ++c) sums[s][c] = load16(args.work + (set + s) * size + (first + c) * 16);
  const float* row = args.matrix + first;
  for (int64_t i = 0; i < first; ++i, row += args.stride) {
    F32x16 factors[kColumns];
    NFLOAT_UNROLL
    for (int c = 0; c < kColumns; ++c) factors[c] = splat16(row[c]);
    NFLOAT_UNROLL
    for (int s = 0; s < kSets; ++s) {
      const F32x16 passed = load16(args.work + (set + s) * size + i * 16);
      NFLOAT_UNROLL
      for (int c = 0; c < kColumns; ++c) sums[s][c] = add(sums[s][c], multiply(passed, factors[c]));
    }
  }
  NFLOAT_UNROLL
  for (int c = 0; c < kColumns; ++c) {
    const int64_t at = first + c;
    const F32x16 inverse_diagonal = splat16(args.inverse_diagonal[at]);
    NFLOAT_UNROLL
    for (int s = 0; s < kSets; ++s) {
      const int64_t lanes = (set + s) * 16, place = (set + s) * size + at * 16;
      const F32x16 passed =
          Column::decide(sums[s][c], code, load16(args.scales + lanes), load16(args.inverses + lanes),
                         inverse_diagonal, args.ranks + place);
      store16(args.work + place, passed);
      if constexpr (Column::kSumsLosses)
        store16(losses + lanes, add(load16(losses + lanes), multiply(passed, passed)));
      NFLOAT_UNROLL
      for (int k = c + 1; k < kColumns; ++k)
        sums[s][k] = add(sums[s][k], multiply(passed, splat16(args.matrix[at * args.stride + first + k])));
    }
  }
}

template <typename Column, int kSets, typename Code>
static inline void column_sets(const ColumnsArgs& args, const Code& code, int64_t set,
                               float* losses) noexcept {
  int64_t first = 0;
  for (; first + kFeedColumns <= args.columns; first += kFeedColumns)
    column_group<Column, kSets, kFeedColumns>(args, code, set, first, losses);
  for (; first < args.columns; ++first) column_group<Column, kSets, 1>(args, code, set, first, losses);
}

template <typename Column, typename Code>
static inline void all_sets(const ColumnsArgs& args, float* losses) noexcept {
  const Code code(args);
  int64_t set = 0;
  for (; set + kFeedSets <= args.sets; set += kFeedSets)
    column_sets<Column, kFeedSets>(args, code, set, losses);
  for (; set < args.sets; ++set) column_sets<Column, 1>(args, code, set, losses);
}

template <typename Column>
static inline void all_columns(const ColumnsArgs& args, float* losses) noexcept {
  args.steps == 0 ? all_sets<Column, TableCode>(args, losses) : all_sets<Column, StepCode>(args, losses);
}

static void feed_columns(const ColumnsArgs& args, float* losses) noexcept {
  all_columns<FeedColumn>(args, losses);
}
static void move_columns(const ColumnsArgs& args) noexcept {
  all_columns<MoveColumn>(args, nullptr);
}

template <typename Code, bool kMinima>
static inline void losses_of(const ScaleLossArgs& args) noexcept {
  const Code code(args);
  for (int64_t row = 0; row < args.rows; ++row) {
    const float* values = args.values + row * args.value_stride;
    for (int64_t first = 0; first < args.counts[row]; first += 16) {
      const int64_t place = row * args.candidate_stride + first;
      const F32x16 inverse = load16(args.inverses + place);
      F32x16 minimum = splat16(0.0f);
      if constexpr (kMinima) minimum = load16(args.minima + place);
      F32x16 sum = load16(args.losses + place);
      for (int64_t j = 0; j < args.columns; ++j) {
        F32x16 value = splat16(values[j]);
        if constexpr (kMinima) value = add(value, minimum);
        const F32x16 x = multiply(value, inverse);
        const F32x16 error = multiply(add(x, code.minus_level(code.rank(x))), splat16(args.weights[j]));
        sum = add(sum, multiply(error, error));
      }
      store16(args.losses + place, sum);
    }
  }
}

template <typename Code>
static inline void losses_of(const ScaleLossArgs& args) noexcept {
  args.minima == nullptr ? losses_of<Code, false>(args) : losses_of<Code, true>(args);
}

static void scale_losses(const ScaleLossArgs& args) noexcept {
  args.steps == 0 ? losses_of<TableCode>(args) : losses_of<StepCode>(args);
}

inline constexpr CalibrateKernels kCalibrateKernels = {
    .scale_losses = scale_losses, .feed_columns = feed_columns, .move_columns = move_columns};

}  // namespace nfloat::kernels::NFLOAT_TARGET_NAMESPACE
