// SPDX-License-Identifier: Apache-2.0
// Scale search. Compiled once per target; includer defines NFLOAT_TARGET_NAMESPACE.
#include "kernels/quantize-inl.h"

namespace nfloat::kernels::NFLOAT_TARGET_NAMESPACE {

// A candidate scale s gives codes, the codes give the least-squares scale A / B with A = sum of w * level and
// B = sum of level^2, whose squared error is sum of w^2 - A^2 / B: the candidate with the largest A^2 / B
// wins. Candidates stand in the 16 lanes and weights come one by one, so that no sum crosses lanes;
// refinement puts weights in the lanes. All in units of the block's absmax, so that nothing overflows.
inline constexpr int64_t kFitChunk = 1024;
inline constexpr int kRefinements = 2;
inline constexpr int64_t kMostFitted = 8;

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

static inline float sum_lanes(const F32x16& x) noexcept {
  float lanes[16];
  store16(lanes, x);
  for (int width = 8; width > 0; width /= 2)
    for (int i = 0; i < width; ++i) lanes[i] += lanes[i + width];
  return lanes[0];
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
  float products[16], squares[16], scores[16], scales[16];
  store16(products, sums.product);
  store16(squares, sums.square);
  store16(scores, divide(multiply(sums.product, sums.product), sums.square));
  store16(scales, divide(sums.product, sums.square));
  float keys[16];
  for (int i = 0; i < 16; ++i) {
    const bool counts = squares[i] > 0 && (negative || products[i] > 0) && scores[i] > 0;
    keys[i] = counts ? scores[i] : 0.0f;
  }
  Fit best;
  best.score = float_of(largest16(bits_of(load16(keys))));
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
                      const RankTables& ranks, float* scales) noexcept {
  alignas(64) float y[kFitChunk];
  Fit fits[kMostFitted];
  const int64_t stride = (count + 15) / 16 * 16;
  for (int64_t b = 0; b < blocks; ++b)
    normalise(weights + b * count, count, splat16(1.0f / scales[b]), y + b * stride);
  for (int64_t b = 0; b < blocks; ++b) {
    Sums sums{splat16(0.0f), splat16(0.0f)};
    add_candidates<kBins>(y + b * stride, count,
                          candidate_factors(weights + b * count, count, scales[b], negative, ranks), ranks,
                          &sums);
    fits[b] = best_candidate(sums, negative);
  }
  for (int round = 0; round < kRefinements; ++round) {
    for (int64_t b = 0; b < blocks; ++b) {
      Sums sums{splat16(0.0f), splat16(0.0f)};
      add_weights<kBins>(y + b * stride, count, splat16(1.0f / fits[b].scale), ranks, &sums);
      offer(sum_lanes(sums.product), sum_lanes(sums.square), negative, &fits[b]);
    }
  }
  for (int64_t b = 0; b < blocks; ++b) scales[b] = denormalised(fits[b].scale, scales[b]);
}

// One block longer than kFitChunk, normalised piece by piece in every pass.
template <bool kBins, typename Element>
static float fit_long(const Element* block, int64_t count, float absmax, bool negative,
                      const RankTables& ranks) noexcept {
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
  pieces(
      [&](const float* piece, int64_t size) { add_candidates<kBins>(piece, size, factors, ranks, &sums); });
  Fit fit = best_candidate(sums, negative);
  for (int round = 0; round < kRefinements; ++round) {
    sums = {splat16(0.0f), splat16(0.0f)};
    const F32x16 factor = splat16(1.0f / fit.scale);
    pieces([&](const float* piece, int64_t size) { add_weights<kBins>(piece, size, factor, ranks, &sums); });
    offer(sum_lanes(sums.product), sum_lanes(sums.square), negative, &fit);
  }
  return denormalised(fit.scale, absmax);
}

static int64_t fit(const BlocksArgs& args, bool negative, float* scales) noexcept {
  const RankTables ranks = make_rank_tables(*args.table);
  const int64_t stride = (args.block_size + 15) / 16 * 16;
  const int64_t together =
      stride > kFitChunk ? 1 : (kFitChunk / stride < kMostFitted ? kFitChunk / stride : kMostFitted);
  return with_type(args, ranks, [&]<typename Element, bool kBins>() {
    int64_t bad = -1;
    // Blocks that wait to be fitted together: whole ones, one after the other.
    const Element* waiting = nullptr;
    int64_t count_of = 0, number = 0, first = 0;
    const auto flush = [&] {
      if (number > 0) fit_short<kBins>(waiting, count_of, number, negative, ranks, scales + first);
      number = 0;
    };
    each_block<Element>(args, [&](const Element* block, int64_t begin, int64_t count, int64_t index) {
      bool finite;
      const float scale = block_absmax(block, begin, count, &finite, &bad);
      scales[index] = scale;
      const bool fitted = finite && scale >= kLeastScale;
      if (fitted && count > kFitChunk) {
        scales[index] = fit_long<kBins>(block, count, scale, negative, ranks);
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
