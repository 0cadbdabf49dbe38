// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_MODEL_ROPE_H_
#define NFLOAT_MODEL_ROPE_H_

#include <cstdint>
#include <mutex>
#include <vector>

#include "nfloat/model_config.h"

namespace nfloat {

// Rotation angles per position: for each position rotary_dim / 2 cosines, then rotary_dim / 2 sines. Element
// i of a head rotates with element i + rotary_dim / 2 ("half rotation", the layout of Hugging Face
// checkpoints). Computed in double: position * frequency reaches 1e5, where float32 angles would be off by
// 1e-2. Positions are computed when they are first reserved; for use by any number of threads.
class RopeTable {
 public:
  // Of at most `length` positions. kDynamic and kLongRope are those of a sequence of that length when it
  // exceeds original_context.
  RopeTable(const RopeConfig& rope, int64_t rotary_dim, int64_t length);

  // Makes the first `positions`, at most length(), readable by the calling thread.
  void reserve(int64_t positions);
  // Of a position that was reserved.
  const float* at(int64_t position) const noexcept {
    return chunks_[static_cast<size_t>(position / kChunk)].data() + position % kChunk * rotary_dim_;
  }
  int64_t length() const noexcept { return length_; }

 private:
  static constexpr int64_t kChunk = 256;  // positions

  int64_t rotary_dim_;
  int64_t length_;
  double factor_;
  std::vector<double> frequencies_;
  std::mutex mutex_;
  size_t filled_ = 0;                       // chunks
  std::vector<std::vector<float>> chunks_;  // never moved
};

// The rotary_dim / 2 angular frequencies, in radians a position.
std::vector<double> rope_frequencies(const RopeConfig& rope, int64_t rotary_dim, int64_t length);

}  // namespace nfloat

#endif  // NFLOAT_MODEL_ROPE_H_
