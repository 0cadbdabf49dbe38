// SPDX-License-Identifier: Apache-2.0
// Arguments of store, attend and attend_tiles, and the words of a head in a page of kPage positions.
const uint kPage = 128;
layout(constant_id = 0) const uint kType = 0;  // float32, half, int8
layout(constant_id = 1) const uint kHeadDim = 64;

// A structure around the pointer: of an array of bare ones the compiler declares a capability of descriptors.
struct Page {
  Words words;
};
layout(buffer_reference, std430, buffer_reference_align = 8) buffer Pages {
  Page at[];
};
struct RowPlace {
  Pages pages;
  Floats angles;  // cosines, then sines, of the row's position
  uint position, unused;
};
layout(buffer_reference, std430, buffer_reference_align = 8) buffer Places {
  RowPlace at[];
};
layout(push_constant) uniform Push {
  Floats projected, attended;
  Places places;
  Floats sinks, partials;
  uint projected_stride, attended_stride;
  uint group;
  uint query_stride;
  uint key_at, key_stride, value_after_key;
  uint head_words, first_word;
  uint turned, window;
  float scale, softcap;
  uint has_sinks, parts, rows;
} p;

const uint kInWord = kType == 0 ? 1 : kType == 1 ? 2 : 4;  // numbers
const uint kWords = (kHeadDim + kInWord - 1) / kInWord;    // of a key, of a value
const uint kValuesAt = kWords * kPage;
const uint kKeyScalesAt = 2 * kWords * kPage;
const uint kValueScalesAt = kKeyScalesAt + kPage;

// Element d of a head at `at` of the projections, turned by the angles of its row.
float turned(uint at, uint d, Floats angles) {
  float x = p.projected.at[at + d];
  if (d >= p.turned) return x;
  uint half_dims = p.turned / 2, pair = d < half_dims ? d : d - half_dims;
  float other = p.projected.at[at + (d < half_dims ? d + half_dims : d - half_dims)];
  float cosine = angles.at[pair], sine = angles.at[half_dims + pair];
  return d < half_dims ? x * cosine - other * sine : x * cosine + other * sine;
}
