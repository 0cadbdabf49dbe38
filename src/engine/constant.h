// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_ENGINE_CONSTANT_H_
#define NFLOAT_ENGINE_CONSTANT_H_

#include <cstddef>
#include <memory>
#include <span>
#include <utility>
#include <vector>

namespace nfloat {

// A few float32 weights: norms, biases, sinks, angles. They stay in host memory; Device::place() may keep a
// copy beside them, which goes when they go. Not changed once placed.
class Constant {
 public:
  Constant() = default;
  Constant(std::vector<float> values) : values_(std::move(values)) {}

  const float* data() const noexcept { return values_.data(); }
  size_t size() const noexcept { return values_.size(); }
  bool empty() const noexcept { return values_.empty(); }
  operator std::span<const float>() const noexcept { return values_; }

  std::shared_ptr<const void> resident;  // the device's; null: it reads host memory

 private:
  std::vector<float> values_;
};

// Factor and, of a LayerNorm, offset; both empty where there is no norm.
struct NormWeights {
  Constant weight, bias;
};

}  // namespace nfloat

#endif  // NFLOAT_ENGINE_CONSTANT_H_
