// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_MODEL_LINEAR_GROUP_H_
#define NFLOAT_MODEL_LINEAR_GROUP_H_

#include <cstdint>
#include <string>
#include <vector>

#include "nfloat/checkpoint.h"
#include "nfloat/model.h"
#include "nfloat/quantize.h"

namespace nfloat {

// Matrices with one input (query, key and value; gate and up), their outputs side by side.
class LinearGroup {
 public:
  // Adds [out, in] from a plain or a quantized tensor.
  void add(const TensorView& weight, const std::vector<float>& bias);
  void add(const QuantizedView& weight, const std::vector<float>& bias);
  void add(const QuantizedTensor& weight, const std::vector<float>& bias);

  int64_t inputs() const noexcept { return inputs_; }
  int64_t outputs() const noexcept { return outputs_; }
  uint64_t bytes() const noexcept { return weight_.size() * 4; }

  // y[row][0..outputs) = W x[row] + bias.
  void apply(const float* x, int64_t x_stride, int64_t rows, float* y, int64_t y_stride,
             int threads) const noexcept;

 private:
  void append(const std::vector<float>& bias, int64_t outputs);
  int64_t inputs_ = 0;
  int64_t outputs_ = 0;
  std::vector<float> weight_;
  std::vector<float> bias_;
};

}  // namespace nfloat

#endif  // NFLOAT_MODEL_LINEAR_GROUP_H_
