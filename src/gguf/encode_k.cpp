// SPDX-License-Identifier: Apache-2.0
#include "gguf/encode_k.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <iterator>

#include "base/float16.h"
#include "gguf/super_block.h"
#include "gguf/tables.h"

namespace nfloat {
namespace {

constexpr int kLanes = 8;  // independent partial sums: their order is fixed, so compilers may use vectors

// `y` between the ends, and `low` for NaN.
float within(float y, float low, float high) noexcept {
  return y > low ? (y < high ? y : high) : low;
}

// The nearest whole number, ties to even, for |y| < 2^22.
float whole(float y) noexcept {
  constexpr float kShift = 12582912.0f;  // 1.5 * 2^23: what is behind the point has no place beside it
  return (y + kShift) - kShift;
}

float total(const float (&lanes)[kLanes]) noexcept {
  return ((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) + ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7]));
}

// body(element, lane) for `count` elements, a multiple of the lanes.
template <int kCount, typename Body>
void for_lanes(const Body& body) noexcept {
  static_assert(kCount % kLanes == 0);
  for (int i = 0; i < kCount; i += kLanes)
    for (int lane = 0; lane < kLanes; ++lane) body(i + lane, lane);
}

// Every weight counts alike, as a list of importances.
struct Equal {
  float operator[](int) const noexcept { return 1; }
  Equal operator+(int) const noexcept { return {}; }
};

// A factor as float16 that is no smaller than a tiny `value`: what is below the normal halves would lose up
// to everything by rounding down.
struct Factor {
  uint16_t bits = 0;
  float value = 0;
};
Factor factor(float value) noexcept {
  Factor result;
  result.bits = float_to_f16(value);
  const bool subnormal = (result.bits & 0x7c00) == 0;
  if (subnormal && std::fabs(f16_to_float(result.bits)) < std::fabs(value)) {
    ++result.bits;
    if (value < 0) result.bits |= 0x8000;
  }
  result.value = f16_to_float(result.bits);
  return result;
}

// Blocks of 32 that stand for scale * code - minimum, codes from 0 to kMost. Squared errors count by
// Importance: Equal or const float*, beside the weights.
template <int kMost, typename Importance>
struct Even {
  static constexpr int kBlock = 32, kBlocks = kSuperBlock / kBlock;
  static constexpr int kSixBits = 63;

  struct Fit {
    float scale = 0, minimum = 0;  // neither is negative
  };

  static float code(float y) noexcept { return whole(within(y, 0, kMost)); }

  // Guesses of the step around the one that spans the block; for the codes that each gives, scale and minimum
  // by least squares. Their squared error, up to a constant, tells which is the best.
  static Fit search(const float* x, Importance w) noexcept {
    float low = 0, high = 0, sum_x = 0, sum_w = 0;
    for (int i = 0; i < kBlock; ++i) {
      low = std::min(low, x[i]);
      high = i == 0 ? x[0] : std::max(high, x[i]);
      sum_x += w[i] * x[i];
      sum_w += w[i];
    }
    if (!(high > low)) return {0, -low};
    Fit best;
    float best_gain = 0;
    constexpr int kGuesses = 24;
    for (int guess = 0; guess < kGuesses; ++guess) {
      // Spans from a tenth wider than the block to narrower by what cuts off the farthest weights.
      const float steps = static_cast<float>(kMost) * (0.9f + 0.0225f * static_cast<float>(guess));
      const float inverse = steps / (high - low);
      float codes[kLanes] = {}, squares[kLanes] = {}, products[kLanes] = {};
      for_lanes<kBlock>([&](int i, int lane) {
        const float q = code(inverse * (x[i] - low));
        const float wq = w[i] * q;
        codes[lane] += wq;
        squares[lane] += wq * q;
        products[lane] += wq * x[i];
      });
      const float sum_q = total(codes), sum_qq = total(squares), sum_qx = total(products);
      const float determinant = sum_w * sum_qq - sum_q * sum_q;
      Fit fit;
      if (determinant > 0) {
        fit.scale = (sum_w * sum_qx - sum_x * sum_q) / determinant;
        fit.minimum = (sum_q * sum_qx - sum_qq * sum_x) / determinant;
      }
      if (!(determinant > 0) || fit.minimum < 0) fit = {sum_qq > 0 ? sum_qx / sum_qq : 0, 0};
      const float gain = fit.scale * sum_qx - fit.minimum * sum_x;
      if (fit.scale > 0 && gain > best_gain) {
        best_gain = gain;
        best = fit;
      }
    }
    return best_gain > 0 ? best : Fit{(high - low) / static_cast<float>(kMost), -low};
  }

  static float error(const float* x, Importance w, float scale, float minimum) noexcept {
    const float inverse = scale > 0 ? 1.0f / scale : 0.0f;
    float squares[kLanes] = {};
    for_lanes<kBlock>([&](int i, int lane) {
      const float off = code(inverse * (x[i] + minimum)) * scale - minimum - x[i];
      squares[lane] += w[i] * off * off;
    });
    return total(squares);
  }

  Factor scale, minimum;
  uint8_t scales[kBlocks] = {}, minima[kBlocks] = {};
  uint8_t codes[kSuperBlock];

  Even(const float* x, Importance w) noexcept {
    Fit fits[kBlocks];
    float most_scale = 0, most_minimum = 0;
    for (int b = 0; b < kBlocks; ++b) {
      fits[b] = search(x + b * kBlock, w + b * kBlock);
      most_scale = std::max(most_scale, fits[b].scale);
      most_minimum = std::max(most_minimum, fits[b].minimum);
    }
    scale = factor(most_scale / kSixBits);
    minimum = factor(most_minimum / kSixBits);
    for (int b = 0; b < kBlocks; ++b) choose(x + b * kBlock, w + b * kBlock, fits[b], b);
  }

  // The whole multiples of the two factors, among the neighbours of what the search found.
  void choose(const float* x, Importance w, const Fit& fit, int b) noexcept {
    const float step = scale.value > 0 ? fit.scale / scale.value : 0;
    const float offset = minimum.value > 0 ? fit.minimum / minimum.value : 0;
    const float s0 = whole(within(step, 0, kSixBits)), m0 = whole(within(offset, 0, kSixBits));
    float best = -1, best_s = s0, best_m = m0;
    for (const float s : {s0, s0 - 1, s0 + 1}) {
      for (const float m : {m0, m0 - 1, m0 + 1}) {
        if (s < 0 || s > kSixBits || m < 0 || m > kSixBits) continue;
        const float own = error(x, w, scale.value * s, minimum.value * m);
        if (best < 0 || own < best) {
          best = own;
          best_s = s;
          best_m = m;
        }
      }
    }
    scales[b] = static_cast<uint8_t>(best_s);
    minima[b] = static_cast<uint8_t>(best_m);
    const float own_scale = scale.value * best_s, own_minimum = minimum.value * best_m;
    const float inverse = own_scale > 0 ? 1.0f / own_scale : 0.0f;
    for (int i = 0; i < kBlock; ++i)
      codes[b * kBlock + i] = static_cast<uint8_t>(code(inverse * (x[i] + own_minimum)));
  }
};

// Tables of values, scaled: value_of(code_of(y)) is the one nearest to y.
struct SixBits {
  static constexpr int kBlock = 16;
  static constexpr float kMost = 127, kLeast = -128;  // what a block's own scale may be
  // The farthest weight goes to one of these.
  static constexpr std::array<float, 16> kTargets = {-27, -28,    -29, -29.5f, -30, -30.5f, -31, -31.5f,
                                                     -32, -32.5f, -33, 28,     29,  30,     31,  31.5f};

  static float nearest(float y) noexcept { return whole(within(y, -32, 31)); }
  static uint8_t code(float y) noexcept { return static_cast<uint8_t>(nearest(y) + 32.0f); }
};

struct Table {
  static constexpr int kBlock = 32;
  static constexpr float kMost = 31, kLeast = -32;
  static constexpr std::array<float, 16> kTargets = {-109, -114, -118, -122, -126, -130, -134, -139,
                                                     97,   101,  105,  109,  113,  117,  121,  126};

  // By halves: the thresholds between the levels are multiples of one half.
  static constexpr std::array<uint8_t, 512> kCodes = [] {
    std::array<uint8_t, 512> codes{};
    for (size_t i = 0; i < codes.size(); ++i) {
      const float y = (static_cast<float>(i) - 256.0f) / 2;
      while (codes[i] < 15 && 2 * y >= kIq4NlLevels[codes[i]] + kIq4NlLevels[codes[i] + 1u]) ++codes[i];
    }
    return codes;
  }();
  static uint8_t code(float y) noexcept {
    return kCodes[static_cast<size_t>(static_cast<int>(within(2 * y + 256, 0, 511)))];
  }
  static float nearest(float y) noexcept { return kIq4NlLevels[code(y)]; }
};

// Super-blocks of scaled tables: a factor, a whole scale for each block.
template <typename Kind, typename Importance>
struct Scaled {
  static constexpr int kBlock = Kind::kBlock, kBlocks = kSuperBlock / kBlock;

  Factor scale;
  int scales[kBlocks] = {};
  uint8_t codes[kSuperBlock];

  // The scale of least squares for the codes that one of the targets gives, of the best of them.
  static float search(const float* x, Importance w) noexcept {
    float farthest = 0;
    for (int i = 0; i < kBlock; ++i)
      if (std::fabs(x[i]) > std::fabs(farthest)) farthest = x[i];
    if (farthest == 0) return 0;
    float best = farthest / Kind::kTargets[0], best_gain = 0;
    for (const float target : Kind::kTargets) {
      const float inverse = target / farthest;
      float squares[kLanes] = {}, products[kLanes] = {};
      for_lanes<kBlock>([&](int i, int lane) {
        const float q = Kind::nearest(inverse * x[i]);
        const float wq = w[i] * q;
        squares[lane] += wq * q;
        products[lane] += wq * x[i];
      });
      const float sum_qq = total(squares), sum_qx = total(products);
      const float gain = sum_qq > 0 ? sum_qx * (sum_qx / sum_qq) : 0;
      if (gain > best_gain) {
        best_gain = gain;
        best = sum_qx / sum_qq;
      }
    }
    return best;
  }

  static float error(const float* x, Importance w, float scale) noexcept {
    const float inverse = scale != 0 ? 1.0f / scale : 0.0f;
    float squares[kLanes] = {};
    for_lanes<kBlock>([&](int i, int lane) {
      const float off = Kind::nearest(inverse * x[i]) * scale - x[i];
      squares[lane] += w[i] * off * off;
    });
    return total(squares);
  }

  Scaled(const float* x, Importance w) noexcept {
    float fits[kBlocks], farthest = 0;
    for (int b = 0; b < kBlocks; ++b) {
      fits[b] = search(x + b * kBlock, w + b * kBlock);
      if (std::fabs(fits[b]) > std::fabs(farthest)) farthest = fits[b];
    }
    scale = factor(farthest / Kind::kLeast);
    for (int b = 0; b < kBlocks; ++b) choose(x + b * kBlock, w + b * kBlock, fits[b], b);
  }

  void choose(const float* x, Importance w, float fit, int b) noexcept {
    const float middle =
        scale.value != 0 ? whole(within(fit / scale.value, Kind::kLeast, Kind::kMost)) : 0.0f;
    float best = -1, chosen = middle;
    for (const float own : {middle, middle - 1, middle + 1}) {
      if (own < Kind::kLeast || own > Kind::kMost) continue;
      const float found = error(x, w, scale.value * own);
      if (best < 0 || found < best) {
        best = found;
        chosen = own;
      }
    }
    scales[b] = static_cast<int>(chosen);
    const float own_scale = scale.value * chosen;
    const float inverse = own_scale != 0 ? 1.0f / own_scale : 0.0f;
    for (int i = 0; i < kBlock; ++i) codes[b * kBlock + i] = Kind::code(inverse * x[i]);
  }
};

template <int kMost, typename Importance>
void search_even(const float* x, Importance w, SuperBlock& found) noexcept {
  const Even<kMost, Importance> coded(x, w);
  found.scale = coded.scale.bits;
  found.minimum = coded.minimum.bits;
  std::copy(std::begin(coded.scales), std::end(coded.scales), found.scales);
  std::copy(std::begin(coded.minima), std::end(coded.minima), found.minima);
  std::copy(std::begin(coded.codes), std::end(coded.codes), found.codes);
}

template <typename Kind, typename Importance>
void search_scaled(const float* x, Importance w, SuperBlock& found) noexcept {
  const Scaled<Kind, Importance> coded(x, w);
  found.scale = coded.scale.bits;
  for (int b = 0; b < Scaled<Kind, Importance>::kBlocks; ++b)
    found.scales[b] = static_cast<int8_t>(coded.scales[b]);
  std::copy(std::begin(coded.codes), std::end(coded.codes), found.codes);
}

template <typename Importance>
void search_block(GgufType type, const float* x, Importance w, SuperBlock& found) noexcept {
  switch (type) {
    case GgufType::kQ4_K:
      return search_even<15>(x, w, found);
    case GgufType::kQ5_K:
      return search_even<31>(x, w, found);
    case GgufType::kQ6_K:
      return search_scaled<SixBits>(x, w, found);
    default:
      return search_scaled<Table>(x, w, found);
  }
}

template <GgufType kType>
void encode_block(const float* x, const float* importance, uint8_t* block) noexcept {
  SuperBlock found;
  search_super_block(kType, x, importance, found);
  put_super_block(kType, found, block);
}

}  // namespace

void search_super_block(GgufType type, const float* x, const float* importance, SuperBlock& found) noexcept {
  importance != nullptr ? search_block(type, x, importance, found) : search_block(type, x, Equal(), found);
}

void encode_q4_k(const float* x, const float* importance, uint8_t* block) noexcept {
  encode_block<GgufType::kQ4_K>(x, importance, block);
}

void encode_q5_k(const float* x, const float* importance, uint8_t* block) noexcept {
  encode_block<GgufType::kQ5_K>(x, importance, block);
}

void encode_q6_k(const float* x, const float* importance, uint8_t* block) noexcept {
  encode_block<GgufType::kQ6_K>(x, importance, block);
}

void encode_iq4_xs(const float* x, const float* importance, uint8_t* block) noexcept {
  encode_block<GgufType::kIQ4_XS>(x, importance, block);
}

}  // namespace nfloat
