// SPDX-License-Identifier: Apache-2.0
// y = W x + bias for many rows of x: a workgroup takes kTile rows of W and as many of x through shared memory,
// kDepth columns at a time, and each invocation kOwnRows x kOwnBatch sums, so that a weight is decoded once for
// kTile rows of x. With kHalves the tile has pairs of levels in half precision, from a table by bytes of codes,
// and the columns of a step share one scale, which is multiplied in float32; else weights in float32. Sums are
// float32: of a step, then of the steps in their order, whatever lies beside a row.
// Workgroups: tiles of rows of W, tiles of rows of x.
#version 450
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#include "common.glsl"

const uint kThreads = 128;
layout(local_size_x = kThreads) in;
#include "weights.glsl"
layout(constant_id = 2) const uint kHalves = 0;

const uint kTile = 64, kDepth = 32, kAcross = 16, kOwnRows = 4, kOwnBatch = 8;
const uint kGroups = kDepth / 8;  // of eight columns
const uint kPitch = kDepth + 1;   // odd: neighbouring rows begin in different banks
const uint kWeightPitch = kHalves != 0 ? kDepth / 2 + 1 : kDepth + 1;

shared uint weight_tile[kTile * kWeightPitch];
shared float x_tile[kTile * kPitch];
shared float scales[kTile];
shared uint pairs[kHalves != 0 ? 256 : 1];  // levels of a byte of codes, the first one low

void load_x(uint first, uint k) {
  for (uint i = gl_LocalInvocationIndex; i < kTile * kGroups; i += kThreads) {
    uint row = i / kGroups, column = i % kGroups * 8;
    float x[8];
    read_x(min(first + row, p.x_rows - 1), k + column, x);
    for (uint j = 0; j < 8; ++j) x_tile[row * kPitch + column + j] = x[j];
  }
}

void load_weights(uint first, uint k) {
  for (uint i = gl_LocalInvocationIndex; i < kTile * kGroups; i += kThreads) {
    uint row = i / kGroups, column = i % kGroups * 8, own = min(first + row, p.rows - 1);
    if (kHalves != 0) {
      uint element = own * p.cols + k + column, word = p.weights.at[element >> 3];
      for (uint j = 0; j < 4; ++j)
        weight_tile[row * kWeightPitch + column / 2 + j] = pairs[(word >> (8 * j)) & 255u];
      if (column == 0) scales[row] = scale_of(element);
      continue;
    }
    float w[8];
    for (uint j = 0; j < 8; ++j) w[j] = 0.0;
    if (k + column < p.cols) decode(own, k + column, w);
    for (uint j = 0; j < 8; ++j) weight_tile[row * kWeightPitch + column + j] = floatBitsToUint(w[j]);
  }
}

void main() {
  load_tables();
  if (kHalves != 0)
    for (uint i = gl_LocalInvocationIndex; i < 256; i += kThreads)
      pairs[i] = packHalf2x16(vec2(levels[i >> 4], levels[i & 15u]));
  uint across = gl_LocalInvocationIndex % kAcross, down = gl_LocalInvocationIndex / kAcross * kOwnBatch;
  uint first = gl_WorkGroupID.x * kTile, x_first = gl_WorkGroupID.y * kTile;
  float sums[kOwnBatch * kOwnRows];
  [[unroll]] for (uint i = 0; i < kOwnBatch * kOwnRows; ++i) sums[i] = 0.0;
  for (uint k = 0; k < p.cols; k += kDepth) {
    barrier();  // the table is there; the tiles before have been read
    load_x(x_first, k);
    load_weights(first, k);
    barrier();
    float step[kOwnBatch * kOwnRows];
    [[unroll]] for (uint i = 0; i < kOwnBatch * kOwnRows; ++i) step[i] = 0.0;
    for (uint j = 0; j < kDepth; j += 2) {
      vec2 w[kOwnRows];
      [[unroll]] for (uint r = 0; r < kOwnRows; ++r) {
        uint row = (across + r * kAcross) * kWeightPitch;
        w[r] = kHalves != 0 ? unpackHalf2x16(weight_tile[row + j / 2])
                            : vec2(uintBitsToFloat(weight_tile[row + j]), uintBitsToFloat(weight_tile[row + j + 1]));
      }
      [[unroll]] for (uint b = 0; b < kOwnBatch; ++b) {
        uint at = (down + b) * kPitch + j;
        float low = x_tile[at], high = x_tile[at + 1];
        [[unroll]] for (uint r = 0; r < kOwnRows; ++r)
          step[b * kOwnRows + r] = fma(w[r].y, high, fma(w[r].x, low, step[b * kOwnRows + r]));
      }
    }
    [[unroll]] for (uint r = 0; r < kOwnRows; ++r) {
      float scale = kHalves != 0 ? scales[across + r * kAcross] : 1.0;
      [[unroll]] for (uint b = 0; b < kOwnBatch; ++b)
        sums[b * kOwnRows + r] = fma(scale, step[b * kOwnRows + r], sums[b * kOwnRows + r]);
    }
  }
  [[unroll]] for (uint b = 0; b < kOwnBatch; ++b)
    [[unroll]] for (uint r = 0; r < kOwnRows; ++r) {
      uint row = first + across + r * kAcross, x_row = x_first + down + b;
      float sum = sums[b * kOwnRows + r];
      if (row < p.rows && x_row < p.x_rows)
        p.y.at[x_row * p.y_stride + row] = p.biased != 0 ? sum + p.bias.at[row] : sum;
    }
}
