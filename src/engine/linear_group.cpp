// SPDX-License-Identifier: Apache-2.0
#include "engine/linear_group.h"

#include <algorithm>
#include <utility>

#include "base/fail.h"
#include "engine/cpu/cpu_matrix.h"

namespace nfloat {
namespace {

const CpuMatrix& on_cpu(const DeviceMatrix& matrix) {
  const CpuMatrix* found = matrix.on_cpu();
  if (found == nullptr)
    fail(ErrorCode::kUnsupported, "these weights are on another device: this step computes on the CPU only");
  return *found;
}

}  // namespace

void LinearGroup::add(Device& device, std::unique_ptr<const DeviceMatrix> matrix,
                      const std::vector<float>& bias) {
  Part part{std::move(matrix), bias};
  device.place(part.bias);
  parts_.push_back(std::move(part));
}

void LinearGroup::add(Device& device, const PackSource& weight, const std::vector<float>& bias, int threads) {
  add(device,
      heads_.heads > 0 ? device.matrix_of_heads(weight, {heads_, outputs()}, threads)
                       : device.matrix(weight, threads),
      bias);
}

void LinearGroup::add(Device& device, const TensorView& weight, DenseMatrix::Storage storage,
                      const std::vector<float>& bias, int threads, const Release& release) {
  add(device,
      heads_.heads > 0 ? device.matrix_of_heads(weight, {heads_, outputs()}, storage, threads, release)
                       : device.matrix(weight, storage, threads, release),
      bias);
}

uint64_t LinearGroup::bytes() const noexcept {
  uint64_t total = 0;
  for (const Part& part : parts_) total += part.bias.size() * sizeof(float) + part.matrix->bytes();
  return total;
}

int64_t LinearGroup::outputs() const noexcept {
  int64_t total = 0;
  for (const Part& part : parts_) total += part.matrix->rows();
  return total;
}

int64_t LinearGroup::inputs() const noexcept {
  return parts_.empty() ? 0 : parts_[0].matrix->cols();
}

void LinearGroup::apply(const Activations& x, float* y, int64_t y_stride, Precision precision,
                        int threads) const {
  for (const Part& part : parts_) {
    on_cpu(*part.matrix)
        .multiply(x, y,
                  {.precision = precision,
                   .threads = threads,
                   .bias = part.bias.empty() ? nullptr : part.bias.data(),
                   .y_stride = y_stride});
    y += part.matrix->rows();
  }
}

bool LinearGroup::multiplies_pairs() const {
  return std::all_of(parts_.begin(), parts_.end(), [](const Part& part) {
    const CpuMatrix* own = part.matrix->on_cpu();
    return own != nullptr && own->multiplies_pairs();
  });
}

void LinearGroup::apply_pairs(const PackedGradients& x, float* y, int64_t y_stride, int threads) const {
  int64_t first = 0;
  for (size_t part = 0; part < parts_.size(); first += outputs(part++))
    apply_pairs(part, x, {.data = y + first, .stride = y_stride}, threads);
}

void LinearGroup::apply_pairs(size_t part, const PackedGradients& x, PairOutput y, int threads) const {
  y.bias = parts_[part].bias.empty() ? nullptr : parts_[part].bias.data();
  on_cpu(matrix(part)).multiply_pairs(x, y, threads);
}

void LinearGroup::apply_transposed(const PackedGradients& dy, PairOutput dx, int threads) const {
  if (dx.half != nullptr && parts_.size() > 1)
    fail(ErrorCode::kInvalidArgument, "a sum over {} matrices is not rounded in between", parts_.size());
  const PairTail* const tail = std::exchange(dx.tail, nullptr);
  int64_t first = 0;
  for (size_t part = 0; part < parts_.size(); first += outputs(part++)) {
    if (part + 1 == parts_.size()) dx.tail = tail;
    on_cpu(matrix(part)).multiply_transposed(dy, first, dx, threads);
    dx.accumulate = true;
  }
}

void LinearGroup::apply_transposed(const PackedGradients& dy, int64_t first, float* dx, int64_t dx_stride,
                                   bool accumulate, int threads) const {
  for (const Part& part : parts_) {
    on_cpu(*part.matrix).multiply_transposed(dy, first, dx, dx_stride, accumulate, threads);
    accumulate = true;
    first += part.matrix->rows();
  }
}

void LinearGroup::apply_part(size_t part, const Activations& x, float* y, int64_t y_stride,
                             Precision precision, int threads) const {
  on_cpu(matrix(part)).multiply(x, y, {.precision = precision, .threads = threads, .y_stride = y_stride});
}

void LinearGroup::dequantize_row(size_t part, int64_t row, float* output) const {
  on_cpu(matrix(part)).dequantize_row(row, output);
}

}  // namespace nfloat
