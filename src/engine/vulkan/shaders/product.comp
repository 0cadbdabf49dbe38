// SPDX-License-Identifier: Apache-2.0
// y = W x + bias for a few rows of x at once: a subgroup takes kRows rows of W, its lanes eight columns each,
// so that a load of codes is contiguous over the lanes and eight numbers of x serve kRows rows. A row of y is
// summed in the same order whatever the number of rows: its bits do not depend on its company.
// Workgroups: rows of W (any number: they go on until none is left), batches of rows of x.
#version 450
#extension GL_GOOGLE_include_directive : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_arithmetic : require
#include "common.glsl"

const uint kThreads = 128;
layout(local_size_x = kThreads) in;
layout(constant_id = 2) const uint kBatch = 1;
#include "weights.glsl"
const uint kRows = 4;

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
          for (uint i = 0; i < 8; ++i) sum = fma(w[r][i], x[i], sum);
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
