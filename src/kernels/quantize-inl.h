// SPDX-License-Identifier: Apache-2.0
// Compiled once per target. Includer defines NFLOAT_TARGET_NAMESPACE.
#include "kernels/quantize.h"
#include "kernels/ranks-inl.h"

namespace nfloat::kernels::NFLOAT_TARGET_NAMESPACE {

inline constexpr int32_t kInfinityBits = 0x7f800000;
inline constexpr float kLeastScale = 1e-38f;

static inline float float_of(int32_t bits) noexcept {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}
static inline int32_t magnitude_of(float value) noexcept {
  int32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits & 0x7fffffff;
}

// Bits of the largest magnitude; at least kInfinityBits when something is not finite.
template <typename Element>
static inline int32_t largest_bits(const Element* block, int64_t count) noexcept {
  I32x16 largest = splat16(0);
  int64_t i = 0;
  for (; i + 16 <= count; i += 16) largest = larger(largest, magnitude_bits(load16(block + i)));
  if (i < count) largest = larger(largest, magnitude_bits(load_part(block + i, count - i)));
  return largest16(largest);
}

// The largest finite magnitude, and the index of the first element that is not finite.
template <typename Element>
static float finite_absmax(const Element* block, int64_t count, int64_t* bad) noexcept {
  int32_t largest = 0;
  *bad = -1;
  for (int64_t i = 0; i < count; ++i) {
    const int32_t bits = magnitude_of(load1(block + i));
    if (bits >= kInfinityBits) {
      if (*bad < 0) *bad = i;
    } else if (bits > largest) {
      largest = bits;
    }
  }
  return float_of(largest);
}

// The block's scale; *finite tells whether all of it is, *bad takes the first index in the range if not.
template <typename Element>
static inline float block_absmax(const Element* block, int64_t begin, int64_t count, bool* finite,
                                 int64_t* bad) noexcept {
  const int32_t bits = largest_bits(block, count);
  *finite = bits < kInfinityBits;
  if (*finite) [[likely]]
    return float_of(bits);
  int64_t first;
  const float absmax = finite_absmax(block, count, &first);
  if (*bad < 0) *bad = begin + first;
  return absmax;
}

// Writes the codes of `count` elements to the nibbles from `begin` on. When they end in the middle of a byte,
// its low nibble takes the code of value 0. kScale: what turns a weight into y.
template <bool kBins, bool kClamp, typename Element, typename Scale>
static inline void encode_run(const Element* from, int64_t count, int64_t begin, const RankTables& ranks,
                              Scale scaled, uint8_t* codes) noexcept {
  const auto rank = [&](const F32x16& x) { return rank_of<kBins, kClamp>(scaled(x), ranks); };
  uint8_t* to = codes + begin / 2;
  if (begin % 2 != 0) {
    uint8_t bytes[32];
    const I32x16 first = rank(load_part(from, 1));
    store_codes(bytes, first, first, first, first, ranks.codes);
    *to = static_cast<uint8_t>((*to & 0xf0) | bytes[0] >> 4);
    ++to, ++from, --count;
  }
  for (; count >= 64; count -= 64, from += 64, to += 32) {
    store_codes(to, rank(load16(from)), rank(load16(from + 16)), rank(load16(from + 32)),
                rank(load16(from + 48)), ranks.codes);
  }
  if (count == 0) return;
  I32x16 rest[4];
  for (int k = 0; k < 4; ++k) {
    const int64_t have = count - 16 * k;
    rest[k] = rank(have >= 16 ? load16(from + 16 * k) : load_part(from + 16 * k, have > 0 ? have : 0));
  }
  uint8_t bytes[32];
  store_codes(bytes, rest[0], rest[1], rest[2], rest[3], ranks.codes);
  std::memcpy(to, bytes, static_cast<size_t>((count + 1) / 2));
}

// One block against its scale.
template <bool kBins, bool kClamp, typename Element>
static inline void encode_block(const Element* block, int64_t count, int64_t begin, bool whole, float scale,
                                const RankTables& ranks, uint8_t* codes) noexcept {
  // Only a NaN fails both comparisons; its y is NaN, the lowest rank.
  const float divisor = scale < kLeastScale && scale > -kLeastScale ? kLeastScale : scale;
  if (whole) [[likely]] {
    const F32x16 reciprocal = splat16(1.0f / divisor);
    encode_run<kBins, kClamp>(
        block, count, begin, ranks, [&](const F32x16& x) { return multiply(x, reciprocal); }, codes);
  } else {
    const F32x16 divisors = splat16(divisor);
    encode_run<kBins, true>(
        block, count, begin, ranks, [&](const F32x16& x) { return divide(x, divisors); }, codes);
  }
}

// Calls body(block, begin, count, index) for the blocks from `first` to before `last`.
template <typename Element, typename Body>
static inline void each_block(const BlocksArgs& args, int64_t first, int64_t last, Body body) noexcept {
  const Element* weights = static_cast<const Element*>(args.weights);
  for (int64_t index = first; index < last; ++index) {
    const int64_t begin = index * args.block_size;
    const int64_t left = args.elements - begin;
    body(weights + begin, begin, left < args.block_size ? left : args.block_size, index);
  }
}
template <typename Element, typename Body>
static inline void each_block(const BlocksArgs& args, Body body) noexcept {
  each_block<Element>(args, 0, (args.elements + args.block_size - 1) / args.block_size, body);
}

// Short blocks go in groups: the reductions and divisions of 16 of them overlap, where one by one each would
// wait for the last.
inline constexpr int64_t kGroup = 16;
inline constexpr int64_t kLongestGrouped = 256;

// Weights that the group after the next one reads: its lines are asked for while this one is computed.
template <typename Element>
static inline void prefetch_block(const Element* from, int64_t count) noexcept {
  const char* at = reinterpret_cast<const char*>(from);
  for (int64_t i = 0; i < count * static_cast<int64_t>(sizeof(Element)); i += 64) __builtin_prefetch(at + i);
}

// kGroup of `blocks` whole blocks; false, and nothing done, when something in them is not finite.
template <bool kBins, typename Element>
static inline bool quantize_group(const BlocksArgs& args, int64_t first, int64_t blocks,
                                  const RankTables& ranks, float* scales, uint8_t* codes) noexcept {
  const int64_t size = args.block_size, begin = first * size;
  const Element* weights = static_cast<const Element*>(args.weights) + begin;
  float absmax[kGroup], divisors[kGroup], reciprocals[kGroup];
  int32_t largest = 0;
  for (int64_t i = 0; i < kGroup; ++i) {
    const int32_t bits = largest_bits(weights + i * size, size);
    largest = bits > largest ? bits : largest;
    absmax[i] = float_of(bits);
  }
  if (largest >= kInfinityBits) return false;
  for (int64_t i = 0; i < kGroup; ++i) {
    scales[first + i] = absmax[i];
    divisors[i] = absmax[i] < kLeastScale ? kLeastScale : absmax[i];
  }
  store16(reciprocals, divide(splat16(1.0f), load16(divisors)));
  constexpr int64_t kAhead = 2 * kGroup;
  const int64_t ahead = first + kAhead + kGroup <= blocks ? kAhead : 0;
  for (int64_t i = 0; i < kGroup; ++i) {
    if (ahead != 0) prefetch_block(weights + (ahead + i) * size, size);
    const F32x16 reciprocal = splat16(reciprocals[i]);
    encode_run<kBins, false>(
        weights + i * size, size, begin + i * size, ranks,
        [&](const F32x16& x) { return multiply(x, reciprocal); }, codes);
  }
  return true;
}

// Calls body<Element, kBins>().
template <typename Body>
static inline auto with_type(const BlocksArgs& args, const RankTables& ranks, Body body) noexcept {
  const auto with_bins = [&]<typename Element>() {
    if constexpr (kHasBins) {
      if (ranks.has_bins) return body.template operator()<Element, true>();
    }
    return body.template operator()<Element, false>();
  };
  switch (args.type) {
    case ElementType::kF16:
      return with_bins.template operator()<F16>();
    case ElementType::kBF16:
      return with_bins.template operator()<Bf16>();
    default:
      return with_bins.template operator()<float>();
  }
}

static int64_t absmax(const BlocksArgs& args, float* scales) noexcept {
  const RankTables ranks{};
  return with_type(args, ranks, [&]<typename Element, bool kBins>() {
    int64_t bad = -1;
    bool finite;
    each_block<Element>(args, [&](const Element* block, int64_t begin, int64_t count, int64_t index) {
      scales[index] = block_absmax(block, begin, count, &finite, &bad);
    });
    return bad;
  });
}

static int64_t quantize(const BlocksArgs& args, float* scales, uint8_t* codes) noexcept {
  const RankTables ranks = make_rank_tables(*args.table);
  return with_type(args, ranks, [&]<typename Element, bool kBins>() {
    int64_t bad = -1;
    const auto one = [&](const Element* block, int64_t begin, int64_t count, int64_t index) {
      bool finite;
      const float scale = block_absmax(block, begin, count, &finite, &bad);
      scales[index] = scale;
      const bool whole = count == args.block_size;
      if (finite) [[likely]] {
        encode_block<kBins, false>(block, count, begin, whole, scale, ranks, codes);
      } else {
        encode_block<kBins, true>(block, count, begin, whole, scale, ranks, codes);
      }
    };
    const int64_t whole = args.elements / args.block_size;
    const int64_t grouped = args.block_size <= kLongestGrouped ? whole / kGroup * kGroup : 0;
    for (int64_t first = 0; first < grouped; first += kGroup) {
      if (!quantize_group<kBins, Element>(args, first, whole, ranks, scales, codes)) [[unlikely]]
        each_block<Element>(args, first, first + kGroup, one);
    }
    each_block<Element>(args, grouped, (args.elements + args.block_size - 1) / args.block_size, one);
    return bad;
  });
}

static void encode(const BlocksArgs& args, const float* scales, uint8_t* codes) noexcept {
  const RankTables ranks = make_rank_tables(*args.table);
  with_type(args, ranks, [&]<typename Element, bool kBins>() {
    each_block<Element>(args, [&](const Element* block, int64_t begin, int64_t count, int64_t index) {
      encode_block<kBins, true>(block, count, begin, count == args.block_size, scales[index], ranks, codes);
    });
  });
}

}  // namespace nfloat::kernels::NFLOAT_TARGET_NAMESPACE
