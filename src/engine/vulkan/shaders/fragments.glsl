// SPDX-License-Identifier: Apache-2.0
// Fragments of 16 x 16 numbers that a sub-group holds together, and the tiles in shared memory that they come
// from: of matrix units (GL_KHR_cooperative_matrix), or the same in plain GLSL, which tests run where no driver
// has units (NFLOAT_EMULATED). Needs kThreads and kSubgroup, the invocations of a sub-group: 32 or 64.

const uint kSide = 16;                      // of a fragment
const uint kTile = 64, kDepth = 32;         // rows of a tile, of weights and of x; columns
const uint kPitch = kDepth / 2 + 4;         // in pairs of halves; units want rows at multiples of 16 bytes
const uint kStagedPitch = kSide + 4;        // in floats
const uint kUnits = kThreads / kSubgroup;   // sub-groups
const uint kStaged = kSide * kStagedPitch;  // of a sub-group

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

#define WeightFragment coopmat<float16_t, gl_ScopeSubgroup, kSide, kSide, gl_MatrixUseA>
#define BatchFragment coopmat<float16_t, gl_ScopeSubgroup, kSide, kSide, gl_MatrixUseB>
#define SumFragment coopmat<float, gl_ScopeSubgroup, kSide, kSide, gl_MatrixUseAccumulator>

Pair rounded(vec2 values) { return f16vec2(values); }
Pair from_bits(uint bits) { return unpackFloat2x16(bits); }
uint own_unit() { return gl_SubgroupID; }

// A row of the fragment is a row of the tile; of x a column. `at` and the column are multiples of 16.
#define LOAD_WEIGHTS(fragment, row, column) \
  coopMatLoad(fragment, weight_tile, (row) * kPitch + (column) / 2, kPitch, gl_CooperativeMatrixLayoutRowMajor)
#define LOAD_BATCH(fragment, row, column) \
  coopMatLoad(fragment, x_tile, (row) * kPitch + (column) / 2, kPitch, gl_CooperativeMatrixLayoutColumnMajor)
#define CLEAR(sums) sums = SumFragment(0.0)
#define MULTIPLY_ADD(weights, batch, sums) sums = coopMatMulAdd(weights, batch, sums)
#define STAGE(sums, unit) \
  coopMatStore(sums, staged, (unit) * kStaged, kStagedPitch, gl_CooperativeMatrixLayoutColumnMajor)

#else

// A fragment of a tile is read when it is multiplied. Each invocation has the sums of some elements, in an
// order that nothing may rest on.
struct TileFragment {
  uint at;
};
#define WeightFragment TileFragment
#define BatchFragment TileFragment
const uint kOwn = kSide * kSide / 32;  // most sums of an invocation
struct SumFragment {
  float at[kOwn];
};

uint element_of(uint i) {
  uint lane = gl_LocalInvocationIndex % kSubgroup;
  return (i * kSubgroup + lane) * 37u % (kSide * kSide);
}
Pair rounded(vec2 values) { return packHalf2x16(values); }
Pair from_bits(uint bits) { return bits; }
uint own_unit() { return gl_LocalInvocationIndex / kSubgroup; }

void multiply_add(TileFragment weights, TileFragment batch, inout SumFragment sums) {
  for (uint i = 0; i < kSide * kSide / kSubgroup; ++i) {
    uint element = element_of(i);
    uint row = weights.at + element % kSide * kPitch, column = batch.at + element / kSide * kPitch;
    for (uint k = 0; k < kSide / 2; ++k) {
      vec2 w = unpackHalf2x16(weight_tile[row + k]), x = unpackHalf2x16(x_tile[column + k]);
      sums.at[i] = fma(w.y, x.y, fma(w.x, x.x, sums.at[i]));
    }
  }
}
void clear(out SumFragment sums) {
  for (uint i = 0; i < kOwn; ++i) sums.at[i] = 0.0;
}
void stage(SumFragment sums, uint unit) {
  for (uint i = 0; i < kSide * kSide / kSubgroup; ++i) {
    uint element = element_of(i);
    staged[unit * kStaged + element / kSide * kStagedPitch + element % kSide] = sums.at[i];
  }
}

#define LOAD_WEIGHTS(fragment, row, column) fragment.at = (row) * kPitch + (column) / 2
#define LOAD_BATCH(fragment, row, column) fragment.at = (row) * kPitch + (column) / 2
#define CLEAR(sums) clear(sums)
#define MULTIPLY_ADD(weights, batch, sums) multiply_add(weights, batch, sums)
#define STAGE(sums, unit) stage(sums, unit)

#endif
