// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_ENGINE_LINEAR_GROUP_H_
#define NFLOAT_ENGINE_LINEAR_GROUP_H_

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "engine/device.h"
#include "linear/transposed.h"
#include "nfloat/linear.h"

namespace nfloat {

// Matrices with one input (query, key and value; gate and up) on a device, their outputs side by side.
class LinearGroup {
 public:
  using Release = Device::Release;

  // The matrices that follow are those of query, key and value.
  void give_heads(const HeadLayout& layout) noexcept { heads_ = layout; }
  // Adds 4-bit codes; `bias` has one number a row or none.
  void add(Device& device, const PackSource& weight, const std::vector<float>& bias, int threads);
  // Adds a plain matrix [out, in] rounded to `storage`.
  void add(Device& device, const TensorView& weight, DenseMatrix::Storage storage,
           const std::vector<float>& bias, int threads, const Release& release = nullptr);

  uint64_t bytes() const noexcept;
  size_t parts() const noexcept { return parts_.size(); }
  int64_t outputs() const noexcept;
  int64_t outputs(size_t part) const noexcept { return parts_[part].matrix->rows(); }
  int64_t inputs() const noexcept;
  const DeviceMatrix& matrix(size_t part) const noexcept { return *parts_[part].matrix; }
  const Constant& bias(size_t part) const noexcept { return parts_[part].bias; }  // empty: none

  // What follows computes on the CPU, from matrices of cpu_device(): throws kUnsupported for others.

  // y[row][0..outputs) = W x[row] + bias; rows of y are y_stride floats apart.
  void apply(const Activations& x, float* y, int64_t y_stride, Precision precision, int threads) const;
  // Whether apply_pairs() is there (not on another device), the same of rows in pairs of bf16
  // (linear/transposed.h).
  bool multiplies_pairs() const;
  void apply_pairs(const PackedGradients& x, float* y, int64_t y_stride, int threads) const;
  // The same of one part, whose bias is put to what `y` says of the part's outputs.
  void apply_pairs(size_t part, const PackedGradients& x, PairOutput y, int threads) const;
  // dx[row] = W^T dy[row][first..first + outputs), plus what dx held when accumulating (linear/transposed.h).
  void apply_transposed(const PackedGradients& dy, int64_t first, float* dx, int64_t dx_stride,
                        bool accumulate, int threads) const;
  // The same of all outputs, in pairs; its tail once. Halves only of a group of one part.
  void apply_transposed(const PackedGradients& dy, PairOutput dx, int threads) const;
  // y = W x of one part, without its bias.
  void apply_part(size_t part, const Activations& x, float* y, int64_t y_stride, Precision precision,
                  int threads) const;
  // One row of a part in float32, as level * scale: inputs() floats.
  void dequantize_row(size_t part, int64_t row, float* output) const;

 private:
  struct Part {
    std::unique_ptr<const DeviceMatrix> matrix;
    Constant bias;
  };
  void add(Device& device, std::unique_ptr<const DeviceMatrix> matrix, const std::vector<float>& bias);

  std::vector<Part> parts_;
  HeadLayout heads_;  // none: of another product
};

}  // namespace nfloat

#endif  // NFLOAT_ENGINE_LINEAR_GROUP_H_
