// SPDX-License-Identifier: Apache-2.0
// Element by element over rows: what shaders.h lists as RowsOperation. Workgroups: columns, rows.
#version 450
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

layout(local_size_x = 128) in;
layout(constant_id = 0) const uint kOperation = 0;
layout(constant_id = 1) const uint kWide = 0;  // copy, find: four columns each, all at multiples of 16 bytes
layout(buffer_reference, std430, buffer_reference_align = 16) buffer Wide {
  uvec4 at[];
};
layout(push_constant) uniform Push {
  Words from, to, list;
  Floats shares;
  uint rows, width, from_stride, to_stride;
  float scale, cap;
  uint has_from;
} p;

float number(uint bits) { return uintBitsToFloat(bits); }

void main_wide(uint column, uint row) {
  if (column >= p.width / 4) return;
  uvec4 four = Wide(p.from).at[row * (p.from_stride / 4) + column];
  if (kOperation == 0)
    Wide(p.to).at[row * (p.to_stride / 4) + column] = four;
  else if (any(equal(four & 0x7f800000u, uvec4(0x7f800000u))))
    p.to.at[0] = 1;
}

void main() {
  uint column = gl_GlobalInvocationID.x, row = gl_WorkGroupID.y;
  if (kWide != 0) {
    main_wide(column, row);
    return;
  }
  if (column >= p.width) return;
  uint from = row * p.from_stride + column, to = row * p.to_stride + column;
  switch (kOperation) {
    case 0:
      p.to.at[to] = p.from.at[from];
      break;
    case 1:
      p.to.at[to] = p.from.at[p.list.at[row] * p.from_stride + column];
      break;
    case 2:
      to = p.list.at[row] * p.to_stride + column;
      p.to.at[to] = floatBitsToUint(number(p.to.at[to]) + p.shares.at[row] * number(p.from.at[from]));
      break;
    case 3:
      p.to.at[to] = 0;
      break;
    case 4:
      p.to.at[to] = floatBitsToUint(number(p.to.at[to]) + p.scale * number(p.from.at[from]));
      break;
    case 5: {
      float x = p.scale * number(p.to.at[to]);
      if (p.has_from != 0) x += number(p.from.at[from]);
      p.to.at[to] = floatBitsToUint(x);
      break;
    }
    case 6: {
      float x = p.scale * number(p.to.at[to]);
      if (p.cap > 0.0) x = p.cap * hyperbolic_tangent(x / p.cap);
      p.to.at[to] = floatBitsToUint(x);
      break;
    }
    case 7:
      if ((p.from.at[from] & 0x7f800000u) == 0x7f800000u) p.to.at[0] = 1;
      break;
  }
}
