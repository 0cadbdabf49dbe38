// SPDX-License-Identifier: Apache-2.0
// Pointers, numbers and sums that the shaders share. A driver's own exp and tanh may be off by dozens of units
// in the last place, and its conversion to half may cut off: what is here keeps the engine's bounds everywhere.
#extension GL_EXT_buffer_reference : require

layout(buffer_reference, std430, buffer_reference_align = 4) buffer Floats {
  float at[];
};
layout(buffer_reference, std430, buffer_reference_align = 4) buffer Words {
  uint at[];
};

// Bits of a half beside its neighbour: low or high part of a word.
float half_of(uint word, uint part) {
  uint bits = part == 0 ? word & 0xffffu : word >> 16;
  uint magnitude = bits & 0x7fffu, sign = (bits & 0x8000u) << 16;
  if (magnitude < 0x400u) {  // exact, and kept where a driver flushes
    return uintBitsToFloat(floatBitsToUint(float(magnitude) * uintBitsToFloat(0x33800000u)) | sign);
  }
  uint exponent = magnitude >= 0x7c00u ? 0x70000000u : 0x38000000u;
  return uintBitsToFloat(sign | ((magnitude << 13) + exponent));
}

// To the nearest half, ties to even; beyond the largest one: that.
uint to_half(float x) {
  uint bits = floatBitsToUint(x), sign = (bits >> 16) & 0x8000u, magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return sign | 0x7e00u;
  if (magnitude >= 0x477fe000u) return sign | 0x7bffu;
  if (magnitude < 0x38800000u)  // below the smallest normal one: steps of 2^-24
    return sign | uint(roundEven(abs(x) * 16777216.0));
  return sign | ((magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13);
}

// e^x to a few units in the last place, for x up to 88; what is below -87 counts as that.
float exponential(float x) {
  x = clamp(x, -87.0, 88.0);
  float n = roundEven(x * 1.44269504);
  float r = x - n * 0.693359375 + n * 2.12194440e-4;  // the first factor has few bits
  float sum = 1.0 / 5040.0;
  sum = sum * r + 1.0 / 720.0;
  sum = sum * r + 1.0 / 120.0;
  sum = sum * r + 1.0 / 24.0;
  sum = sum * r + 1.0 / 6.0;
  sum = sum * r + 0.5;
  sum = sum * r + 1.0;
  sum = sum * r + 1.0;
  return sum * uintBitsToFloat(uint(int(n) + 127) << 23);
}

float hyperbolic_tangent(float x) {
  float size = abs(x), power = exponential(-2.0 * size);
  float far = (1.0 - power) / (1.0 + power);
  // The difference loses digits near zero; there the series is exact to float32.
  float square = x * x;
  float near = (((62.0 / 2835.0 * square - 17.0 / 315.0) * square + 2.0 / 15.0) * square - 1.0 / 3.0) * square;
  return size < 0.25 ? x + x * near : x < 0.0 ? -far : far;
}
