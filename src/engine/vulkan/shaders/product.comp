// SPDX-License-Identifier: Apache-2.0
// y = W x + bias for a few rows of x at once: a subgroup takes kRows rows of W, its lanes eight columns each,
// so that a load of codes is contiguous over the lanes and eight numbers of x serve kRows rows.
// Workgroups: rows of W (any number: they go on until none is left), batches of rows of x.
#version 450
#extension GL_GOOGLE_include_directive : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_arithmetic : require
#include "common.glsl"

const uint kThreads = 128;
layout(local_size_x = kThreads) in;
#include "weights.glsl"
layout(constant_id = 2) const uint kBatch = 1;
layout(constant_id = 3) const uint kVectors = 0;  // rows of x begin at multiples of 16 bytes
layout(buffer_reference, std430, buffer_reference_align = 16) buffer Vectors {
  vec4 at[];
};

const uint kRows = 4;

void read_x(uint row, uint k, out float x[8]) {
  uint at = row * p.x_stride + k;
  if (kVectors != 0 && k + 8 <= p.cols) {
    Vectors vectors = Vectors(p.x);
    vec4 low = vectors.at[at >> 2], high = vectors.at[(at >> 2) + 1];
    for (uint i = 0; i < 4; ++i) {
      x[i] = low[i];
      x[4 + i] = high[i];
    }
  } else {
    for (uint i = 0; i < 8; ++i) x[i] = k + i < p.cols ? p.x.at[at + i] : 0.0;
  }
}

void main() {
  load_tables();
  uint x_row = gl_WorkGroupID.y * kBatch;
  uint step = gl_NumWorkGroups.x * gl_NumSubgroups * kRows;
  for (uint first = (gl_WorkGroupID.x * gl_NumSubgroups + gl_SubgroupID) * kRows; first < p.rows; first += step) {
    float sums[kRows * kBatch];
    for (uint i = 0; i < kRows * kBatch; ++i) sums[i] = 0.0;
    for (uint k = gl_SubgroupInvocationID * 8; k < p.cols; k += gl_SubgroupSize * 8) {
      float w[kRows][8];
      for (uint r = 0; r < kRows; ++r) decode(min(first + r, p.rows - 1), k, w[r]);
      for (uint b = 0; b < kBatch; ++b) {
        float x[8];
        read_x(min(x_row + b, p.x_rows - 1), k, x);
        for (uint r = 0; r < kRows; ++r) {
          float sum = 0.0;
          for (uint i = 0; i < 8; ++i) sum += w[r][i] * x[i];
          sums[b * kRows + r] += sum;
        }
      }
    }
    for (uint b = 0; b < kBatch; ++b)
      for (uint r = 0; r < kRows; ++r) {
        float sum = subgroupAdd(sums[b * kRows + r]);
        uint row = first + r;
        if (subgroupElect() && row < p.rows && x_row + b < p.x_rows)
          p.y.at[(x_row + b) * p.y_stride + row] = p.biased != 0 ? sum + p.bias.at[row] : sum;
      }
  }
}
