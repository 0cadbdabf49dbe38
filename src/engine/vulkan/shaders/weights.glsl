// SPDX-License-Identifier: Apache-2.0
// The matrix of a product and its rows of activations, whatever their storage. Needs kThreads and the constants
// 0 and 1, kVectors too.
layout(constant_id = 0) const uint kStorage = 0;     // float32, half, bf16, int8, codes, codes with nested scales
layout(constant_id = 1) const uint kWholeWords = 0;  // eight codes of a word are in one row and one block
layout(constant_id = 3) const uint kVectors = 0;     // rows of x begin at multiples of 16 bytes
layout(buffer_reference, std430, buffer_reference_align = 16) buffer Vectors {
  vec4 at[];
};

layout(push_constant) uniform Push {
  Words weights;
  Words scales;  // floats, or bytes of nested scales
  Floats nested_absmax;
  Floats tables;  // 16 levels, 256 of the nested map
  Floats bias;
  Floats x;
  Floats y;
  Floats x_factors;  // units.comp: of rows of x
  uint rows, cols, x_rows, x_stride, y_stride;
  uint block, nested_block;
  float nested_offset;
  uint biased;
} p;

shared float levels[16];
shared float nested_map[256];

float scale_of(uint element) {
  uint block = element / p.block;
  if (kStorage == 4) return uintBitsToFloat(p.scales.at[block]);
  uint code = (p.scales.at[block >> 2] >> (8 * (block & 3u))) & 255u;
  precise float scale = nested_map[code] * p.nested_absmax.at[block / p.nested_block];
  precise float moved = scale + p.nested_offset;  // rounded twice, as elsewhere
  return moved;
}

// Columns [k, k + 8) of a row; behind the last one: anything.
void decode(uint row, uint k, out float w[8]) {
  if (kStorage >= 4) {
    uint element = row * p.cols + k;
    if (kWholeWords != 0) {
      uint word = p.weights.at[element >> 3];
      float scale = scale_of(element);
      for (uint i = 0; i < 4; ++i) {
        uint pair = word >> (8 * i);
        w[2 * i] = levels[(pair >> 4) & 15u] * scale;
        w[2 * i + 1] = levels[pair & 15u] * scale;
      }
    } else {
      for (uint i = 0; i < 8; ++i) {
        w[i] = 0.0;
        if (k + i >= p.cols) continue;
        uint own = element + i;
        uint pair = p.weights.at[own >> 3] >> (8 * ((own >> 1) & 3u));
        w[i] = levels[((own & 1u) != 0 ? pair : pair >> 4) & 15u] * scale_of(own);
      }
    }
    return;
  }
  // Rows of whole groups of eight, zeros behind the last column.
  uint padded = (p.cols + 7) / 8 * 8, element = row * padded + k;
  if (kStorage == 0) {
    for (uint i = 0; i < 8; ++i) w[i] = uintBitsToFloat(p.weights.at[element + i]);
  } else if (kStorage == 3) {
    float scale = uintBitsToFloat(p.scales.at[element / p.block]);
    for (uint i = 0; i < 8; ++i) {
      int word = int(p.weights.at[(element >> 2) + i / 4]);
      w[i] = float(bitfieldExtract(word, int(8 * (i % 4)), 8)) * scale;
    }
  } else {
    for (uint i = 0; i < 4; ++i) {
      uint word = p.weights.at[(element >> 1) + i];
      w[2 * i] = kStorage == 1 ? half_of(word, 0) : uintBitsToFloat(word << 16);
      w[2 * i + 1] = kStorage == 1 ? half_of(word, 1) : uintBitsToFloat(word & 0xffff0000u);
    }
  }
}

// Before the first decode().
void load_tables() {
  if (kStorage >= 4) {
    for (uint i = gl_LocalInvocationIndex; i < 16; i += kThreads) levels[i] = p.tables.at[i];
    if (kStorage == 5)
      for (uint i = gl_LocalInvocationIndex; i < 256; i += kThreads) nested_map[i] = p.tables.at[16 + i];
    barrier();
  }
}

// Columns [k, k + 8) of a row of x; 0 behind the last one.
void read_x(uint row, uint k, out float x[8]) {
  uint at = row * p.x_stride + k;
  if (kVectors != 0 && k + 8 <= p.cols) {
    Vectors vectors = Vectors(p.x);
    vec4 low = vectors.at[at >> 2], high = vectors.at[(at >> 2) + 1];
    for (uint i = 0; i < 4; ++i) {
      x[i] = low[i];
      x[4 + i] = high[i];
    }
  } else {
    for (uint i = 0; i < 8; ++i) x[i] = k + i < p.cols ? p.x.at[at + i] : 0.0;
  }
}
