// SPDX-License-Identifier: Apache-2.0
// Attention of many rows of one sequence: a block reads the pages once for a tile of queries. Every sum has
// the terms and the order of attention.h, and so its bits.
#ifndef NFLOAT_CUDA_ATTENTION_TILES_H_
#define NFLOAT_CUDA_ATTENTION_TILES_H_

#include "cuda/attention.h"

namespace nfloat::gpu {
inline namespace NFLOAT_MACHINE {

inline constexpr int kTileWarps = 8, kTileThreads = kTileWarps * 32;
// Blocks that a multiprocessor has room for: two need 164 KiB of shared memory, which some kinds of cards
// lack.
#if defined(__CUDA_ARCH__) && ((__CUDA_ARCH__ >= 860 && __CUDA_ARCH__ < 900) || __CUDA_ARCH__ >= 1200)
inline constexpr int kTileBlocks = 1;
#else
inline constexpr int kTileBlocks = 2;
#endif
inline constexpr int kStagedWords = 2048;  // of keys (16 words of each slot) or of values (whole ones)

// A lane has kWords words of a value. Sums of queries of a warp times numbers of a lane: 32 at most, that
// they stay in registers, but for heads too small for that.
template <Cache kType, int kWords>
struct Tile {
  static constexpr int kNumbers = kWords * CacheWords<kType>::kInWord;
  static constexpr int kRows = kNumbers <= 4 ? 8 : 32 / kNumbers;  // queries of a warp
  static constexpr int kQueries = kRows * kTileWarps, kWidth = 32 * kNumbers;
};

template <int kQueries, int kWidth>
struct TileShared {
  float query[kQueries][kWidth];
  float weights[kQueries][kPage];
  uint32_t staged[2][kStagedWords];
  int positions[kQueries];
  Softmax softmax[kQueries];
};

NFLOAT_DEVICE float part_of(const float4& four, int i) {
  return i == 0 ? four.x : i == 1 ? four.y : i == 2 ? four.z : four.w;
}

// Block (tile, key-value head); the queries of all query heads of that head, row by row, are dealt out to
// tiles. Rows are of one sequence, one position after the other. Keys and values come through two buffers in
// turn: while one is used the next is copied. A warp has its own queries throughout.
template <Cache kType, int kWords>
NFLOAT_KERNEL void NFLOAT_BOUNDS(kTileThreads, kTileBlocks) attend_tiles(AttentionArguments a) {
  using Words = CacheWords<kType>;
  using Own = Tile<kType, kWords>;
  constexpr int kInWord = Words::kInWord, kRows = Own::kRows, kQueries = Own::kQueries;
  auto& s = shared<TileShared<kQueries, Own::kWidth>>();
  const Words layout(a.head);
  const int lane = thread() % 32, mine = thread() / 32 * kRows;  // the first query of this warp
  const int group = a.heads / a.kv_heads;
  // Those that see most begin first. Behind the last query: that one again.
  const int first_query = (blocks_x() - 1 - block_x()) * kQueries, queries = static_cast<int>(a.rows) * group;
  const auto query_at = [&](int m) { return first_query + m < queries ? first_query + m : queries - 1; };
  const auto head_of = [&](int query) { return block_y() * group + query % group; };
  const int padded = layout.words * kInWord;
  for (int i = thread(); i < kQueries * padded; i += kTileThreads) {
    const int query = query_at(i / padded);
    s.query[i / padded][i % padded] = query_element(a, query / group, head_of(query), i % padded);
  }
  for (int m = thread(); m < kQueries; m += kTileThreads) {
    const int query = query_at(m);
    // A warp without a query sees nothing.
    const bool idle = first_query + m / kRows * kRows >= queries;
    s.positions[m] = idle ? -1 : static_cast<int>(a.places[query / group].position);
    s.softmax[m] = Softmax::begin(a, head_of(query));
  }
  std::byte* const* const pages = a.places[query_at(0) / group].pages;
  const auto lowest = static_cast<int>(a.places[query_at(0) / group].position);
  const auto highest = static_cast<int>(a.places[query_at(kQueries - 1) / group].position);
  const int begin = first_seen(a, lowest) / kPage, end = highest / kPage + 1;
  const int64_t head_at = layout.head_at(a, block_y());
  const auto memory = [&](int page) { return reinterpret_cast<const uint32_t*>(pages[page]) + head_at; };

  // Of a page, one after the other: parts of the keys, then of the values of slots that a query sees.
  const int key_parts = (layout.words * kPage + kStagedWords - 1) / kStagedWords;
  const int most_slots = kStagedWords / layout.words / 4 * 4;
  const auto tile_sees = [&](int page) {
    return Seen{seen_slots(a, lowest, page).first / 4 * 4, (seen_slots(a, highest, page).last + 3) / 4 * 4};
  };
  int next_page = begin, next_part = 0, buffer = 1;
  const auto copy_next = [&] {
    if (next_page >= end) return;
    const uint32_t* from = memory(next_page);
    const Seen seen = tile_sees(next_page);
    int count;
    if (next_part < key_parts) {
      from += next_part * kStagedWords;
      count = layout.words * kPage - next_part * kStagedWords;
      count = count < kStagedWords ? count : kStagedWords;
    } else {
      const int slot = seen.first + (next_part - key_parts) * most_slots;
      from += layout.values_at() + slot * layout.words;
      count = (seen.last - slot < most_slots ? seen.last - slot : most_slots) * layout.words;
    }
    for (int i = thread() * 4; i < count; i += kTileThreads * 4)
      copy_async16(&s.staged[buffer ^ 1][i], from + i, true);
    copy_commit();
    if (++next_part < key_parts + (seen.last - seen.first + most_slots - 1) / most_slots) return;
    next_part = 0;
    ++next_page;
  };
  // The part that was copied, when everybody is done with the one before.
  const auto take_next = [&]() -> const uint32_t* {
    copy_wait<0>();
    barrier();
    buffer ^= 1;
    copy_next();
    return s.staged[buffer];
  };

  float merged[kRows][Own::kNumbers] = {};
  copy_next();
  barrier();
  for (int page = begin; page < end; ++page) {
    // Some query of this warp sees one of [least, most), all of them see [whole_first, whole_last).
    const Seen first_one = seen_slots(a, s.positions[mine], page),
               last_one = seen_slots(a, s.positions[mine + kRows - 1], page);
    const int least = first_one.first, most = last_one.last;
    const int whole_first = last_one.first, whole_last = first_one.last;
    float scores[kRows][kSlots] = {};
    for (int part = 0; part < key_parts; ++part) {
      const uint32_t* const keys = take_next();
      if (least >= most) continue;
      constexpr int kEach = 4 / kInWord;  // words of four numbers
      const int at = part * (kStagedWords / kPage), left = layout.words - at;
      const int words = left < kStagedWords / kPage ? left : kStagedWords / kPage;
      int word = 0;
      for (; word + kEach <= words; word += kEach) {
        float numbers[4][kSlots];
        NFLOAT_UNROLL
        for (int w = 0; w < kEach; ++w) {
          const uint4 bits = *reinterpret_cast<const uint4*>(keys + (word + w) * kPage + kSlots * lane);
          const uint32_t four[kSlots] = {bits.x, bits.y, bits.z, bits.w};
          NFLOAT_UNROLL
          for (int e = 0; e < kInWord; ++e) NFLOAT_UNROLL
          for (int i = 0; i < kSlots; ++i) numbers[w * kInWord + e][i] = Words::number(four[i], e);
        }
        NFLOAT_UNROLL
        for (int r = 0; r < kRows; ++r) {
          const float4 query = *reinterpret_cast<const float4*>(&s.query[mine + r][(at + word) * kInWord]);
          NFLOAT_UNROLL
          for (int d = 0; d < 4; ++d) NFLOAT_UNROLL
          for (int i = 0; i < kSlots; ++i)
            scores[r][i] = fused(part_of(query, d), numbers[d][i], scores[r][i]);
        }
      }
      for (; word < words; ++word) {
        const uint4 bits = *reinterpret_cast<const uint4*>(keys + word * kPage + kSlots * lane);
        const uint32_t four[kSlots] = {bits.x, bits.y, bits.z, bits.w};
        NFLOAT_UNROLL
        for (int r = 0; r < kRows; ++r) NFLOAT_UNROLL
        for (int e = 0; e < kInWord; ++e) NFLOAT_UNROLL
        for (int i = 0; i < kSlots; ++i)
          scores[r][i] =
              fused(s.query[mine + r][(at + word) * kInWord + e], Words::number(four[i], e), scores[r][i]);
      }
    }
    Softmax::Step step{1.0f, kUnseen};  // of query `lane`
    if (least < most) {
      NFLOAT_UNROLL
      for (int r = 0; r < kRows; ++r) NFLOAT_UNROLL
      for (int i = 0; i < kSlots; ++i) s.weights[mine + r][kSlots * lane + i] = scores[r][i];
      PageSum own{kNone, 0.0f};
      bool sees = false;
      NFLOAT_UNROLL_TWO
      for (int r = 0; r < kRows; ++r) {
        float weights[kSlots];
        NFLOAT_UNROLL
        for (int i = 0; i < kSlots; ++i) weights[i] = s.weights[mine + r][kSlots * lane + i];
        const Seen seen = seen_slots(a, s.positions[mine + r], page);
        const PageSum sum = weigh<kType>(a, layout, memory(page), seen, weights);
        if (lane == r) {
          own = sum;
          sees = seen.first < seen.last;
        }
        NFLOAT_UNROLL
        for (int i = 0; i < kSlots; ++i) s.weights[mine + r][kSlots * lane + i] = weights[i];
      }
      // Seen by the other lanes behind the barrier before the first values.
      if (sees) step = s.softmax[mine + lane].add(own);
    }
    float sums[kRows][Own::kNumbers] = {};
    const Seen seen = tile_sees(page);
    for (int at = seen.first; at < seen.last; at += most_slots) {
      const uint32_t* const values = take_next();
      const int part_end = seen.last - at < most_slots ? seen.last : at + most_slots;
      for (int slot = at; slot < part_end; slot += 4) {
        if (slot + 4 <= least || slot >= most) continue;
        const auto value_of = [&](int of, float(&numbers)[Own::kNumbers]) {
          NFLOAT_UNROLL
          for (int i = 0; i < kWords; ++i) {
            // There is no less than a word behind the first half of those that a lane may have.
            const int word = lane + i * 32;
            const bool there = i < kWords / 2 || word < layout.words;
            const uint32_t bits = values[(of - at) * layout.words + (there ? word : 0)];
            NFLOAT_UNROLL
            for (int e = 0; e < kInWord; ++e) numbers[i * kInWord + e] = Words::number(bits, e);
          }
        };
        if (slot >= whole_first && slot + 4 <= whole_last) {
          float4 weights[kRows];
          NFLOAT_UNROLL
          for (int r = 0; r < kRows; ++r)
            weights[r] = *reinterpret_cast<const float4*>(&s.weights[mine + r][slot]);
          NFLOAT_UNROLL
          for (int i = 0; i < 4; ++i) {
            float numbers[Own::kNumbers];
            value_of(slot + i, numbers);
            NFLOAT_UNROLL
            for (int r = 0; r < kRows; ++r) NFLOAT_UNROLL
            for (int n = 0; n < Own::kNumbers; ++n)
              sums[r][n] = fused(part_of(weights[r], i), numbers[n], sums[r][n]);
          }
          continue;
        }
        // What a query does not see may be no number, which a weight of zero would not hide.
        for (int own = slot; own < slot + 4; ++own) {
          float numbers[Own::kNumbers];
          value_of(own, numbers);
          NFLOAT_UNROLL
          for (int r = 0; r < kRows; ++r) {
            const float weight = s.weights[mine + r][own];
            if (weight < 0) continue;
            NFLOAT_UNROLL
            for (int n = 0; n < Own::kNumbers; ++n) sums[r][n] = fused(weight, numbers[n], sums[r][n]);
          }
        }
      }
    }
    if (least >= most) continue;
    NFLOAT_UNROLL
    for (int r = 0; r < kRows; ++r) {
      const Softmax::Step own{shuffle(step.kept, r), shuffle(step.factor, r)};
      if (own.factor < 0) continue;
      NFLOAT_UNROLL
      for (int n = 0; n < Own::kNumbers; ++n) merged[r][n] = own.merged(merged[r][n], sums[r][n]);
    }
  }
  NFLOAT_UNROLL
  for (int r = 0; r < kRows; ++r) {
    const int query = first_query + mine + r;
    if (query >= queries) continue;
    float* const to =
        a.attended + query / group * a.attended_stride + int64_t{head_of(query)} * a.head + lane * kInWord;
    const float total = s.softmax[mine + r].total;
    NFLOAT_UNROLL
    for (int i = 0; i < kWords; ++i) NFLOAT_UNROLL
    for (int e = 0; e < kInWord; ++e)
      if ((lane + i * 32) * kInWord + e < a.head)
        to[i * 32 * kInWord + e] = divide_rounded(merged[r][i * kInWord + e], total);
  }
}

// False, and nothing is done, where tiles would leave most of the card idle.
template <Cache kType, int kWords = 1>
bool attend_in_tiles(const AttentionArguments& a, int multiprocessors) {
  using Own = Tile<kType, kWords>;
  if constexpr (Own::kWidth < kMostHeadFloats)
    if (a.head > Own::kWidth) return attend_in_tiles<kType, 2 * kWords>(a, multiprocessors);
  const int64_t tiles = (a.rows * (a.heads / a.kv_heads) + Own::kQueries - 1) / Own::kQueries;
  if (tiles * a.kv_heads * 8 < multiprocessors) return false;
  launch(attend_tiles<kType, kWords>, static_cast<int>(tiles), a.kv_heads, kTileThreads,
         sizeof(TileShared<Own::kQueries, Own::kWidth>), a);
  return true;
}

template <Cache kType>
void launch_attention_of(const AttentionArguments& a, int multiprocessors) {
  store_keys<kType>(a);
  if (a.one_sequence && a.rows >= kPromptRows && attend_in_tiles<kType>(a, multiprocessors)) return;
  attend_row_by_row<kType>(a);
}

inline void launch_attention(const AttentionArguments& a, int multiprocessors) {
  if (a.type == Cache::kF32) {
    launch_attention_of<Cache::kF32>(a, multiprocessors);
  } else if (a.type == Cache::kF16) {
    launch_attention_of<Cache::kF16>(a, multiprocessors);
  } else {
    launch_attention_of<Cache::kInt8>(a, multiprocessors);
  }
}

}  // namespace NFLOAT_MACHINE
}  // namespace nfloat::gpu

#endif  // NFLOAT_CUDA_ATTENTION_TILES_H_
