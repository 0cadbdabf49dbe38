// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_MODEL_LINEAR_GROUP_H_
#define NFLOAT_MODEL_LINEAR_GROUP_H_

#include <cstdint>
#include <functional>
#include <span>
#include <variant>
#include <vector>

#include "linear/transposed.h"
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
  // dx[row] = W^T dy[row][first..first + outputs), plus what dx held when accumulating (linear/transposed.h).
  void apply_transposed(const PackedGradients& dy, int64_t first, float* dx, int64_t dx_stride,
                        bool accumulate, int threads) const;

  // The same of one part, without its bias.
  void apply_part(size_t part, const Activations& x, float* y, int64_t y_stride, Precision precision,
                  int threads) const;
  std::span<const float> bias(size_t part) const noexcept { return parts_[part].bias; }  // empty: none

  size_t parts() const noexcept { return parts_.size(); }
  int64_t outputs() const noexcept;
  int64_t outputs(size_t part) const noexcept { return parts_[part].rows; }
  int64_t inputs() const noexcept;
  // One row of a part in float32, as level * scale: inputs() floats.
  void dequantize_row(size_t part, int64_t row, float* output) const noexcept;

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
