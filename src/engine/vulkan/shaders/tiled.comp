// SPDX-License-Identifier: Apache-2.0
// y = W x + bias for many rows of x: 64 rows of W by 64 rows of x a workgroup, each invocation four by four,
// both factors in shared memory kDepth columns at a time. Sums of kPart columns are added to the whole, so that
// their rounding stays small however long a row is. Workgroups: rows of W, rows of x.
#version 450
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

const uint kThreads = 256;
layout(local_size_x = kThreads) in;
#include "weights.glsl"

const uint kTile = 64, kDepth = 16, kPart = 256;
shared float w[kDepth][kTile + 1];
shared float x[kDepth][kTile + 1];

void main() {
  load_tables();
  uint t = gl_LocalInvocationIndex, row = gl_WorkGroupID.x * kTile, x_row = gl_WorkGroupID.y * kTile;
  uint mine = t % 16 * 4, my_x = t / 16 * 4;
  float sums[16], part[16];
  for (uint i = 0; i < 16; ++i) sums[i] = part[i] = 0.0;
  for (uint k = 0; k < p.cols; k += kDepth) {
    barrier();  // the columns before have been used
    if (t < kTile * kDepth / 8) {
      uint own = t / (kDepth / 8), first = t % (kDepth / 8) * 8;
      float decoded[8];
      bool inside = row + own < p.rows && k + first < p.cols;
      if (inside) decode(row + own, k + first, decoded);
      for (uint i = 0; i < 8; ++i) w[first + i][own] = inside && k + first + i < p.cols ? decoded[i] : 0.0;
    }
    for (uint i = t; i < kTile * kDepth; i += kThreads) {
      uint own = i / kDepth, column = i % kDepth;
      bool inside = x_row + own < p.x_rows && k + column < p.cols;
      x[column][own] = inside ? p.x.at[(x_row + own) * p.x_stride + k + column] : 0.0;
    }
    barrier();
    for (uint c = 0; c < kDepth; ++c)
      for (uint i = 0; i < 4; ++i)
        for (uint j = 0; j < 4; ++j) part[4 * i + j] += x[c][my_x + i] * w[c][mine + j];
    if ((k + kDepth) % kPart == 0 || k + kDepth >= p.cols)
      for (uint i = 0; i < 16; ++i) {
        sums[i] += part[i];
        part[i] = 0.0;
      }
  }
  for (uint i = 0; i < 4; ++i)
    for (uint j = 0; j < 4; ++j)
      if (row + mine + j < p.rows && x_row + my_x + i < p.x_rows) {
        float sum = sums[4 * i + j];
        p.y.at[(x_row + my_x + i) * p.y_stride + row + mine + j] =
            p.biased != 0 ? sum + p.bias.at[row + mine + j] : sum;
      }
}
