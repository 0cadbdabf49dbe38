// SPDX-License-Identifier: Apache-2.0
// Softmax attention of one query in one pass over its pages: an invocation takes the score of one position,
// then the sums of one or more dims. Pages go in parts of kPart, each with a maximum, a total and sums of its own,
// which are merged in their order: by the workgroup that takes all of them, or, where a few long sequences leave
// most of a device idle, each part by its own workgroup and a dispatch that merges. The bits are the same.
// Workgroups: rows, query heads, parts.
#version 450
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

const uint kThreads = 128;  // positions of a page
layout(local_size_x = kThreads) in;
#include "sums.glsl"
#include "cache.glsl"
#include "attention.glsl"
layout(constant_id = 2) const uint kStage = 0;  // all parts, one part, merge parts
const uint kOnePart = 1, kMergeParts = 2;

const uint kDims = (kHeadDim + kThreads - 1) / kThreads;  // of an invocation
shared float query[kWords * kInWord];
shared float weights[kPage];

// Weighted values of this invocation. An array sized by a constant of the pipeline can be no member and no
// argument.
float part_values[kDims], all_values[kDims];

// Sums of a part; the values in part_values.
Sums attend_part(Pages pages, Range range, uint base, uint part) {
  uint t = gl_LocalInvocationIndex;
  Sums own = no_sums();
  for (uint i = 0; i < kDims; ++i) part_values[i] = 0.0;
  uint last_page = min((part + 1) * kPart, (range.end + kPage - 1) / kPage);
  for (uint page = max(range.begin / kPage, part * kPart); page < last_page; ++page) {
    Words words = pages.at[page].words;
    uint position = page * kPage + t;
    bool seen = position >= range.begin && position < range.end;
    float score = kNone, value_scale = 1.0;
    if (seen) {
      float sum = 0.0;
      for (uint w = 0; w < kWords; ++w) {
        uint word = words.at[base + w * kPage + t];
        for (uint i = 0; i < kInWord; ++i) sum = fma(query[w * kInWord + i], number(word, i), sum);
      }
      score = score_of(sum, words, base, t);
      value_scale = value_scale_of(words, base, t);
    }
    float kept = raise(own, largest_of_all(score));
    float weight = seen ? exponential(score - own.largest) : 0.0;
    own.total = fma(own.total, kept, sum_of_all(weight));
    weights[t] = weight * value_scale;
    barrier();
    uint first = range.begin > page * kPage ? range.begin - page * kPage : 0,
         last = min(range.end - page * kPage, kPage);
    for (uint i = 0; i < kDims; ++i) {
      uint d = t + i * kThreads;
      if (d >= kHeadDim) continue;
      precise float sum = part_values[i] * kept;
      for (uint slot = first; slot < last; ++slot) {
        uint word = words.at[base + kValuesAt + slot * kWords + d / kInWord];
        sum = fma(weights[slot], number(word, d % kInWord), sum);
      }
      part_values[i] = sum;
    }  // the barriers of the next page's maximum come before its weights
  }
  return own;
}

// Adds part and part_values to all and all_values.
void merge(inout Sums all, Sums part) {
  Factors factors = merge_sums(all, part);
  for (uint i = 0; i < kDims; ++i) {
    precise float sum = all_values[i] * factors.kept + part_values[i] * factors.share;
    all_values[i] = sum;
  }
}

// Where a part of this query leaves its sums: kHeadDim values, the maximum, the total.
uint partial_at(uint part) {
  return ((gl_WorkGroupID.x * gl_NumWorkGroups.y + gl_WorkGroupID.y) * p.parts + part) * (kHeadDim + 2);
}

void main() {
  RowPlace place = p.places.at[gl_WorkGroupID.x];
  uint t = gl_LocalInvocationIndex, head = gl_WorkGroupID.y;
  Range range = range_of(place.position);
  uint base = p.first_word + head / p.group * p.head_words;
  if (kStage != kMergeParts) {
    uint at = gl_WorkGroupID.x * p.projected_stride + head * p.query_stride;
    for (uint d = t; d < kWords * kInWord; d += kThreads)
      query[d] = d < kHeadDim ? turned(at, d, place.angles) * p.scale : 0.0;
    barrier();
  }
  if (kStage == kOnePart) {
    uint part = gl_WorkGroupID.z;
    if (part < range.first_part || part > range.last_part) return;
    Sums own = attend_part(place.pages, range, base, part);
    uint at = partial_at(part);
    for (uint i = 0; i < kDims; ++i) {
      uint d = t + i * kThreads;
      if (d < kHeadDim) p.partials.at[at + d] = part_values[i];
    }
    if (t == 0) {
      p.partials.at[at + kHeadDim] = own.largest;
      p.partials.at[at + kHeadDim + 1] = own.total;
    }
    return;
  }
  Sums all = first_sums(head);
  for (uint i = 0; i < kDims; ++i) all_values[i] = 0.0;
  for (uint part = range.first_part; part <= range.last_part; ++part) {
    Sums own;
    if (kStage == kMergeParts) {
      uint at = partial_at(part);
      for (uint i = 0; i < kDims; ++i) {
        uint d = t + i * kThreads;
        part_values[i] = d < kHeadDim ? p.partials.at[at + d] : 0.0;
      }
      own.largest = p.partials.at[at + kHeadDim];
      own.total = p.partials.at[at + kHeadDim + 1];
    } else {
      own = attend_part(place.pages, range, base, part);
    }
    merge(all, own);
  }
  for (uint i = 0; i < kDims; ++i) {
    uint d = t + i * kThreads;
    if (d < kHeadDim)
      p.attended.at[gl_WorkGroupID.x * p.attended_stride + head * kHeadDim + d] = all_values[i] / all.total;
  }
}
