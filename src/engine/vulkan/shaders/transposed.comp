// SPDX-License-Identifier: Apache-2.0
// y = W^T x, plus what y held where p.biased says so: p.rows numbers in a row of x, p.cols in one of y. An
// invocation takes eight columns and every kSplit-th row of W, for kBatch rows of x at a time; the parts are
// added in their order. Sums are float32, and a row's do not depend on the rows beside it.
// Workgroups: columns, batches of rows of x.
#version 450
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

const uint kThreads = 128;
layout(local_size_x = kThreads) in;
#include "weights.glsl"

const uint kAcross = 16, kSplit = kThreads / kAcross, kBatch = 4;
const uint kColumns = kAcross * 8;  // of a workgroup
const uint kStep = 16;              // rows of W whose terms are summed on their own

shared float parts[kSplit * kBatch * kColumns];

void main() {
  load_tables();
  uint across = gl_LocalInvocationIndex % kAcross, split = gl_LocalInvocationIndex / kAcross;
  uint k = gl_WorkGroupID.x * kColumns + across * 8, x_row = gl_WorkGroupID.y * kBatch;
  float sums[kBatch * 8];
  for (uint i = 0; i < kBatch * 8; ++i) sums[i] = 0.0;
  if (k < p.cols)
    for (uint first = split; first < p.rows; first += kSplit * kStep) {
      float step[kBatch * 8];
      for (uint i = 0; i < kBatch * 8; ++i) step[i] = 0.0;
      for (uint row = first; row < min(p.rows, first + kSplit * kStep); row += kSplit) {
        float w[8];
        decode(row, k, w);
        for (uint b = 0; b < kBatch; ++b) {
          float x = p.x.at[min(x_row + b, p.x_rows - 1) * p.x_stride + row];
          for (uint j = 0; j < 8; ++j) step[b * 8 + j] = fma(w[j], x, step[b * 8 + j]);
        }
      }
      for (uint i = 0; i < kBatch * 8; ++i) sums[i] += step[i];
    }
  for (uint b = 0; b < kBatch; ++b)
    for (uint j = 0; j < 8; ++j) parts[(split * kBatch + b) * kColumns + across * 8 + j] = sums[b * 8 + j];
  barrier();
  uint own = gl_LocalInvocationIndex, column = gl_WorkGroupID.x * kColumns + own;
  if (column >= p.cols) return;
  for (uint b = 0; b < kBatch && x_row + b < p.x_rows; ++b) {
    float sum = 0.0;
    for (uint i = 0; i < kSplit; ++i) sum += parts[(i * kBatch + b) * kColumns + own];
    uint at = (x_row + b) * p.y_stride + column;
    p.y.at[at] = p.biased != 0 ? p.y.at[at] + sum : sum;
  }
}
