// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_MODEL_LINEAR_GROUP_H_
#define NFLOAT_MODEL_LINEAR_GROUP_H_

#include <cstdint>
#include <functional>
#include <span>
#include <variant>
#include <vector>

#include "nfloat/checkpoint.h"
#include "nfloat/linear.h"
#include "nfloat/quantize.h"

namespace nfloat {

// Matrices with one input (query, key and value; gate and up), packed for the kernels, their outputs side by
// side.
class LinearGroup {
 public:
  using Release = std::function<void(std::span<const uint8_t>)>;  // PackSource::release

  // Adds [out, in] as it is stored.
  void add(const TensorView& weight, const std::vector<float>& bias, int threads,
           const Release& release = nullptr);
  // Adds a plain matrix rounded to int8, one scale for 64 elements.
  void add_int8(const TensorView& weight, int threads, const Release& release);
  // Adds 4-bit codes. Quantized checkpoints and what is quantized while loading keep their scales as they
  // are.
  void add(const QuantizedView& weight, const std::vector<float>& bias, int threads, const Release& release);
  void add(const QuantizedTensor& weight, const std::vector<float>& bias, int threads);
  void add(const PackSource& weight, const std::vector<float>& bias, int threads);

  uint64_t bytes() const noexcept;

  // y[row][0..outputs) = W x[row] + bias; rows of y are y_stride floats apart.
  void apply(const Activations& x, float* y, int64_t y_stride, Precision precision, int threads) const;

 private:
  struct Part {
    std::variant<PackedMatrix, DenseMatrix> matrix;
    std::vector<float> bias;  // empty: none
    int64_t rows = 0;
  };
  std::vector<Part> parts_;
};

}  // namespace nfloat

#endif  // NFLOAT_MODEL_LINEAR_GROUP_H_
