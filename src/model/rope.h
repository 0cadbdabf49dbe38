// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_MODEL_ROPE_H_
#define NFLOAT_MODEL_ROPE_H_

#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "engine/device.h"
#include "engine/layer_engine.h"
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
  RopeTable(const RopeConfig& rope, int64_t rotary_dim, int64_t length,
            std::shared_ptr<Device> device = default_device());

  // Makes the first `positions`, at most length(), readable by the calling thread.
  void reserve(int64_t positions);
  // Of a position that was reserved.
  const float* at(int64_t position) const noexcept { return angles().at(position); }
  // For the device's engines; valid as long as the table.
  Angles angles() const noexcept { return {chunks_.data(), rotary_dim_}; }
  int64_t length() const noexcept { return length_; }

 private:
  static constexpr int64_t kChunk = Angles::kChunk;

  int64_t rotary_dim_;
  int64_t length_;
  double factor_;
  std::vector<double> frequencies_;
  const std::shared_ptr<Device> device_;
  std::mutex mutex_;
  size_t filled_ = 0;             // chunks
  std::vector<Constant> chunks_;  // never moved
};

// The rotary_dim / 2 angular frequencies, in radians a position.
std::vector<double> rope_frequencies(const RopeConfig& rope, int64_t rotary_dim, int64_t length);

}  // namespace nfloat

#endif  // NFLOAT_MODEL_ROPE_H_
