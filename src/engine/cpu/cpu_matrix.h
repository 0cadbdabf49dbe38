// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_ENGINE_CPU_CPU_MATRIX_H_
#define NFLOAT_ENGINE_CPU_CPU_MATRIX_H_

#include <utility>
#include <variant>

#include "engine/device.h"
#include "linear/transposed.h"
#include "nfloat/linear.h"

namespace nfloat {

// A matrix packed for the kernels of the CPU.
class CpuMatrix final : public DeviceMatrix {
 public:
  explicit CpuMatrix(PackedMatrix matrix) noexcept : matrix_(std::move(matrix)) {}
  explicit CpuMatrix(DenseMatrix matrix) noexcept : matrix_(std::move(matrix)) {}

  int64_t rows() const noexcept override {
    return std::visit([](const auto& matrix) { return matrix.rows(); }, matrix_);
  }
  int64_t cols() const noexcept override {
    return std::visit([](const auto& matrix) { return matrix.cols(); }, matrix_);
  }
  uint64_t bytes() const noexcept override {
    return std::visit([](const auto& matrix) { return matrix.bytes(); }, matrix_);
  }
  const CpuMatrix* on_cpu() const noexcept override { return this; }

  void multiply(const Activations& x, float* y, const LinearOptions& options) const {
    std::visit([&](const auto& matrix) { linear(matrix, x, y, options); }, matrix_);
  }
  bool multiplies_pairs() const noexcept {
    return std::visit([](const auto& matrix) { return nfloat::multiplies_pairs(matrix); }, matrix_);
  }
  void multiply_pairs(const PackedGradients& x, const PairOutput& y, int threads) const {
    std::visit([&](const auto& matrix) { nfloat::multiply_pairs(matrix, x, y, threads); }, matrix_);
  }
  void multiply_transposed(const PackedGradients& dy, int64_t first, const PairOutput& dx,
                           int threads) const {
    std::visit([&](const auto& matrix) { nfloat::multiply_transposed(matrix, dy, first, dx, threads); },
               matrix_);
  }
  void multiply_transposed(const PackedGradients& dy, int64_t first, float* dx, int64_t dx_stride,
                           bool accumulate, int threads) const {
    std::visit(
        [&](const auto& matrix) {
          nfloat::multiply_transposed(matrix, dy, first, dx, dx_stride, accumulate, threads);
        },
        matrix_);
  }
  void dequantize_row(int64_t row, float* output) const noexcept {
    std::visit([&](const auto& matrix) { matrix.dequantize_row(row, output); }, matrix_);
  }

 private:
  std::variant<PackedMatrix, DenseMatrix> matrix_;
};

}  // namespace nfloat

#endif  // NFLOAT_ENGINE_CPU_CPU_MATRIX_H_
