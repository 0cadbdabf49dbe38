// SPDX-License-Identifier: Apache-2.0
// Scale search. Compiled once per target; includer defines NFLOAT_TARGET_NAMESPACE.
#include "kernels/quantize-inl.h"
#include "kernels/unroll.h"

namespace nfloat::kernels::NFLOAT_TARGET_NAMESPACE {

// A candidate scale s gives codes, the codes give the least-squares scale A / B with A = sum of w * level and
// B = sum of level^2, whose squared error is sum of w^2 - A^2 / B: the candidate with the largest A^2 / B
// wins. Candidates stand in the 16 lanes and weights come one by one, so that no sum crosses lanes;
// refinement puts weights in the lanes. All in units of the block's absmax, so that nothing overflows.
inline constexpr int64_t kFitChunk = 1024;
inline constexpr int kRefinements = 2;
inline constexpr int64_t kMostFitted = 8;
inline constexpr int kMostSteps = 4;

// Scale over absmax, divided by the end of the code that the largest weight meets. Up to 1.1 the largest
// weight takes the outermost level, beyond 1.2 the next one (NF4: .72 and .70); between them nothing is best.
// Long blocks want their tails clipped.
inline constexpr float kShortRatios[16] = {0.84f, 0.87f, 0.89f,  0.91f, 0.93f, 0.95f, 0.97f, 0.985f,
                                           1.0f,  1.02f, 1.045f, 1.07f, 1.1f,  1.24f, 1.29f, 1.34f};
inline constexpr float kLongRatios[16] = {0.3f,  0.4f,  0.5f,  0.58f, 0.64f, 0.69f, 0.73f, 0.77f,
                                          0.81f, 0.85f, 0.88f, 0.91f, 0.94f, 0.97f, 1.0f,  1.05f};
inline constexpr int64_t kLongBlock = 192;

struct Sums {
  F32x16 product, square;  // A and B
};

// Adds `count` weights to the sums of the 16 candidates.
template <bool kBins>
static inline void add_candidates(const float* y, int64_t count, const F32x16& factors,
                                  const RankTables& ranks, Sums* sums) noexcept {
  F32x16 product = sums->product, square = sums->square;
  for (int64_t i = 0; i < count; ++i) {
    const F32x16 weight = splat16(y[i]);
    const F32x16 level = lookup16(ranks.levels, rank_of<kBins, true>(multiply(weight, factors), ranks));
    product = add(product, multiply(weight, level));
    square = add(square, multiply(level, level));
  }
  sums->product = product;
  sums->square = square;
}

// What a weight's candidates have in common: their ratios lie near one another, so that the ranks which they
// give it are few neighbours. The least of them is found for sixteen weights at a time, and the others by
// comparing with the thresholds above it, one after the other, the same for every lane. Candidates of both
// signs are apart, even and odd lanes, so thresholds and levels come in pairs.
struct NearTables {
  static constexpr int kRow = 16 + kMostSteps;
  static constexpr int kStep = 2 * (kRow + 1);  // to the pair one rank further
  float thresholds[2 * kRow * kRow], levels[2 * kRow * kRow];
  int32_t changes[2 * kRow * kRow];  // bits in which a level differs from the next
  int steps[2];  // the most ranks that candidates of a weight are apart, in short and in long blocks
};

// The most thresholds of one sign within a factor of `ratio`, at least 1 (a zero that tiny products meet); a
// number above kMostSteps where a threshold is nearly zero.
static inline int thresholds_within(const CodeTable& table, float ratio) noexcept {
  constexpr float kTiny = 1e-30f, kRounding = 1.0001f;
  int most = 1;
  for (int i = 0; i < 15; ++i) {
    const float from = table.thresholds[i] < 0 ? -table.thresholds[i] : table.thresholds[i];
    if (from == 0) continue;
    if (from < kTiny) return kMostSteps + 1;
    int inside = 0;
    for (int j = 0; j < 15; ++j) {
      const float to = table.thresholds[i] < 0 ? -table.thresholds[j] : table.thresholds[j];
      inside += to >= from && to <= from * (ratio * kRounding) && to < __builtin_inff() ? 1 : 0;
    }
    most = inside > most ? inside : most;
  }
  return most;
}

// The largest over the smallest of ratios first, first + step, ...
static inline float spread(const float* ratios, int first, int step) noexcept {
  float low = ratios[first], high = ratios[first];
  for (int i = first; i < 16; i += step) {
    low = ratios[i] < low ? ratios[i] : low;
    high = ratios[i] > high ? ratios[i] : high;
  }
  return high / low;
}

static inline void fill_near_tables(const CodeTable& table, bool negative, NearTables* near) noexcept {
  constexpr int kRow = NearTables::kRow;
  float thresholds[kRow], levels[kRow + 1];
  int32_t bits[kRow + 1];
  for (int i = 0; i <= kRow; ++i) levels[i] = table.levels[table.code_of_rank[i < 16 ? i : 15]];
  std::memcpy(bits, levels, sizeof bits);
  for (int i = 0; i < kRow; ++i) thresholds[i] = i < 15 ? table.thresholds[i] : __builtin_inff();
  for (int i = 0; i < kRow; ++i)
    for (int j = 0; j < kRow; ++j) {
      const int pair = 2 * (i * kRow + j);
      near->thresholds[pair] = thresholds[i], near->thresholds[pair + 1] = thresholds[j];
      near->levels[pair] = levels[i], near->levels[pair + 1] = levels[j];
      near->changes[pair] = bits[i] ^ bits[i + 1], near->changes[pair + 1] = bits[j] ^ bits[j + 1];
    }
  for (int size = 0; size < 2; ++size) {
    const float* ratios = size == 0 ? kShortRatios : kLongRatios;
    const int step = negative ? 2 : 1;
    float most = spread(ratios, 0, step);
    if (negative && spread(ratios, 1, step) > most) most = spread(ratios, 1, step);
    near->steps[size] = thresholds_within(table, most);
  }
}

// The least rank of 16 weights under factors from `low` to `high`, 16 added (the leaf of the tree).
// Multiplication keeps the factors' order, or turns it round, rounding included.
static inline I32x16 least_leaves(const F32x16& weights, const F32x16& low, const F32x16& high,
                                  const RankTables& ranks) noexcept {
  return rank_of<false, true>(smaller(multiply(weights, low), multiply(weights, high)), ranks);
}

template <int kSteps>
static void add_near_candidates(const float* y, int64_t count, const F32x16& factors, const int32_t* pairs,
                                const NearTables& near, Sums* sums) noexcept {
  F32x16 product = sums->product, square = sums->square;
  for (int64_t i = 0; i < count; ++i) {
    const float* thresholds = near.thresholds + 2 * pairs[i];
    const int32_t* changes = near.changes + 2 * pairs[i];
    const F32x16 weight = splat16(y[i]);
    const F32x16 x = multiply(weight, factors);
    F32x16 level = splat_pairs16(near.levels + 2 * pairs[i]);
    NFLOAT_UNROLL
    for (int k = 0; k < kSteps; ++k)
      level = change_above(level, x, splat_pairs16(thresholds + k * NearTables::kStep),
                           splat_pairs16(changes + k * NearTables::kStep));
    product = add(product, multiply(weight, level));
    square = add(square, multiply(level, level));
  }
  sums->product = product;
  sums->square = square;
}

// Places in the tables of the weights' least ranks.
static inline void least_pairs(const float* y, int64_t count, const F32x16& factors, bool negative,
                               const RankTables& ranks, int32_t* pairs) noexcept {
  float lanes[16], low[2], high[2];
  store16(lanes, factors);
  for (int i = 0; i < 2; ++i) low[i] = high[i] = lanes[i];
  for (int i = 2; i < 16; ++i) {
    low[i % 2] = lanes[i] < low[i % 2] ? lanes[i] : low[i % 2];
    high[i % 2] = lanes[i] > high[i % 2] ? lanes[i] : high[i % 2];
  }
  if (!negative) {
    low[0] = low[0] < low[1] ? low[0] : low[1];
    high[0] = high[0] > high[1] ? high[0] : high[1];
  }
  static_assert(NearTables::kRow == 20);
  const I32x16 begin = splat16(int32_t{-16 * (NearTables::kRow + 1)});
  for (int64_t i = 0; i < count; i += 16) {
    const F32x16 weights = load16(y + i);
    const I32x16 even = least_leaves(weights, splat16(low[0]), splat16(high[0]), ranks);
    const I32x16 odd = negative ? least_leaves(weights, splat16(low[1]), splat16(high[1]), ranks) : even;
    const I32x16 twice = add(even, even), four = add(twice, twice), eight = add(four, four);
    const I32x16 twenty = add(four, add(eight, eight));
    const I32x16 pair = add(add(twenty, odd), begin);
    std::memcpy(pairs + i, &pair, sizeof pair);
  }
}

// Adds `count` weights of a block of `size` to the sums of the 16 candidates.
template <bool kBins>
static inline void add_all_candidates(const float* y, int64_t count, int64_t size, const F32x16& factors,
                                      bool negative, const RankTables& ranks, const NearTables& near,
                                      Sums* sums) noexcept {
  if constexpr (!kBins) {
    const int steps = near.steps[size < kLongBlock ? 0 : 1];
    if (steps <= kMostSteps) {
      alignas(64) int32_t pairs[kFitChunk];
      least_pairs(y, count, factors, negative, ranks, pairs);
      return steps == 1   ? add_near_candidates<1>(y, count, factors, pairs, near, sums)
             : steps == 2 ? add_near_candidates<2>(y, count, factors, pairs, near, sums)
             : steps == 3 ? add_near_candidates<3>(y, count, factors, pairs, near, sums)
                          : add_near_candidates<kMostSteps>(y, count, factors, pairs, near, sums);
    }
  }
  add_candidates<kBins>(y, count, factors, ranks, sums);
}

// Adds weights to the sums of one candidate; the lanes past `count` hold y = 0 and do not count.
template <bool kBins>
static inline void add_weights(const float* y, int64_t count, const F32x16& factor, const RankTables& ranks,
                               Sums* sums) noexcept {
  F32x16 product = sums->product, square = sums->square;
  for (int64_t i = 0; i < count; i += 16) {
    const F32x16 weight = load16(y + i);
    F32x16 level = lookup16(ranks.levels, rank_of<kBins, true>(multiply(weight, factor), ranks));
    if (count - i < 16) {
      float valid[16] = {};
      for (int64_t k = 0; k < count - i; ++k) valid[k] = 1.0f;
      level = multiply(level, load16(valid));
    }
    product = add(product, multiply(weight, level));
    square = add(square, multiply(level, level));
  }
  sums->product = product;
  sums->square = square;
}

// The ends of the code in the direction of the largest weight, for a positive and for a negative scale.
struct Ends {
  float same, opposite;
};
static inline Ends code_ends(const RankTables& ranks, bool largest_is_positive) noexcept {
  float low = -lane_of(ranks.levels, 0), high = lane_of(ranks.levels, 15);
  const float least = 0.25f * (low > high ? low : high);
  low = low > least ? low : least;
  high = high > least ? high : least;
  return largest_is_positive ? Ends{high, low} : Ends{low, high};
}

template <typename Element>
static inline void normalise(const Element* block, int64_t count, const F32x16& reciprocal,
                             float* y) noexcept {
  int64_t i = 0;
  for (; i + 16 <= count; i += 16) store16(y + i, multiply(load16(block + i), reciprocal));
  if (i < count) store16(y + i, multiply(load_part(block + i, count - i), reciprocal));
}

// Positive floats and their bits are in the same order, and above all negative ones.
template <typename Element>
static inline bool largest_is_positive(const Element* block, int64_t count, float absmax) noexcept {
  I32x16 largest = splat16(0);
  int64_t i = 0;
  for (; i + 16 <= count; i += 16) largest = larger(largest, bits_of(load16(block + i)));
  if (i < count) largest = larger(largest, bits_of(load_part(block + i, count - i)));
  return float_of(largest16(largest)) == absmax;
}

// The best scale of a block so far, over its absmax.
struct Fit {
  float score = 0, scale = 1;
};

// The first of the candidates with the best score; those without weight, of the wrong sign or that are no
// number do not count.
static inline Fit best_candidate(const Sums& sums, bool negative) noexcept {
  const F32x16 none = splat16(0.0f);
  const F32x16 scores = divide(multiply(sums.product, sums.product), sums.square);
  F32x16 counted = change_above(none, scores, none, bits_of(scores));
  counted = change_above(none, sums.square, none, bits_of(counted));
  if (!negative) counted = change_above(none, sums.product, none, bits_of(counted));
  float keys[16], scales[16];
  store16(keys, counted);
  store16(scales, divide(sums.product, sums.square));
  Fit best;
  best.score = float_of(largest16(bits_of(counted)));
  if (!(best.score > 0)) return best;
  int first = 15;
  for (int i = 15; i >= 0; --i) first = keys[i] == best.score ? i : first;
  best.scale = scales[first];
  return best;
}

static inline void offer(float product, float square, bool negative, Fit* best) noexcept {
  if (!(square > 0) || (!negative && !(product > 0))) return;
  const float score = product * product / square;
  if (!(score > best->score)) return;
  *best = {score, product / square};
}

// Factors that turn y into code units, of the 16 candidates.
template <typename Element>
static inline F32x16 candidate_factors(const Element* block, int64_t count, float absmax, bool negative,
                                       const RankTables& ranks) noexcept {
  const Ends ends = code_ends(ranks, largest_is_positive(block, count, absmax));
  const float* ratios = count < kLongBlock ? kShortRatios : kLongRatios;
  float ends_of[16];
  for (int i = 0; i < 16; ++i) {
    // Of both signs: every second ratio, each side its own half.
    ends_of[i] = negative && i % 2 != 0 ? -ends.opposite : ends.same;
  }
  return divide(load16(ends_of), load16(ratios));
}

static inline float denormalised(float scale, float absmax) noexcept {
  const float result = scale * absmax;
  return magnitude_of(result) < kInfinityBits ? result : absmax;
}

// `blocks` blocks of `count` weights each that lie one after the other, all of which fit into kFitChunk; in
// step, so that what one block waits for is filled with the others' work.
template <bool kBins, typename Element>
static void fit_short(const Element* weights, int64_t count, int64_t blocks, bool negative,
                      const RankTables& ranks, const NearTables& near, float* scales) noexcept {
  alignas(64) float y[kFitChunk];
  Fit fits[kMostFitted];
  const int64_t stride = (count + 15) / 16 * 16;
  for (int64_t b = 0; b < blocks; ++b)
    normalise(weights + b * count, count, splat16(1.0f / scales[b]), y + b * stride);
  for (int64_t b = 0; b < blocks; ++b) {
    Sums sums{splat16(0.0f), splat16(0.0f)};
    add_all_candidates<kBins>(y + b * stride, count, count,
                              candidate_factors(weights + b * count, count, scales[b], negative, ranks),
                              negative, ranks, near, &sums);
    fits[b] = best_candidate(sums, negative);
  }
  for (int round = 0; round < kRefinements; ++round) {
    for (int64_t b = 0; b < blocks; ++b) {
      Sums sums{splat16(0.0f), splat16(0.0f)};
      add_weights<kBins>(y + b * stride, count, splat16(1.0f / fits[b].scale), ranks, &sums);
      offer(sum16(sums.product), sum16(sums.square), negative, &fits[b]);
    }
  }
  for (int64_t b = 0; b < blocks; ++b) scales[b] = denormalised(fits[b].scale, scales[b]);
}

// One block longer than kFitChunk, normalised piece by piece in every pass.
template <bool kBins, typename Element>
static float fit_long(const Element* block, int64_t count, float absmax, bool negative,
                      const RankTables& ranks, const NearTables& near) noexcept {
  const F32x16 reciprocal = splat16(1.0f / absmax);
  alignas(64) float y[kFitChunk];
  const auto pieces = [&](auto body) {
    for (int64_t i = 0; i < count; i += kFitChunk) {
      const int64_t size = count - i < kFitChunk ? count - i : kFitChunk;
      normalise(block + i, size, reciprocal, y);
      body(y, size);
    }
  };
  const F32x16 factors = candidate_factors(block, count, absmax, negative, ranks);
  Sums sums{splat16(0.0f), splat16(0.0f)};
  pieces([&](const float* piece, int64_t size) {
    add_all_candidates<kBins>(piece, size, count, factors, negative, ranks, near, &sums);
  });
  Fit fit = best_candidate(sums, negative);
  for (int round = 0; round < kRefinements; ++round) {
    sums = {splat16(0.0f), splat16(0.0f)};
    const F32x16 factor = splat16(1.0f / fit.scale);
    pieces([&](const float* piece, int64_t size) { add_weights<kBins>(piece, size, factor, ranks, &sums); });
    offer(sum16(sums.product), sum16(sums.square), negative, &fit);
  }
  return denormalised(fit.scale, absmax);
}

static int64_t fit(const BlocksArgs& args, bool negative, float* scales) noexcept {
  const RankTables ranks = make_rank_tables(*args.table);
  NearTables near;
  fill_near_tables(*args.table, negative, &near);
  const int64_t stride = (args.block_size + 15) / 16 * 16;
  const int64_t together =
      stride > kFitChunk ? 1 : (kFitChunk / stride < kMostFitted ? kFitChunk / stride : kMostFitted);
  return with_type(args, ranks, [&]<typename Element, bool kBins>() {
    int64_t bad = -1;
    // Blocks that wait to be fitted together: whole ones, one after the other.
    const Element* waiting = nullptr;
    int64_t count_of = 0, number = 0, first = 0;
    const auto flush = [&] {
      if (number > 0) fit_short<kBins>(waiting, count_of, number, negative, ranks, near, scales + first);
      number = 0;
    };
    each_block<Element>(args, [&](const Element* block, int64_t begin, int64_t count, int64_t index) {
      bool finite;
      const float scale = block_absmax(block, begin, count, &finite, &bad);
      scales[index] = scale;
      const bool fitted = finite && scale >= kLeastScale;
      if (fitted && count > kFitChunk) {
        scales[index] = fit_long<kBins>(block, count, scale, negative, ranks, near);
        return;
      }
      if (!fitted || (number > 0 && count != count_of)) flush();
      if (!fitted) return;
      if (number == 0) waiting = block, count_of = count, first = index;
      if (++number == together) flush();
    });
    flush();
    return bad;
  });
}

inline constexpr QuantizeKernels kQuantizeKernels = {
    .absmax = absmax, .quantize = quantize, .fit = fit, .encode = encode, .decode = decode};

}  // namespace nfloat::kernels::NFLOAT_TARGET_NAMESPACE
