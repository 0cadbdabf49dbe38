// SPDX-License-Identifier: Apache-2.0
// Softmax attention of one query in one pass over its pages: an invocation takes the score of one position,
// then the sums of one or more dims. Workgroups: rows, query heads.
#version 450
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

const uint kThreads = 128;  // positions of a page
layout(local_size_x = kThreads) in;
#include "sums.glsl"
#include "cache.glsl"

const float kNone = -3.402823466e38;  // no score is lower
const uint kDims = (kHeadDim + kThreads - 1) / kThreads;  // of an invocation
shared float query[kWords * kInWord];
shared float weights[kPage];

float number(uint word, uint i) {
  return kType == 0   ? uintBitsToFloat(word)
         : kType == 1 ? half_of(word, i)
                      : float(bitfieldExtract(int(word), int(8 * i), 8));
}

void main() {
  RowPlace place = p.places.at[gl_WorkGroupID.x];
  uint t = gl_LocalInvocationIndex, head = gl_WorkGroupID.y;
  uint at = gl_WorkGroupID.x * p.projected_stride + head * p.query_stride;
  for (uint d = t; d < kWords * kInWord; d += kThreads)
    query[d] = d < kHeadDim ? turned(at, d, place.angles) * p.scale : 0.0;
  barrier();

  uint base = p.first_word + head / p.group * p.head_words, end = place.position + 1;
  uint begin = p.window > 0 && end > p.window ? end - p.window : 0;
  float sums[kDims];
  for (uint i = 0; i < kDims; ++i) sums[i] = 0.0;
  float largest = p.has_sinks != 0 ? p.sinks.at[head] : kNone;
  float total = p.has_sinks != 0 ? 1.0 : 0.0;
  for (uint page = begin / kPage; page * kPage < end; ++page) {
    Words words = place.pages.at[page].words;
    uint position = page * kPage + t;
    bool seen = position >= begin && position < end;
    float score = kNone, value_scale = 1.0;
    if (seen) {
      float sum = 0.0;
      for (uint w = 0; w < kWords; ++w) {
        uint word = words.at[base + w * kPage + t];
        for (uint i = 0; i < kInWord; ++i) sum += query[w * kInWord + i] * number(word, i);
      }
      if (kType == 2) {
        sum *= uintBitsToFloat(words.at[base + kKeyScalesAt + t]);
        value_scale = uintBitsToFloat(words.at[base + kValueScalesAt + t]);
      }
      score = p.softcap > 0.0 ? p.softcap * hyperbolic_tangent(sum / p.softcap) : sum;
    }
    float before = largest;
    largest = max(largest, largest_of_all(score));
    float weight = seen ? exponential(score - largest) : 0.0;
    float kept = before == kNone ? 0.0 : exponential(before - largest);
    total = total * kept + sum_of_all(weight);
    weights[t] = weight * value_scale;
    barrier();
    uint first = begin > page * kPage ? begin - page * kPage : 0, last = min(end - page * kPage, kPage);
    for (uint i = 0; i < kDims; ++i) {
      uint d = t + i * kThreads;
      if (d >= kHeadDim) continue;
      float sum = sums[i] * kept;
      for (uint slot = first; slot < last; ++slot)
        sum += weights[slot] * number(words.at[base + kValuesAt + slot * kWords + d / kInWord], d % kInWord);
      sums[i] = sum;
    }  // the barriers of the next page's maximum come before its weights
  }
  for (uint i = 0; i < kDims; ++i) {
    uint d = t + i * kThreads;
    if (d < kHeadDim)
      p.attended.at[gl_WorkGroupID.x * p.attended_stride + head * kHeadDim + d] = sums[i] / total;
  }
}
