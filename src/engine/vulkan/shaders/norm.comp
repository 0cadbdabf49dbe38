// SPDX-License-Identifier: Apache-2.0
// RMS and layer norm of parts of rows; in place allowed. Workgroups: rows, parts.
#version 450
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

const uint kThreads = 128;
layout(local_size_x = kThreads) in;
#include "sums.glsl"
layout(constant_id = 0) const uint kCentred = 0;
layout(push_constant) uniform Push {
  Floats from, to, weight, bias;
  uint from_stride, to_stride, width, part_stride;
  float epsilon;
} p;

void main() {
  uint t = gl_LocalInvocationIndex;
  uint from = gl_WorkGroupID.x * p.from_stride + gl_WorkGroupID.y * p.part_stride;
  uint to = gl_WorkGroupID.x * p.to_stride + gl_WorkGroupID.y * p.part_stride;
  float mean = 0.0;
  if (kCentred != 0) {
    float sum = 0.0;
    for (uint i = t; i < p.width; i += kThreads) sum += p.from.at[from + i];
    mean = sum_of_all(sum) / float(p.width);
  }
  float squares = 0.0;
  for (uint i = t; i < p.width; i += kThreads) {
    float x = p.from.at[from + i] - mean;
    squares += x * x;
  }
  float factor = 1.0 / sqrt(sum_of_all(squares) / float(p.width) + p.epsilon);
  for (uint i = t; i < p.width; i += kThreads) {
    float y = (p.from.at[from + i] - mean) * factor * p.weight.at[i];
    if (kCentred != 0) y += p.bias.at[i];
    p.to.at[to + i] = y;
  }
}
