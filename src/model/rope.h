// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_MODEL_ROPE_H_
#define NFLOAT_MODEL_ROPE_H_

#include <cstdint>
#include <vector>

#include "nfloat/model_config.h"

namespace nfloat {

// Rotation angles per position: for each position rotary_dim / 2 cosines, then rotary_dim / 2 sines. Element
// i of a head turns with element i + rotary_dim / 2 ("half rotation", the layout of Hugging Face
// checkpoints). Computed in double: position * frequency reaches 1e5, where float32 angles would be off by
// 1e-2.
class RopeTable {
 public:
  // `length` positions. kDynamic and kLongRope are those of a sequence of that length when it exceeds
  // original_context.
  RopeTable(const RopeConfig& rope, int64_t rotary_dim, int64_t length);

  const float* at(int64_t position) const noexcept { return table_.data() + position * rotary_dim_; }
  int64_t length() const noexcept { return length_; }

 private:
  int64_t rotary_dim_;
  int64_t length_;
  std::vector<float> table_;
};

// The rotary_dim / 2 angular frequencies, in radians a position.
std::vector<double> rope_frequencies(const RopeConfig& rope, int64_t rotary_dim, int64_t length);

}  // namespace nfloat

#endif  // NFLOAT_MODEL_ROPE_H_
