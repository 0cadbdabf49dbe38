// SPDX-License-Identifier: Apache-2.0
// Attention over pages of keys and values, in float32, row by row; prompts in tiles: attention_tiles.h.
// Layouts in card.h.
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
  return fused(d < half ? -other : other, sine, multiply_rounded(x, cosine));
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

// Slots [first, last) of a page that a row sees.
struct Seen {
  int first, last;
};
NFLOAT_DEVICE int first_seen(const AttentionArguments& a, int position) {
  return a.window > 0 && position >= a.window ? position + 1 - static_cast<int>(a.window) : 0;
}
NFLOAT_DEVICE int slot_of(int position, int page) {
  const int slot = position - page * kPage;
  return slot < 0 ? 0 : slot > kPage ? kPage : slot;
}
NFLOAT_DEVICE Seen seen_slots(const AttentionArguments& a, int position, int page) {
  return {slot_of(first_seen(a, position), page), slot_of(position + 1, page)};
}

// What a page adds to a row: each page is summed on its own, from its own largest score, and the pages are
// merged in their order. So the bits of a row depend neither on the kernel nor on who else computes.
inline constexpr int kSlots = kPage / 32;  // of a lane: kSlots * lane and those behind it
struct PageSum {
  float largest, total;
};
// Products of the query with the keys of a lane's slots become weights of their values, below zero (kUnseen)
// where the row does not see. Of int8: `page` is where the scales are.
inline constexpr float kUnseen = -1;
template <Cache kType>
NFLOAT_DEVICE PageSum weigh(const AttentionArguments& a, const CacheWords<kType>& layout,
                            const uint32_t* page, Seen seen, float (&scores)[kSlots]) {
  const int slot = kSlots * (thread() % 32);
  float largest = kNone, total = 0;
  NFLOAT_UNROLL
  for (int i = 0; i < kSlots; ++i) {
    if (slot + i < seen.first || slot + i >= seen.last) continue;
    float score = scores[i];
    if constexpr (kType == Cache::kInt8)
      score = multiply_rounded(score, bits_to_float(page[layout.key_scales_at() + slot + i]));
    if (a.softcap > 0)
      score = multiply_rounded(a.softcap, hyperbolic_tangent(divide_rounded(score, a.softcap)));
    scores[i] = score;
    largest = score > largest ? score : largest;
  }
  largest = largest_of_warp(largest);
  NFLOAT_UNROLL
  for (int i = 0; i < kSlots; ++i) {
    if (slot + i < seen.first || slot + i >= seen.last) {
      scores[i] = kUnseen;
      continue;
    }
    scores[i] = exponential(scores[i] - largest);
    total = add_rounded(total, scores[i]);
    if constexpr (kType == Cache::kInt8)
      scores[i] = multiply_rounded(scores[i], bits_to_float(page[layout.value_scales_at() + slot + i]));
  }
  for (int mask = 16; mask > 0; mask /= 2) total = add_rounded(total, shuffle_xor(total, mask));
  return {largest, total};
}

// A row's softmax over the pages before: sums of values become kept * sums + factor * those of the next page.
struct Softmax {
  float top, total;
  struct Step {
    float kept, factor;
    NFLOAT_DEVICE float merged(float sum, float added) const {
      return fused(added, factor, multiply_rounded(sum, kept));
    }
  };
  static NFLOAT_DEVICE Softmax begin(const AttentionArguments& a, int head) {
    if (a.sinks == nullptr) return {kNone, 0.0f};
    return {a.sinks[head], 1.0f};
  }
  NFLOAT_DEVICE Step add(PageSum page) {
    const float before = top;
    top = page.largest > top ? page.largest : top;
    const Step step{exponential(before - top), exponential(page.largest - top)};
    total = step.merged(total, page.total);
    return step;
  }
};

NFLOAT_DEVICE float query_element(const AttentionArguments& a, int64_t row, int head, int d) {
  if (d >= a.head) return 0;
  const float* const from = a.projected + row * a.projected_stride + int64_t{head} * a.query_stride;
  return multiply_rounded(turned_element(from, d, a.turned, a.places[row].angles), a.scale);
}

inline constexpr int kTogether = 8;  // pages that a block sums side by side

struct AttendShared {
  float query[kMostHeadFloats + 4];
  float weights[kTogether][kPage];
  PageSum pages[kTogether];
  float sums[kTogether][kMostHeadFloats];
  float merged[kMostHeadFloats];
};

// Softmax attention of one query: block (row, query head). kTogether pages at a time, of which each warp
// takes every warps-th. Lanes are slots for the scores, words of the values for the sums: kWords of them
// each.
template <Cache kType, int kWords>
NFLOAT_KERNEL void attend_rows(AttentionArguments a) {
  using Words = CacheWords<kType>;
  constexpr int kInWord = Words::kInWord;
  AttendShared& s = shared<AttendShared>();
  const Words layout(a.head);
  const RowPlace place = a.places[block_x()];
  const int lane = thread() % 32, warp = thread() / 32, warps = threads() / 32;
  for (int d = thread(); d < layout.words * kInWord; d += threads())
    s.query[d] = query_element(a, block_x(), block_y(), d);
  for (int d = thread(); d < a.head; d += threads()) s.merged[d] = 0;
  barrier();
  const int64_t head_at = layout.head_at(a, block_y() / (a.heads / a.kv_heads));
  const auto position = static_cast<int>(place.position);
  const int end = position / kPage + 1;
  Softmax softmax = Softmax::begin(a, block_y());
  for (int begin = first_seen(a, position) / kPage; begin < end; begin += kTogether) {
    const int pages = end - begin < kTogether ? end - begin : kTogether;
    for (int own = warp; own < pages; own += warps) {
      const uint32_t* const page = reinterpret_cast<const uint32_t*>(place.pages[begin + own]) + head_at;
      const Seen seen = seen_slots(a, position, begin + own);
      float scores[kSlots] = {};
      for (int word = 0; word < layout.words; ++word) {
        const uint4 bits = *reinterpret_cast<const uint4*>(page + word * kPage + kSlots * lane);
        const uint32_t keys[kSlots] = {bits.x, bits.y, bits.z, bits.w};
        NFLOAT_UNROLL
        for (int e = 0; e < kInWord; ++e) NFLOAT_UNROLL
        for (int i = 0; i < kSlots; ++i)
          scores[i] = fused(s.query[word * kInWord + e], Words::number(keys[i], e), scores[i]);
      }
      const PageSum sum = weigh<kType>(a, layout, page, seen, scores);
      if (lane == 0) s.pages[own] = sum;
      NFLOAT_UNROLL
      for (int i = 0; i < kSlots; ++i) s.weights[own][kSlots * lane + i] = scores[i];
      warp_barrier();
      NFLOAT_UNROLL
      for (int i = 0; i < kWords; ++i) {
        const int word = lane + i * 32;
        if (word >= layout.words) continue;
        float sums[kInWord] = {};
        const uint32_t* const values = page + layout.values_at() + word;
        for (int slot = seen.first; slot < seen.last; ++slot) {
          const uint32_t bits = values[slot * layout.words];
          NFLOAT_UNROLL
          for (int e = 0; e < kInWord; ++e)
            sums[e] = fused(s.weights[own][slot], Words::number(bits, e), sums[e]);
        }
        NFLOAT_UNROLL
        for (int e = 0; e < kInWord; ++e)
          if (word * kInWord + e < a.head) s.sums[own][word * kInWord + e] = sums[e];
      }
    }
    barrier();
    for (int own = 0; own < pages; ++own) {
      const Softmax::Step step = softmax.add(s.pages[own]);
      for (int d = thread(); d < a.head; d += threads())
        s.merged[d] = step.merged(s.merged[d], s.sums[own][d]);
    }
    barrier();  // the sums are read
  }
  float* const to = a.attended + block_x() * a.attended_stride + int64_t{block_y()} * a.head;
  uint16_t* const rounded =
      a.rounded != nullptr ? a.rounded + (int64_t{block_x()} * a.heads + block_y()) * a.head : nullptr;
  for (int d = thread(); d < a.head; d += threads()) {
    const float value = divide_rounded(s.merged[d], softmax.total);
    to[d] = value;
    if (rounded != nullptr) rounded[d] = round_bf16(value);
  }
}

template <Cache kType>
void store_keys(const AttentionArguments& a) {
  launch(store_rows<kType>, static_cast<int>(a.rows), a.kv_heads, 32, sizeof(StoreShared), a);
}

template <Cache kType>
void attend_row_by_row(const AttentionArguments& a) {
  const int64_t words = (a.head + in_word(kType) - 1) / in_word(kType);
  auto* kernel = attend_rows<kType, 1>;
  if (words > 32) kernel = attend_rows<kType, 2>;
  if (words > 64) kernel = attend_rows<kType, 4>;
  if constexpr (kType != Cache::kInt8)
    if (words > 128) kernel = attend_rows<kType, 8>;
  if constexpr (kType == Cache::kF32)
    if (words > 256) kernel = attend_rows<kType, 16>;
  int warps = 1;
  while (warps < kTogether && warps < a.most_pages) warps *= 2;
  launch(kernel, static_cast<int>(a.rows), a.heads, warps * 32, sizeof(AttendShared), a);
}

}  // namespace NFLOAT_MACHINE
}  // namespace nfloat::gpu

#endif  // NFLOAT_CUDA_ATTENTION_H_
