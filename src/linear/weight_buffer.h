// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_LINEAR_WEIGHT_BUFFER_H_
#define NFLOAT_LINEAR_WEIGHT_BUFFER_H_

#include <cstddef>
#include <memory>

namespace nfloat {

// Uninitialised memory for weights, aligned to 64. Larger buffers share regions that the system is asked to
// back by huge pages: a matrix of 2 MiB on 4 KiB pages streams a tenth slower, since the processor's
// prefetchers stop at each page's end. A region is given back when its last buffer goes.
class WeightBuffer {
 public:
  WeightBuffer() noexcept = default;
  explicit WeightBuffer(size_t bytes);

  std::byte* data() noexcept { return data_.get(); }
  const std::byte* data() const noexcept { return data_.get(); }
  size_t size() const noexcept { return bytes_; }

 private:
  std::shared_ptr<std::byte> data_;
  size_t bytes_ = 0;
};

}  // namespace nfloat

#endif  // NFLOAT_LINEAR_WEIGHT_BUFFER_H_
