// SPDX-License-Identifier: Apache-2.0
// What a score and the pages of a query are, for attend and attend_tiles; behind cache.glsl. The sums of both
// have the same terms in the same order, each step one fma, so that a compiler has no choice between them.
const uint kPart = 8;                 // pages
const float kNone = -3.402823466e38;  // no score is lower

float number(uint word, uint i) {
  return kType == 0   ? uintBitsToFloat(word)
         : kType == 1 ? half_of(word, i)
                      : float(bitfieldExtract(int(word), int(8 * i), 8));
}

// The pages of a query: positions [begin, end), of which `kPart` pages make a part.
struct Range {
  uint begin, end, first_part, last_part;
};
Range range_of(uint position) {
  Range range;
  range.end = position + 1;
  range.begin = p.window > 0 && range.end > p.window ? range.end - p.window : 0;
  range.first_part = range.begin / kPage / kPart;
  range.last_part = position / kPage / kPart;
  return range;
}

// A score from the sum of products of a query and the key in a slot of a page.
float score_of(float sum, Words words, uint base, uint slot) {
  if (kType == 2) sum *= uintBitsToFloat(words.at[base + kKeyScalesAt + slot]);
  return p.softcap > 0.0 ? p.softcap * hyperbolic_tangent(sum / p.softcap) : sum;
}
// What multiplies the numbers of a value.
float value_scale_of(Words words, uint base, uint slot) {
  return kType == 2 ? uintBitsToFloat(words.at[base + kValueScalesAt + slot]) : 1.0;
}

// A softmax so far: the largest score, the sum of the weights beside it.
struct Sums {
  float largest, total;
};
Sums no_sums() { return Sums(kNone, 0.0); }
// What a query head begins with.
Sums first_sums(uint head) { return p.has_sinks != 0 ? Sums(p.sinks.at[head], 1.0) : no_sums(); }

// Lets in the largest score of a page; what is left of the weights so far.
float raise(inout Sums own, float largest) {
  float before = own.largest;
  own.largest = max(before, largest);
  return before == kNone ? 0.0 : exponential(before - own.largest);
}

// Adds a part; what multiplies the values so far, and those of the part.
struct Factors {
  float kept, share;
};
Factors merge_sums(inout Sums all, Sums part) {
  float largest = max(all.largest, part.largest);
  Factors factors;
  factors.kept = all.largest == kNone ? 0.0 : exponential(all.largest - largest);
  factors.share = exponential(part.largest - largest);
  precise float total = all.total * factors.kept + part.total * factors.share;
  all.largest = largest;
  all.total = total;
  return factors;
}
