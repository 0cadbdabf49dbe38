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

static inline void store_ranks(int32_t* to, const I32x16& ranks) noexcept {
  std::memcpy(to, &ranks, sizeof ranks);
}
static inline I32x16 load_ranks(const int32_t* from) noexcept {
  I32x16 ranks;
  std::memcpy(&ranks, from, sizeof ranks);
  return ranks;
}

// What becomes of a column whose target, or gradient, is final.
struct FeedColumn {
  static constexpr bool kSumsLosses = true;
  static inline F32x16 decide(const F32x16& target, const RankTables& tables, const F32x16& scale,
                              const F32x16& inverse, const F32x16& inverse_diagonal,
                              int32_t* ranks) noexcept {
    const I32x16 rank = rank_of<false, true>(multiply(target, inverse), tables);
    store_ranks(ranks, rank);
    const F32x16 coded = multiply(scale, lookup16(tables.levels, rank));
    return multiply(add(coded, multiply(target, splat16(-1.0f))), inverse_diagonal);
  }
};
struct MoveColumn {
  static constexpr bool kSumsLosses = false;
  static inline F32x16 decide(const F32x16& gradient, const RankTables& tables, const F32x16& scale,
                              const F32x16& inverse, const F32x16& inverse_diagonal,
                              int32_t* ranks) noexcept {
    const F32x16 minus = splat16(-1.0f);
    const F32x16 coded = multiply(scale, lookup16(tables.levels, load_ranks(ranks)));
    const F32x16 wanted = add(coded, multiply(multiply(gradient, inverse_diagonal), minus));
    const I32x16 rank = rank_of<false, true>(multiply(wanted, inverse), tables);
    store_ranks(ranks, rank);
    return add(multiply(scale, lookup16(tables.levels, rank)), multiply(coded, minus));
  }
};

template <typename Column, int kSets, int kColumns>
static inline void column_group(const ColumnsArgs& args, const RankTables& tables, int64_t set, int64_t first,
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
          Column::decide(sums[s][c], tables, load16(args.scales + lanes), load16(args.inverses + lanes),
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

template <typename Column, int kSets>
static inline void column_sets(const ColumnsArgs& args, const RankTables& tables, int64_t set,
                               float* losses) noexcept {
  int64_t first = 0;
  for (; first + kFeedColumns <= args.columns; first += kFeedColumns)
    column_group<Column, kSets, kFeedColumns>(args, tables, set, first, losses);
  for (; first < args.columns; ++first) column_group<Column, kSets, 1>(args, tables, set, first, losses);
}

template <typename Column>
static inline void all_columns(const ColumnsArgs& args, float* losses) noexcept {
  const RankTables tables = make_rank_tables(*args.table);
  int64_t set = 0;
  for (; set + kFeedSets <= args.sets; set += kFeedSets)
    column_sets<Column, kFeedSets>(args, tables, set, losses);
  for (; set < args.sets; ++set) column_sets<Column, 1>(args, tables, set, losses);
}

static void feed_columns(const ColumnsArgs& args, float* losses) noexcept {
  all_columns<FeedColumn>(args, losses);
}
static void move_columns(const ColumnsArgs& args) noexcept {
  all_columns<MoveColumn>(args, nullptr);
}

static void scale_losses(const ScaleLossArgs& args) noexcept {
  const RankTables tables = make_rank_tables(*args.table);
  const F32x16 below_zero = multiply(tables.levels, splat16(-1.0f));
  for (int64_t row = 0; row < args.rows; ++row) {
    const float* values = args.values + row * args.value_stride;
    for (int64_t first = 0; first < args.counts[row]; first += 16) {
      const int64_t place = row * args.candidate_stride + first;
      const F32x16 inverse = load16(args.inverses + place);
      F32x16 sum = load16(args.losses + place);
      for (int64_t j = 0; j < args.columns; ++j) {
        const F32x16 x = multiply(splat16(values[j]), inverse);
        const F32x16 level = lookup16(below_zero, rank_of<false, true>(x, tables));
        const F32x16 error = multiply(add(x, level), splat16(args.weights[j]));
        sum = add(sum, multiply(error, error));
      }
      store16(args.losses + place, sum);
    }
  }
}

inline constexpr CalibrateKernels kCalibrateKernels = {
    .scale_losses = scale_losses, .feed_columns = feed_columns, .move_columns = move_columns};

}  // namespace nfloat::kernels::NFLOAT_TARGET_NAMESPACE
