// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_CONVERT_ERROR_FEEDBACK_H_
#define NFLOAT_CONVERT_ERROR_FEEDBACK_H_

#include <cstdint>
#include <span>
#include <vector>

#include "convert/lora.h"
#include "nfloat/codebook.h"

namespace nfloat {

// Codes for base + B A where the base lies on the levels itself, so that the nearest code is the old one and
// the adapter is lost. Of a row's error e, |e|^2 + mu |U e|^2 is made small, U an orthonormal basis of A's
// rows and mu = 4 cols / rank: what the adapter reads from its input keeps its effect, at the price of
// unrelated error. One code at a time goes to a neighbouring level, in sweeps along the row with mu / 16,
// mu / 4 and mu, so that the changes that give most for their error come first.
class ErrorFeedback {
 public:
  // Whether it applies: a plain pair of matrices of moderate rank.
  static bool fits(const LoraDelta& delta) noexcept;
  ErrorFeedback(const LoraDelta& delta, const Codebook& codebook);

  // Improves `codes` (two a byte, element 2i in the high nibble) of whole rows, of which the first begins a
  // block; scales: one a block, as stored. Depends on the row alone.
  void refine(std::span<const float> values, const float* scales, int64_t block_size, uint8_t* codes) const;

 private:
  int64_t cols_ = 0;
  size_t width_ = 0;  // of the basis, a multiple of kLanes
  double mu_ = 0;
  std::vector<float> basis_;    // [cols, width], zero beyond its rank
  std::vector<float> squares_;  // of a column of U
  std::vector<float> levels_;   // by rank
  std::vector<uint8_t> rank_of_code_, code_of_rank_;
};

}  // namespace nfloat

#endif  // NFLOAT_CONVERT_ERROR_FEEDBACK_H_
