// SPDX-License-Identifier: Apache-2.0
// Activations in place, of a row's first `width` floats, times what is behind them where gated. Workgroups:
// columns, rows. Clamped: gate and up alternate, and one workgroup takes a row.
#version 450
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

const uint kThreads = 128;
layout(local_size_x = kThreads) in;
layout(constant_id = 0) const uint kActivation = 0;
layout(constant_id = 1) const uint kGated = 0;
layout(constant_id = 2) const uint kClamped = 0;
layout(push_constant) uniform Push {
  Floats rows;
  uint stride, width;
  float limit;
} p;

float sigmoid(float x) { return 1.0 / (1.0 + exponential(-x)); }

// 1 - erf(x). For z >= 0, e^(z^2) erfc(z) / t with t = 1 / (1 + z / 2) is a polynomial of degree 8 in u, the
// Chebyshev interpolation over z from 0 to 10: within 3e-7 of the value.
float complementary_error(float x) {
  const float terms[9] = float[](0.572011976, 0.326222252, 0.1020296, 0.00596606174, -0.00615169429, -0.000631151734,
                                 0.0005873263, 1.98380996e-05, -5.4249147e-05);
  float z = min(abs(x), 10.0), t = 1.0 / (1.0 + 0.5 * z), u = (t - 0.583333333) * 2.4;
  float sum = terms[8];
  for (int i = 7; i >= 0; --i) sum = sum * u + terms[i];
  float tail = sum * t * exponential(-z * z);
  return x < 0.0 ? 2.0 - tail : tail;
}

float activated(float x) {
  switch (kActivation) {
    case 0:
      return x * sigmoid(x);
    case 1:
      return 0.5 * x * complementary_error(x * -0.70710678118655);
    case 2:  // (1 + tanh(u)) / 2 = sigmoid(2 u)
      return x * sigmoid(x * (0.0713548162726 * x * x + 1.59576912160573));
    case 3:
      return x * sigmoid(1.702 * x);
    default:
      return x < 0.0 ? 0.0 : x;
  }
}

void main() {
  uint row = gl_WorkGroupID.y * p.stride;
  if (kClamped == 0) {
    uint i = gl_GlobalInvocationID.x;
    if (i >= p.width) return;
    float y = activated(p.rows.at[row + i]);
    if (kGated != 0) y *= p.rows.at[row + p.width + i];
    p.rows.at[row + i] = y;
    return;
  }
  for (uint first = 0; first < p.width; first += kThreads) {
    uint i = first + gl_LocalInvocationIndex;
    float y = 0.0;
    if (i < p.width) {
      float gate = min(p.rows.at[row + 2 * i], p.limit);
      float up = clamp(p.rows.at[row + 2 * i + 1], -p.limit, p.limit);
      y = (up + 1.0) * gate * sigmoid(1.702 * gate);
    }
    barrier();  // what the others read here is overwritten now; what comes later lies behind it
    if (i < p.width) p.rows.at[row + i] = y;
  }
}
