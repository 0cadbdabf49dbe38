// SPDX-License-Identifier: Apache-2.0
// Turns keys and writes them and the values into the pages. Workgroups: rows, key-value heads.
#version 450
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

const uint kThreads = 128;
layout(local_size_x = kThreads) in;
#include "sums.glsl"
#include "cache.glsl"

shared float key[kWords * kInWord];
shared float value[kWords * kInWord];

uint byte_of(float x, float scale) {
  return uint(int(scale > 0.0 ? clamp(roundEven(x / scale), -127.0, 127.0) : 0.0)) & 255u;
}

uint packed(uint word, bool of_value, float scale) {
  uint first = word * kInWord, bits = 0;
  for (uint i = 0; i < kInWord; ++i) {
    float x = of_value ? value[first + i] : key[first + i];
    bits |= kType == 0 ? floatBitsToUint(x) : kType == 1 ? to_half(x) << (16 * i) : byte_of(x, scale) << (8 * i);
  }
  return bits;
}

// Infinity where the number is not finite, told by its bits: max() may drop a NaN.
const uint kExponent = 0x7f800000u;
float magnitude(float x) { return (floatBitsToUint(x) & kExponent) == kExponent ? uintBitsToFloat(kExponent) : abs(x); }

// NaN where a number is not finite, so that what is computed from it shows it.
float scale_of(float largest) {
  return floatBitsToUint(largest) == kExponent ? uintBitsToFloat(kExponent | 0x400000u) : largest / 127.0;
}

void main() {
  RowPlace place = p.places.at[gl_WorkGroupID.x];
  uint t = gl_LocalInvocationIndex, head = gl_WorkGroupID.y;
  uint at = gl_WorkGroupID.x * p.projected_stride + p.key_at + head * p.key_stride;
  float key_size = 0.0, value_size = 0.0;
  for (uint d = t; d < kWords * kInWord; d += kThreads) {
    key[d] = d < kHeadDim ? turned(at, d, place.angles) : 0.0;
    value[d] = d < kHeadDim ? p.projected.at[at + p.value_after_key + d] : 0.0;
    key_size = max(key_size, magnitude(key[d]));
    value_size = max(value_size, magnitude(value[d]));
  }
  float key_scale = 0.0, value_scale = 0.0;
  if (kType == 2) {
    key_scale = scale_of(largest_of_all(key_size));
    value_scale = scale_of(largest_of_all(value_size));
  }
  barrier();
  Words page = place.pages.at[place.position / kPage].words;
  uint slot = place.position % kPage, base = p.first_word + head * p.head_words;
  for (uint word = t; word < kWords; word += kThreads) {
    page.at[base + word * kPage + slot] = packed(word, false, key_scale);
    page.at[base + kValuesAt + slot * kWords + word] = packed(word, true, value_scale);
  }
  if (kType == 2 && t == 0) {
    page.at[base + kKeyScalesAt + slot] = floatBitsToUint(key_scale);
    page.at[base + kValueScalesAt + slot] = floatBitsToUint(value_scale);
  }
}
