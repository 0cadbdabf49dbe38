// SPDX-License-Identifier: Apache-2.0
// Attention over pages of keys and values, in float32; layouts in card.h.
#ifndef NFLOAT_CUDA_ATTENTION_H_
#define NFLOAT_CUDA_ATTENTION_H_

#include "cuda/card.h"
#include "cuda/convert.h"
#include "cuda/steps.h"

namespace nfloat::gpu {
inline namespace NFLOAT_MACHINE {

inline constexpr int kPage = static_cast<int>(kPagePositions), kMostHeadFloats = static_cast<int>(kMostHead);
inline constexpr float kNone = -3.402823466e38f;  // no score is lower

template <Cache kType>
struct CacheWords {
  static constexpr int kInWord = static_cast<int>(in_word(kType));
  int words;  // of a key, of a value
  NFLOAT_DEVICE explicit CacheWords(int head) : words((head + kInWord - 1) / kInWord) {}
  NFLOAT_DEVICE int values_at() const { return words * kPage; }
  NFLOAT_DEVICE int key_scales_at() const { return 2 * words * kPage; }
  NFLOAT_DEVICE int value_scales_at() const { return key_scales_at() + kPage; }
  // Where a head begins in a page, in words.
  NFLOAT_DEVICE int64_t head_at(const AttentionArguments& a, int kv_head) const {
    return a.first_word + int64_t{kv_head} * (value_scales_at() + (kType == Cache::kInt8 ? kPage : -kPage));
  }
  static NFLOAT_DEVICE float number(uint32_t word, int i) {
    if constexpr (kType == Cache::kF32) return bits_to_float(word);
    if constexpr (kType == Cache::kF16) return f16_value(i == 0 ? word & 0xffffu : word >> 16);
    return static_cast<float>(static_cast<int8_t>(word >> (8 * i) & 255u));
  }
};

// Element d of a head at `from`, turned by the angles of its row.
NFLOAT_DEVICE float turned_element(const float* from, int d, int turned, const float* angles) {
  const float x = from[d];
  if (d >= turned) return x;
  const int half = turned / 2, pair = d < half ? d : d - half;
  const float other = from[d < half ? d + half : d - half], cosine = angles[pair], sine = angles[half + pair];
  return d < half ? x * cosine - other * sine : x * cosine + other * sine;
}

// Infinite where the number is not finite, told by its bits: a comparison drops NaN.
NFLOAT_DEVICE float finite_magnitude(float x) {
  const uint32_t bits = float_to_bits(x) & 0x7fffffffu;
  return bits_to_float(bits > kExponent ? kExponent : bits);
}
// NaN where a number is not finite, so that what is computed from it shows it.
NFLOAT_DEVICE float step_of(float largest) {
  return float_to_bits(largest) == kExponent ? bits_to_float(kExponent | 0x400000u)
                                             : divide_rounded(largest, 127.0f);
}
NFLOAT_DEVICE uint32_t byte_of(float x, float step) {
  if (!(step > 0)) return 0;
  const float rounded = round_to_integer(divide_rounded(x, step));
  return static_cast<uint32_t>(static_cast<int>(rounded > 127    ? 127.0f
                                                : rounded < -127 ? -127.0f
                                                                 : rounded)) &
         255u;
}
// The nearest half; beyond the largest one: that.
NFLOAT_DEVICE uint32_t half_word(float x) {
  F16 half;
  narrow(x > 65504.0f ? 65504.0f : x < -65504.0f ? -65504.0f : x, &half);
  return half.bits;
}
NFLOAT_DEVICE float largest_of_warp(float x) {
  for (int mask = 16; mask > 0; mask /= 2) {
    const float other = shuffle_xor(x, mask);
    x = other > x ? other : x;
  }
  return x;
}

struct StoreShared {
  float key[kMostHeadFloats + 4], value[kMostHeadFloats + 4];
};

// Turns keys and writes them and the values into the pages: a block of one warp a row and key-value head.
template <Cache kType>
NFLOAT_KERNEL void store_rows(AttentionArguments a) {
  using Words = CacheWords<kType>;
  StoreShared& s = shared<StoreShared>();
  const Words layout(a.head);
  const RowPlace place = a.places[block_x()];
  const float* const key =
      a.projected + block_x() * a.projected_stride + a.key_at + int64_t{block_y()} * a.key_stride;
  float key_size = 0, value_size = 0;
  for (int d = thread(); d < layout.words * Words::kInWord; d += 32) {
    const float k = d < a.head ? turned_element(key, d, a.turned, place.angles) : 0.0f;
    const float v = d < a.head ? key[a.value_after_key + d] : 0.0f;
    s.key[d] = k;
    s.value[d] = v;
    const float sizes[2] = {finite_magnitude(k), finite_magnitude(v)};
    key_size = sizes[0] > key_size ? sizes[0] : key_size;
    value_size = sizes[1] > value_size ? sizes[1] : value_size;
  }
  float key_step = 0, value_step = 0;
  if constexpr (kType == Cache::kInt8) {
    key_step = step_of(largest_of_warp(key_size));
    value_step = step_of(largest_of_warp(value_size));
  }
  warp_barrier();
  const auto packed = [](const float* numbers, float step) {
    uint32_t bits = 0;
    for (int i = 0; i < Words::kInWord; ++i) {
      if constexpr (kType == Cache::kF32) bits = float_to_bits(numbers[i]);
      if constexpr (kType == Cache::kF16) bits |= half_word(numbers[i]) << (16 * i);
      if constexpr (kType == Cache::kInt8) bits |= byte_of(numbers[i], step) << (8 * i);
    }
    return bits;
  };
  uint32_t* const page =
      reinterpret_cast<uint32_t*>(place.pages[place.position / kPage]) + layout.head_at(a, block_y());
  const int slot = static_cast<int>(place.position % kPage);
  for (int word = thread(); word < layout.words; word += 32) {
    page[word * kPage + slot] = packed(s.key + word * Words::kInWord, key_step);
    page[layout.values_at() + slot * layout.words + word] =
        packed(s.value + word * Words::kInWord, value_step);
  }
  if (kType == Cache::kInt8 && thread() == 0) {
    page[layout.key_scales_at() + slot] = float_to_bits(key_step);
    page[layout.value_scales_at() + slot] = float_to_bits(value_step);
  }
}

inline constexpr int kShares = 8;  // parts of a row's pages, each summed on its own and merged in this order

struct AttendShared {
  float query[kMostHeadFloats + 4];
  float weights[kShares][kPage];
  float largest[kShares], totals[kShares];
  float sums[kShares][kMostHeadFloats];
};

// Softmax attention of one query: block (row, query head). Share s has the pages s, s + kShares, ... that the
// row sees, whoever takes it: a warp takes every warps-th share, so that a row's bits do not depend on the
// number of warps. Lanes are positions for the scores, words of the values for the sums: kWords of them each.
template <Cache kType, int kWords>
NFLOAT_KERNEL void attend_rows(AttentionArguments a) {
  using Words = CacheWords<kType>;
  constexpr int kInWord = Words::kInWord;
  AttendShared& s = shared<AttendShared>();
  const Words layout(a.head);
  const RowPlace place = a.places[block_x()];
  const int lane = thread() % 32, warp = thread() / 32, warps = threads() / 32;
  const float* const from =
      a.projected + block_x() * a.projected_stride + int64_t{block_y()} * a.query_stride;
  for (int d = thread(); d < layout.words * kInWord; d += threads())
    s.query[d] = d < a.head ? turned_element(from, d, a.turned, place.angles) * a.scale : 0.0f;
  barrier();
  const int64_t end = place.position + 1, begin = a.window > 0 && end > a.window ? end - a.window : 0;
  const int64_t head_at = layout.head_at(a, block_y() / (a.heads / a.kv_heads));
  const int64_t first_page = begin / kPage, pages = (end + kPage - 1) / kPage;
  for (int share = warp; share < kShares; share += warps) {
    float sums[kWords][kInWord] = {};
    float largest = kNone, total = 0;
    for (int64_t number = first_page + share; number < pages; number += kShares) {
      const uint32_t* const page = reinterpret_cast<const uint32_t*>(place.pages[number]) + head_at;
      const int first = begin > number * kPage ? static_cast<int>(begin - number * kPage) : 0;
      const int last = end - number * kPage < kPage ? static_cast<int>(end - number * kPage) : kPage;
      float scores[kPage / 32];
      float highest = kNone;
      NFLOAT_UNROLL
      for (int i = 0; i < kPage / 32; ++i) {
        const int slot = i * 32 + lane;
        scores[i] = kNone;
        if (slot < first || slot >= last) continue;
        float sum = 0;
        for (int word = 0; word < layout.words; ++word) {
          const uint32_t bits = page[word * kPage + slot];
          NFLOAT_UNROLL
          for (int e = 0; e < kInWord; ++e)
            sum = fused(s.query[word * kInWord + e], Words::number(bits, e), sum);
        }
        if constexpr (kType == Cache::kInt8) sum *= bits_to_float(page[layout.key_scales_at() + slot]);
        scores[i] = a.softcap > 0 ? a.softcap * hyperbolic_tangent(sum / a.softcap) : sum;
        highest = scores[i] > highest ? scores[i] : highest;
      }
      highest = largest_of_warp(highest);
      highest = highest > largest ? highest : largest;
      const float kept = largest == kNone ? 0.0f : exponential(largest - highest);
      largest = highest;
      float added = 0;
      NFLOAT_UNROLL
      for (int i = 0; i < kPage / 32; ++i) {
        const int slot = i * 32 + lane;
        const bool seen = slot >= first && slot < last;
        float weight = seen ? exponential(scores[i] - highest) : 0.0f;
        added += weight;
        if (kType == Cache::kInt8 && seen) weight *= bits_to_float(page[layout.value_scales_at() + slot]);
        s.weights[share][slot] = weight;
      }
      for (int mask = 16; mask > 0; mask /= 2) added += shuffle_xor(added, mask);
      total = total * kept + added;
      warp_barrier();
      NFLOAT_UNROLL
      for (int i = 0; i < kWords; ++i) {
        const int word = lane + i * 32;
        NFLOAT_UNROLL
        for (int e = 0; e < kInWord; ++e) sums[i][e] *= kept;
        if (word >= layout.words) continue;
        const uint32_t* const values = page + layout.values_at() + word;
        for (int slot = first; slot < last; ++slot) {
          const uint32_t bits = values[slot * layout.words];
          NFLOAT_UNROLL
          for (int e = 0; e < kInWord; ++e)
            sums[i][e] = fused(s.weights[share][slot], Words::number(bits, e), sums[i][e]);
        }
      }
      warp_barrier();  // the weights are read
    }
    if (lane == 0) {
      s.largest[share] = largest;
      s.totals[share] = total;
    }
    NFLOAT_UNROLL
    for (int i = 0; i < kWords; ++i) NFLOAT_UNROLL
    for (int e = 0; e < kInWord; ++e) {
      const int d = (lane + i * 32) * kInWord + e;
      if (d < a.head) s.sums[share][d] = sums[i][e];
    }
  }
  barrier();
  float top = a.sinks != nullptr ? a.sinks[block_y()] : kNone;
  for (int share = 0; share < kShares; ++share) top = s.largest[share] > top ? s.largest[share] : top;
  float factors[kShares];
  float total = a.sinks != nullptr ? exponential(a.sinks[block_y()] - top) : 0.0f;
  NFLOAT_UNROLL
  for (int share = 0; share < kShares; ++share) {
    factors[share] =
        s.largest[share] == kNone && s.totals[share] == 0 ? 0.0f : exponential(s.largest[share] - top);
    total += s.totals[share] * factors[share];
  }
  for (int d = thread(); d < a.head; d += threads()) {
    float value = 0;
    NFLOAT_UNROLL
    for (int share = 0; share < kShares; ++share) value += s.sums[share][d] * factors[share];
    a.attended[block_x() * a.attended_stride + int64_t{block_y()} * a.head + d] = value / total;
  }
}

template <Cache kType>
void launch_attention_of(const AttentionArguments& a) {
  launch(store_rows<kType>, static_cast<int>(a.rows), a.kv_heads, 32, sizeof(StoreShared), a);
  const int64_t words = (a.head + in_word(kType) - 1) / in_word(kType);
  auto* kernel = attend_rows<kType, 1>;
  if (words > 32) kernel = attend_rows<kType, 2>;
  if (words > 64) kernel = attend_rows<kType, 4>;
  if constexpr (kType != Cache::kInt8)
    if (words > 128) kernel = attend_rows<kType, 8>;
  if constexpr (kType == Cache::kF32)
    if (words > 256) kernel = attend_rows<kType, 16>;
  int warps = 1;
  while (warps < kShares && warps < a.most_pages) warps *= 2;
  launch(kernel, static_cast<int>(a.rows), a.heads, warps * 32, sizeof(AttendShared), a);
}

inline void launch_attention(const AttentionArguments& a) {
  if (a.type == Cache::kF32) {
    launch_attention_of<Cache::kF32>(a);
  } else if (a.type == Cache::kF16) {
    launch_attention_of<Cache::kF16>(a);
  } else {
    launch_attention_of<Cache::kInt8>(a);
  }
}

}  // namespace NFLOAT_MACHINE
}  // namespace nfloat::gpu

#endif  // NFLOAT_CUDA_ATTENTION_H_
