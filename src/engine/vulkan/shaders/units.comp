// SPDX-License-Identifier: Apache-2.0
// y = W x + bias for many rows of x on matrix units: as tiles.comp, but both tiles are halves, a weight with
// its scale in it, and a sub-group multiplies fragments of them; sums are float32. x comes from halves.comp:
// rows of halves, each with a power of two that was taken out; one of the weights is in the table. Of 4-bit
// codes in rows and blocks of whole 32s. Workgroups: tiles of rows of W, tiles of rows of x.
#version 450
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#include "common.glsl"

const uint kThreads = 128;
layout(local_size_x = kThreads) in;
#include "weights.glsl"
#include "fragments.glsl"
layout(buffer_reference, std430, buffer_reference_align = 16) buffer Quads {
  uvec4 at[];
};

const uint kScaledLevels = 272, kTakenOut = 288;  // in p.tables: 16 levels times a power of two, and its inverse
const uint kParts = kThreads / kTile;             // invocations that fill a row of a tile
const uint kPart = kDepth / kParts;               // columns of each
// Sub-groups beside each other over rows of W and over rows of x, and the fragments of each.
const uint kDown = kUnits >= 8 ? 4 : 2, kAcross = kUnits / kDown;
const uint kOwnRows = kTile / kDown / kRowsSide, kOwnBatch = kTile / kAcross / kBatchSide;
const uint kElements = kRowsSide * kBatchSide;  // of a fragment of sums

shared vec2 pairs[256];  // levels of a byte of codes

void fill_tiles(uint first, uint x_first, uint k) {
  uint row = gl_LocalInvocationIndex / kParts, column = gl_LocalInvocationIndex % kParts * kPart;
  uint to = row * kPitch + column / 2;
  uint element = min(first + row, p.rows - 1) * p.cols + k + column;
  float scale = scale_of(element);
  for (uint i = 0; i < kPart / 8; ++i) {
    uint word = p.weights.at[(element >> 3) + i];
    for (uint j = 0; j < 4; ++j) weight_tile[to + 4 * i + j] = rounded(pairs[(word >> (8 * j)) & 255u] * scale);
  }
  uint from = min(x_first + row, p.x_rows - 1) * p.x_stride + (k + column) / 2;
  for (uint i = 0; i < kPart / 8; ++i) {
    uvec4 words = Quads(p.x).at[(from >> 2) + i];
    for (uint j = 0; j < 4; ++j) x_tile[to + 4 * i + j] = from_bits(words[j]);
  }
}

void main() {
  load_tables();
  for (uint i = gl_LocalInvocationIndex; i < 256; i += kThreads)
    pairs[i] = vec2(p.tables.at[kScaledLevels + (i >> 4)], p.tables.at[kScaledLevels + (i & 15u)]);
  uint first = gl_WorkGroupID.x * kTile, x_first = gl_WorkGroupID.y * kTile;
  uint unit = own_unit(), down = unit % kDown * kOwnRows, across = unit / kDown * kOwnBatch;
  SumFragment sums[kOwnRows * kOwnBatch];
  [[unroll]] for (uint i = 0; i < kOwnRows * kOwnBatch; ++i) sums[i] = NO_SUMS;
  for (uint k = 0; k < p.cols; k += kDepth) {
    barrier();  // the table is there; the tiles before have been read
    fill_tiles(first, x_first, k);
    barrier();
    [[unroll]] for (uint j = 0; j < kDepth; j += kDepthSide) {
      WeightFragment weights[kOwnRows];
      [[unroll]] for (uint r = 0; r < kOwnRows; ++r) LOAD_WEIGHTS(weights[r], (down + r) * kRowsSide, j);
      [[unroll]] for (uint b = 0; b < kOwnBatch; ++b) {
        BatchFragment batch;
        LOAD_BATCH(batch, (across + b) * kBatchSide, j);
        [[unroll]] for (uint r = 0; r < kOwnRows; ++r)
          sums[b * kOwnRows + r] = coopMatMulAdd(weights[r], batch, sums[b * kOwnRows + r]);
      }
    }
  }
  float taken_out = p.tables.at[kTakenOut];
  [[unroll]] for (uint b = 0; b < kOwnBatch; ++b)
    [[unroll]] for (uint r = 0; r < kOwnRows; ++r) {
      barrier();  // what was staged before has been read
      STAGE(sums[b * kOwnRows + r], unit);
      barrier();
      for (uint i = gl_LocalInvocationIndex; i < kUnits * kElements; i += kThreads) {
        uint from = i / kElements, own_row = i % kRowsSide, own_x_row = i % kElements / kRowsSide;
        uint row = first + (from % kDown * kOwnRows + r) * kRowsSide + own_row;
        uint x_row = x_first + (from / kDown * kOwnBatch + b) * kBatchSide + own_x_row;
        if (row >= p.rows || x_row >= p.x_rows) continue;
        float sum = staged[from * kStaged + own_x_row * kStagedPitch + own_row];
        sum = sum * taken_out * p.x_factors.at[x_row];
        p.y.at[x_row * p.y_stride + row] = p.biased != 0 ? sum + p.bias.at[row] : sum;
      }
    }
}
