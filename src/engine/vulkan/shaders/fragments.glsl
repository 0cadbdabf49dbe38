// SPDX-License-Identifier: Apache-2.0
// Fragments of matrices that a sub-group holds together, and the tiles in shared memory that they come from: of
// matrix units (GL_KHR_cooperative_matrix), or the same calls in plain GLSL, which tests run where no driver has
// units (NFLOAT_EMULATED). Needs kThreads.
layout(constant_id = 2) const uint kSubgroup = 32;   // invocations
layout(constant_id = 4) const uint kRowsSide = 16;   // of a fragment: rows of weights,
layout(constant_id = 5) const uint kBatchSide = 16;  // rows of x,
layout(constant_id = 6) const uint kDepthSide = 16;  // columns of both

const uint kTile = 64, kDepth = 32;        // rows of a tile, of weights and of x; columns
const uint kPitch = kDepth / 2 + 4;        // in pairs of halves; units want rows at multiples of 16 bytes
const uint kStagedPitch = kRowsSide + 4;   // in floats
const uint kUnits = kThreads / kSubgroup;  // sub-groups
const uint kStaged = kBatchSide * kStagedPitch;

#ifndef NFLOAT_EMULATED
#extension GL_KHR_cooperative_matrix : require
#extension GL_KHR_memory_scope_semantics : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_EXT_shader_explicit_arithmetic_types_float16 : require
#define Pair f16vec2
#else
#define Pair uint
#endif

shared Pair weight_tile[kTile * kPitch];  // [row][column]
shared Pair x_tile[kTile * kPitch];       // [row][column]
shared float staged[kUnits * kStaged];    // [sub-group][row of x][row of weights]

#ifndef NFLOAT_EMULATED

#define WeightFragment coopmat<float16_t, gl_ScopeSubgroup, kRowsSide, kDepthSide, gl_MatrixUseA>
#define BatchFragment coopmat<float16_t, gl_ScopeSubgroup, kDepthSide, kBatchSide, gl_MatrixUseB>
#define SumFragment coopmat<float, gl_ScopeSubgroup, kRowsSide, kBatchSide, gl_MatrixUseAccumulator>
#define NO_SUMS SumFragment(0.0)

Pair rounded(vec2 values) { return f16vec2(values); }
Pair from_bits(uint bits) { return unpackFloat2x16(bits); }
uint own_unit() { return gl_SubgroupID; }

#else

// What is asked of a tile is read when fragments are multiplied. Each invocation has the sums of some elements,
// in an order that nothing may rest on. Another layout than these fragments' own gives what is not a number.
struct WeightFragment {
  uint first, stride;
  bool by_rows;
};
struct BatchFragment {
  uint first, stride;
  bool by_rows;
};
const uint kOwn = kRowsSide * kBatchSide / kSubgroup;
struct SumFragment {
  float at[32];  // of 16 x 16 in a sub-group of 8; else some are unused
};
#define NO_SUMS no_sums()
#define gl_CooperativeMatrixLayoutRowMajor true
#define gl_CooperativeMatrixLayoutColumnMajor false

Pair rounded(vec2 values) { return packHalf2x16(values); }
Pair from_bits(uint bits) { return bits; }
uint own_unit() { return gl_LocalInvocationIndex / kSubgroup; }
uint element_of(uint i) {
  return (i * kSubgroup + gl_LocalInvocationIndex % kSubgroup) * 37u % (kRowsSide * kBatchSide);
}

SumFragment no_sums() {
  SumFragment sums;
  for (uint i = 0; i < kOwn; ++i) sums.at[i] = 0.0;
  return sums;
}
WeightFragment fragment_of_weight_tile(uint first, uint stride, bool by_rows) {
  return WeightFragment(first, stride, by_rows);
}
BatchFragment fragment_of_x_tile(uint first, uint stride, bool by_rows) {
  return BatchFragment(first, stride, by_rows);
}
SumFragment coopMatMulAdd(WeightFragment weights, BatchFragment batch, SumFragment sums) {
  for (uint i = 0; i < kOwn; ++i) {
    uint element = element_of(i);
    uint row = weights.first + element % kRowsSide * weights.stride;
    uint column = batch.first + element / kRowsSide * batch.stride;
    for (uint k = 0; k < kDepthSide / 2; ++k) {
      vec2 w = unpackHalf2x16(weight_tile[row + k]), x = unpackHalf2x16(x_tile[column + k]);
      sums.at[i] = fma(w.y, x.y, fma(w.x, x.x, sums.at[i]));
    }
    if (!weights.by_rows || batch.by_rows) sums.at[i] = uintBitsToFloat(0x7fc00000u);
  }
  return sums;
}
void stage(SumFragment sums, uint first, uint stride, bool by_rows) {
  for (uint i = 0; i < kOwn; ++i) {
    uint row = element_of(i) % kRowsSide, column = element_of(i) / kRowsSide;
    staged[first + (by_rows ? row * stride + column : column * stride + row)] = sums.at[i];
  }
}
#define coopMatLoad(fragment, from, first, stride, layout) fragment = fragment_of_##from(first, stride, layout)
#define coopMatStore(sums, to, first, stride, layout) stage(sums, first, stride, layout)

#endif

// A row of a tile is a row of a fragment of weights, and a column of one of x.
#define LOAD_WEIGHTS(fragment, row, column) \
  coopMatLoad(fragment, weight_tile, (row) * kPitch + (column) / 2, kPitch, gl_CooperativeMatrixLayoutRowMajor)
#define LOAD_BATCH(fragment, row, column) \
  coopMatLoad(fragment, x_tile, (row) * kPitch + (column) / 2, kPitch, gl_CooperativeMatrixLayoutColumnMajor)
#define STAGE(sums, unit) \
  coopMatStore(sums, staged, (unit) * kStaged, kStagedPitch, gl_CooperativeMatrixLayoutColumnMajor)
