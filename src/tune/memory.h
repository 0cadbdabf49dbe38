// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_TUNE_MEMORY_H_
#define NFLOAT_TUNE_MEMORY_H_

#include <cstdint>

#include "nfloat/tensor.h"

namespace nfloat {

// Floats that are there for a whole run; not zeroed.
class FloatMemory {
 public:
  FloatMemory() = default;
  explicit FloatMemory(int64_t count) : buffer_(static_cast<size_t>(count) * sizeof(float)) {}
  float* data() noexcept { return reinterpret_cast<float*>(buffer_.data()); }
  uint64_t bytes() const noexcept { return buffer_.size(); }

 private:
  Buffer buffer_;
};

}  // namespace nfloat

#endif  // NFLOAT_TUNE_MEMORY_H_
