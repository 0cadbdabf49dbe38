// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_CODEBOOK_H_
#define NFLOAT_CODEBOOK_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "nfloat/api.h"

namespace nfloat {

// A table of 2^bits levels (int4 has 15: its last code is unused), each level the value of a weight divided
// by its block's scale. Encoding of y: rank = number of thresholds strictly below y (a tie goes to the lower
// level), code = code_of_rank[rank].
struct NFLOAT_API Codebook {
  std::string name;  // as make_codebook accepts it: "nf4", "fp4", "bof4-s"
  int bits = 4;
  std::vector<float> levels;          // by code: what quantize and dequantize use
  std::vector<double> exact;          // by code: the same before rounding
  std::vector<float> thresholds;      // levels.size() - 1 float32 midpoints of neighbours, ascending
  std::vector<uint8_t> code_of_rank;  // codes in ascending order of level
  bool signed_scale = false;          // designed for scales that carry the sign of the largest weight

  // Code of one normalized value, by a plain search. NaN gives the lowest level.
  uint8_t encode(float y) const noexcept;
  // The code with level 0 that encode(0) gives; -1 if there is none.
  int zero_code() const noexcept;
};

// Completes a table: sorts the levels, computes the thresholds. `levels` by code; at most 256, finite, at
// least two distinct. Throws kInvalidArgument.
NFLOAT_API Codebook codebook_from_levels(std::string name, const std::vector<double>& levels);

// A table from a file: a JSON array of numbers, a JSON object with "levels" (and optionally "name" and
// "signed_scale"), as `nfloat codebook --json` writes it, or plain text with numbers between spaces, commas
// or line ends ('#' begins a comment). Throws kNotFound, kIo, or kMalformedFile naming what was found.
NFLOAT_API Codebook load_codebook(const std::string& path);

// A code by name ("nf4", "nf3", "fp4", "e2m1", "int4", "af4", "sf4", "bof4", "bof4-s", "lloyd-max", ...).
// `block_size` (2 to 2^30) matters only to codes fitted to it, whose fit takes about 0.1 s. "nf4" and "fp4"
// give bitsandbytes' float32 tables bit for bit. Throws kNotFound listing all codes, or
// kInvalidArgument.
NFLOAT_API Codebook make_codebook(std::string_view name, int64_t block_size = 64);

// Every name that make_codebook accepts, in the order for a listing.
NFLOAT_API std::vector<std::string> codebook_names();

// A one-line description of the code of that name. Throws as make_codebook does.
NFLOAT_API std::string_view codebook_summary(std::string_view name);

// True for codes that depend on the block size given to make_codebook. Throws as make_codebook does.
NFLOAT_API bool codebook_is_fitted(std::string_view name);

// 929/960 = 1/2 ((1 - 1/30) + (1 - 1/32)): the largest probability of NF4, where bitsandbytes writes
// .9677083.
inline constexpr double kNormalFloatOffset = 929.0 / 960.0;

// The same formula for k bits: 1 - 1/2 (1/2^(k+1) + 1/(2^(k+1) - 2)).
NFLOAT_API double generalised_offset(int bits);

// NormalFloat with `bits` (2 to 8) and its largest probability `offset` (between 1/2 and 1): quantiles of the
// normal distribution at 2^(bits-1) probabilities in equal steps from `offset` down to 1/2, one fewer on the
// negative side, and exactly 0; divided by the largest. Levels are the exact values rounded once, except that
// 4 bits at kNormalFloatOffset give bitsandbytes' table. Throws kInvalidArgument.
NFLOAT_API Codebook make_normal_float(int bits, double offset = kNormalFloatOffset);

// Inverse of the standard normal distribution function, for probabilities inside (0, 1).
NFLOAT_API double normal_quantile(double probability);

// The 256-entry map of bitsandbytes' double quantization ("dynamic map"), its float32 table bit for bit.
NFLOAT_API const Codebook& dynamic_codebook();

}  // namespace nfloat

#endif  // NFLOAT_CODEBOOK_H_
