// SPDX-License-Identifier: Apache-2.0
// Rows of float32 to halves for units.comp: each times a power of two that brings its largest number to
// [2^14, 2^15), so that none overflows and what is below a normal half is below 2^-28 of the largest; the
// inverse goes to factors[row]. It is not a number where the row has something that is not finite: then all
// of the row's products are not. A workgroup a row.
#version 450
#extension GL_GOOGLE_include_directive : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_arithmetic : require
#include "common.glsl"

const uint kThreads = 128;
layout(local_size_x = kThreads) in;
layout(push_constant) uniform Push {
  Floats from;
  Words to;  // two halves each, the first one low
  Floats factors;
  uint from_stride, width;  // width: even
} p;

shared uint parts[kThreads / 4];  // of sub-groups; no atomics: their scope is the device's

void main() {
  uint row = gl_WorkGroupID.x, from = row * p.from_stride, to = row * (p.width / 2), own = 0;
  for (uint i = gl_LocalInvocationIndex; i < p.width; i += kThreads)
    own = max(own, floatBitsToUint(p.from.at[from + i]) & 0x7fffffffu);
  own = subgroupMax(own);
  if (subgroupElect()) parts[gl_SubgroupID] = own;
  barrier();
  uint largest = 0;  // bits without the sign
  for (uint i = 0; i < gl_NumSubgroups; ++i) largest = max(largest, parts[i]);
  uint exponent = max(largest >> 23, 15u);  // what is smaller does not reach 2^14
  float factor = uintBitsToFloat((268u - exponent) << 23);
  for (uint i = gl_LocalInvocationIndex; i < p.width / 2; i += kThreads) {
    uint low = to_half(p.from.at[from + 2 * i] * factor), high = to_half(p.from.at[from + 2 * i + 1] * factor);
    p.to.at[to + i] = low | high << 16;
  }
  if (gl_LocalInvocationIndex == 0)
    p.factors.at[row] = uintBitsToFloat(largest >= 0x7f800000u ? 0x7fc00000u : (exponent - 14u) << 23);
}
