// SPDX-License-Identifier: Apache-2.0
// Rank of a value among a code's thresholds. Compiled once per target; includer defines
// NFLOAT_TARGET_NAMESPACE.
#ifndef NFLOAT_KERNELS_RANKS_INL_H_
#define NFLOAT_KERNELS_RANKS_INL_H_

#include <cstring>

#include "kernels/quantize.h"
#include "kernels/simd/wide.h"

namespace nfloat::kernels::NFLOAT_TARGET_NAMESPACE {

// Two exact ways to count the thresholds below y. The tree takes four comparisons: node n of a heap holds
// the threshold that parts its leaves, node 16 + r is rank r. The bins take one: where no bin of [-1, 1] (see
// bin_of) holds two thresholds, the bin gives the rank but for one comparison.
struct RankTables {
  F32x16 root, upper, lower;
  F32x16 bin_thresholds[2];
  I32x16 bin_ranks[2];
  F32x16 levels;  // by rank
  ByteTable codes;
  bool has_bins = false;
};

static inline float lane_of(const F32x16& x, int lane) noexcept {
  float lanes[16];
  store16(lanes, x);
  return lanes[lane];
}

#if defined(__AVX512F__)
static inline void fill_bins(const CodeTable& table, RankTables* ranks) noexcept {
  int32_t bins[16];
  const I32x16 threshold_bins = bin_of<false>(load16(table.thresholds));
  std::memcpy(bins, &threshold_bins, sizeof bins);
  float thresholds[32];
  int32_t counts[32];
  ranks->has_bins = true;
  for (int bin = 0; bin < 32; ++bin) {
    int below = 0, inside = 0;
    thresholds[bin] = __builtin_inff();
    for (int i = 0; i < 15; ++i) {
      if (table.thresholds[i] == __builtin_inff()) break;
      if (table.thresholds[i] < -1.0f || table.thresholds[i] > 1.0f) ranks->has_bins = false;
      const int own = bins[i] & 31;
      below += own < bin ? 1 : 0;
      if (own != bin) continue;
      thresholds[bin] = table.thresholds[i];
      ++inside;
    }
    if (inside > 1) ranks->has_bins = false;
    counts[bin] = below;
  }
  for (int half = 0; half < 2; ++half) {
    ranks->bin_thresholds[half] = load16(thresholds + 16 * half);
    ranks->bin_ranks[half] = bits_of(load16(reinterpret_cast<const float*>(counts + 16 * half)));
  }
}
#endif

static inline RankTables make_rank_tables(const CodeTable& table) noexcept {
  RankTables ranks{};
  float upper[16] = {}, lower[16], levels[16];
  for (int half = 0; half < 16; half += 8) {
    for (int n = 2; n < 4; ++n) upper[half + n] = table.thresholds[8 * (n - 2) + 3];
    for (int n = 4; n < 8; ++n) upper[half + n] = table.thresholds[4 * (n - 4) + 1];
    for (int n = 0; n < 8; ++n) lower[half + n] = table.thresholds[2 * n];
  }
  for (int rank = 0; rank < 16; ++rank) levels[rank] = table.levels[table.code_of_rank[rank]];
  ranks.root = splat16(table.thresholds[7]);
  ranks.upper = load16(upper);
  ranks.lower = load16(lower);
  ranks.levels = load16(levels);
  ranks.codes = byte_table(table.code_of_rank);
#if defined(__AVX512F__)
  fill_bins(table, &ranks);
#endif
  return ranks;
}

// kClamp: y may be anything (NaN ranks lowest); without it |y| is at most 1 and a few ulp. Lanes hold the
// rank in their low four bits; bit 4 may be set.
template <bool kBins, bool kClamp>
static inline I32x16 rank_of(const F32x16& y, const RankTables& ranks) noexcept {
#if defined(__AVX512F__)
  if constexpr (kBins) {
    const I32x16 bin = bin_of<kClamp>(y);
    return increment_above(lookup32(ranks.bin_ranks, bin), y, lookup32(ranks.bin_thresholds, bin));
  }
#endif
  I32x16 n = descend(splat16(1), y, ranks.root);
  n = descend(n, y, lookup8(ranks.upper, n));
  n = descend(n, y, lookup8(ranks.upper, n));
  return descend(n, y, lookup8(ranks.lower, n));
}

// Tensors in mapped files lie at any address.
template <typename Element>
static inline float load1(const Element* from) noexcept {
  Element value;
  std::memcpy(&value, from, sizeof value);
  return widen(value);
}

// The first `count` elements, zeros after them.
template <typename Element>
static inline F32x16 load_part(const Element* from, int64_t count) noexcept {
  Element part[16] = {};
  std::memcpy(part, from, static_cast<size_t>(count) * sizeof(Element));
  return load16(part);
}

}  // namespace nfloat::kernels::NFLOAT_TARGET_NAMESPACE

#endif  // NFLOAT_KERNELS_RANKS_INL_H_
