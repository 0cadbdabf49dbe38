// SPDX-License-Identifier: Apache-2.0
// Softmax attention of many rows of one sequence: a workgroup takes kQueries queries of a key-value head (row
// by row, of each row all query heads of that head) and goes over the pages once for all of them. Every sum has
// the terms and the order of attend.comp, and so its bits.
// Of a page an invocation takes the scores of four positions and some queries, then one position of the softmax
// of all queries, then sums of four numbers of the values for some queries: a word of a key or of a value is
// read and decoded once for all queries of an invocation.
// Workgroups: tiles, key-value heads.
#version 450
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_arithmetic : require
#include "common.glsl"

const uint kThreads = 128;  // positions of a page
layout(local_size_x = kThreads) in;
#include "cache.glsl"
#include "attention.glsl"
layout(constant_id = 2) const uint kQueries = 32;  // 32 at most: a bit each in a word
layout(buffer_reference, std430, buffer_reference_align = 16) buffer Quads {
  uvec4 at[];
};

const uint kFour = 4;     // positions, or numbers of a value, of an invocation
const uint kMostOwn = 8;  // queries of an invocation
// Scores: kAcross invocations have the positions of a page, as many groups of them the queries.
const uint kAcross = kPage / kFour, kScoreOwn = kQueries * kAcross / kThreads;
// Values: kLanes invocations, a power of two, have the numbers.
const uint kQuarter = (kHeadDim + kFour - 1) / kFour;
const uint kWide = kQuarter > 64 ? 128 : kQuarter > 32 ? 64 : kQuarter > 16 ? 32 : kQuarter > 8 ? 16 : 8;
const uint kLanes = kWide * kQueries < kThreads ? kThreads / kQueries : kWide;
const uint kValueOwn = kQueries * kLanes / kThreads;
const uint kMostSubgroups = kThreads / 4;
const float kUnseen = -1.0;  // no weight is negative

shared float query[kWords * kInWord * kQueries];       // [number][query]
shared float weights[kQueries * kPage];                // [query][position]: sums, scores, then weights
shared float parts[kQueries * kMostSubgroups];         // [query][sub-group]
shared float largest_of[kQueries], kept_of[kQueries];  // of a page
shared float all_kept_of[kQueries], share_of[kQueries], total_of[kQueries];  // where a part ends
shared uint positions[kQueries];

float sums[kMostOwn * kFour];  // weighted values of a part

// The tile's query m; behind the last one of all: that one again. Tiles that see most begin first.
uint query_at(uint m) {
  return min((gl_NumWorkGroups.x - 1 - gl_WorkGroupID.x) * kQueries + m, p.rows * p.group - 1);
}
uint head_of(uint of) { return gl_WorkGroupID.y * p.group + of % p.group; }

// Slots of a page that a query sees.
uvec2 slots_of(Range range, uint page) {
  uint first = page * kPage;
  return clamp(uvec2(range.begin, range.end), uvec2(first), uvec2(first + kPage)) - first;
}

// Sums of products with the keys of slots that some query sees.
void take_scores(Words words, uint base, uvec2 seen) {
  uint lane = gl_LocalInvocationIndex % kAcross, mine = gl_LocalInvocationIndex / kAcross * kScoreOwn;
  float scores[kMostOwn * kFour];
  [[unroll]] for (uint i = 0; i < kMostOwn * kFour; ++i) scores[i] = 0.0;
  if (lane * kFour < seen.y && lane * kFour + kFour > seen.x)
    for (uint w = 0; w < kWords; ++w) {
      uvec4 four = Quads(words).at[(base + w * kPage) / 4 + lane];
      for (uint e = 0; e < kInWord; ++e) {
        float keys[kFour];
        [[unroll]] for (uint i = 0; i < kFour; ++i) keys[i] = number(four[i], e);
        [[unroll]] for (uint r = 0; r < kMostOwn; ++r) {
          if (r >= kScoreOwn) continue;
          float own = query[(w * kInWord + e) * kQueries + mine + r];
          [[unroll]] for (uint i = 0; i < kFour; ++i)
            scores[r * kFour + i] = fma(own, keys[i], scores[r * kFour + i]);
        }
      }
    }
  [[unroll]] for (uint r = 0; r < kMostOwn; ++r)
    if (r < kScoreOwn)
      [[unroll]] for (uint i = 0; i < kFour; ++i)
        weights[(mine + r) * kPage + lane * kFour + i] = scores[r * kFour + i];
}

// Adds a slot to sums. What a query does not see may be no number, which a weight of zero would not hide.
void add_slot(Words words, uint base, uint slot, bool all_seen) {
  uint lane = gl_LocalInvocationIndex % kLanes, mine = gl_LocalInvocationIndex / kLanes * kValueOwn;
  float values[kFour];
  uint word = 0;
  [[unroll]] for (uint n = 0; n < kFour; ++n) {
    if (n % kInWord == 0)
      word = words.at[base + kValuesAt + slot * kWords + min((lane * kFour + n) / kInWord, kWords - 1)];
    values[n] = number(word, n % kInWord);
  }
  [[unroll]] for (uint r = 0; r < kMostOwn; ++r) {
    if (r >= kValueOwn) continue;
    float weight = weights[(mine + r) * kPage + slot];
    bool seen = all_seen || weight != kUnseen;
    [[unroll]] for (uint n = 0; n < kFour; ++n) {
      float sum = fma(weight, values[n], sums[r * kFour + n]);
      sums[r * kFour + n] = seen ? sum : sums[r * kFour + n];
    }
  }
}

// Adds the sums of a part to what is attended so far; `last`: and divides.
void merge_values(bool first, bool last) {
  uint lane = gl_LocalInvocationIndex % kLanes, mine = gl_LocalInvocationIndex / kLanes * kValueOwn;
  uint end = p.rows * p.group, tile = (gl_NumWorkGroups.x - 1 - gl_WorkGroupID.x) * kQueries;
  [[unroll]] for (uint r = 0; r < kMostOwn; ++r) {
    if (r >= kValueOwn) continue;
    uint m = mine + r, own = tile + m;
    if (own >= end) continue;
    uint at = own / p.group * p.attended_stride + head_of(own) * kHeadDim;
    float kept = all_kept_of[m], share = share_of[m], total = total_of[m];
    [[unroll]] for (uint n = 0; n < kFour; ++n) {
      uint d = lane * kFour + n;
      if (d >= kHeadDim) continue;
      float before = first ? 0.0 : p.attended.at[at + d];
      precise float sum = before * kept + sums[r * kFour + n] * share;
      if (share < 0.0) sum = before;  // the query sees nothing of this part
      p.attended.at[at + d] = last ? sum / total : sum;
    }
  }
}

void main() {
  uint t = gl_LocalInvocationIndex;
  uint base = p.first_word + gl_WorkGroupID.y * p.head_words;
  Pages pages = p.places.at[0].pages;
  for (uint i = t; i < kWords * kInWord * kQueries; i += kThreads) {
    uint d = i / kQueries, own = query_at(i % kQueries), row = own / p.group;
    uint at = row * p.projected_stride + head_of(own) * p.query_stride;
    query[i] = d < kHeadDim ? turned(at, d, p.places.at[row].angles) * p.scale : 0.0;
  }
  // Of query t.
  Range range;
  Sums own = no_sums(), all = no_sums();
  if (t < kQueries) {
    positions[t] = p.places.at[query_at(t) / p.group].position;
    range = range_of(positions[t]);
    all = first_sums(head_of(query_at(t)));
  }
  barrier();
  Range lowest = range_of(positions[0]), highest = range_of(positions[kQueries - 1]);
  uint begin = lowest.begin / kPage, end = (highest.end + kPage - 1) / kPage;
  [[unroll]] for (uint i = 0; i < kMostOwn * kFour; ++i) sums[i] = 0.0;
  for (uint page = begin; page < end; ++page) {
    Words words = pages.at[page].words;
    uvec2 low = slots_of(lowest, page), high = slots_of(highest, page);
    uvec2 some = uvec2(low.x, high.y), each = uvec2(high.x, low.y);  // slots that some query sees, each does
    take_scores(words, base, some);
    barrier();
    uint seen = 0;  // a bit for each query that sees position t
    for (uint m = 0; m < kQueries; ++m) {
      uvec2 slots = slots_of(range_of(positions[m]), page);
      float score = kNone;
      if (t >= slots.x && t < slots.y) {
        seen |= 1u << m;
        score = score_of(weights[m * kPage + t], words, base, t);
        weights[m * kPage + t] = score;
      }
      float part = subgroupMax(score);
      if (subgroupElect()) parts[m * kMostSubgroups + gl_SubgroupID] = part;
    }
    barrier();
    bool sees = false;
    float kept = 1.0;
    if (t < kQueries) {
      uvec2 slots = slots_of(range, page);
      sees = slots.x < slots.y;
      if (sees) {
        float of_page = parts[t * kMostSubgroups];
        for (uint i = 1; i < gl_NumSubgroups; ++i) of_page = max(of_page, parts[t * kMostSubgroups + i]);
        kept = raise(own, of_page);
      }
      largest_of[t] = own.largest;
      kept_of[t] = kept;
    }
    barrier();
    float value_scale = seen != 0 ? value_scale_of(words, base, t) : 1.0;
    for (uint m = 0; m < kQueries; ++m) {
      bool seen_by = (seen >> m & 1u) != 0;
      float weight = seen_by ? exponential(weights[m * kPage + t] - largest_of[m]) : 0.0;
      float part = subgroupAdd(weight);
      if (subgroupElect()) parts[m * kMostSubgroups + gl_SubgroupID] = part;
      weights[m * kPage + t] = seen_by ? weight * value_scale : kUnseen;
    }
    barrier();
    bool part_ends = page + 1 == end || (page + 1) % kPart == 0;
    if (t < kQueries) {
      if (sees) {
        float of_page = 0.0;
        for (uint i = 0; i < gl_NumSubgroups; ++i) of_page += parts[t * kMostSubgroups + i];
        own.total = fma(own.total, kept, of_page);
      }
      if (part_ends) {
        uint part = page / kPart;
        share_of[t] = -1.0;
        if (part >= range.first_part && part <= range.last_part) {
          Factors factors = merge_sums(all, own);
          all_kept_of[t] = factors.kept;
          share_of[t] = factors.share;
        }
        total_of[t] = all.total;
        own = no_sums();
      }
    }
    [[unroll]] for (uint r = 0; r < kMostOwn; ++r) {
      if (r >= kValueOwn) continue;
      float factor = kept_of[t / kLanes * kValueOwn + r];
      [[unroll]] for (uint n = 0; n < kFour; ++n) {
        precise float sum = sums[r * kFour + n] * factor;
        sums[r * kFour + n] = sum;
      }
    }
    for (uint slot = some.x; slot < some.y;) {
      if (slot >= each.x && slot + kFour <= each.y) {
        for (uint i = 0; i < kFour; ++i) add_slot(words, base, slot + i, true);
        slot += kFour;
      } else {
        add_slot(words, base, slot, false);
        ++slot;
      }
    }
    barrier();  // the weights have been read; what merges is there
    if (part_ends) {
      merge_values(page / kPart == begin / kPart, page + 1 == end);
      [[unroll]] for (uint i = 0; i < kMostOwn * kFour; ++i) sums[i] = 0.0;
    }
  }
}
