// SPDX-License-Identifier: Apache-2.0
#include "model/linear_group.h"

#include <cstring>

namespace nfloat {
namespace {

// Tensors of a mapped file need not be aligned; these are small.
std::vector<float> floats_of(const TensorView& view) {
  std::vector<float> values(static_cast<size_t>(view.elements()));
  std::memcpy(values.data(), view.data(), values.size() * sizeof(float));
  return values;
}

std::span<const uint8_t> bytes_of(const TensorView& view) {
  return {static_cast<const uint8_t*>(view.data()), view.bytes.size()};
}

DenseMatrix::Storage storage_of(DType dtype) noexcept {
  return dtype == DType::kF32   ? DenseMatrix::Storage::kF32
         : dtype == DType::kF16 ? DenseMatrix::Storage::kF16
                                : DenseMatrix::Storage::kBF16;
}

}  // namespace

void LinearGroup::add(const TensorView& weight, const std::vector<float>& bias, int threads,
                      const Release& release) {
  parts_.push_back(
      {DenseMatrix::pack(weight, storage_of(weight.dtype), threads, release), bias, weight.shape[0]});
}

void LinearGroup::add_int8(const TensorView& weight, int threads, const Release& release) {
  parts_.push_back(
      {DenseMatrix::pack(weight, DenseMatrix::Storage::kInt8, threads, release), {}, weight.shape[0]});
}

void LinearGroup::add(const QuantizedView& weight, const std::vector<float>& bias, int threads,
                      const Release& release) {
  const int64_t elements = weight.shape.elements();
  const std::vector<float> levels = floats_of(weight.quant_map);
  std::vector<float> scales, nested_absmax, nested_map;
  PackSource source;
  source.codes = bytes_of(weight.codes).first(static_cast<size_t>((elements + 1) / 2));
  source.levels = levels;
  source.rows = weight.shape[0];
  source.cols = weight.shape[1];
  source.block_size = weight.block_size;
  source.release = release;
  if (weight.nested) {
    nested_absmax = floats_of(weight.nested_absmax);
    nested_map = floats_of(weight.nested_quant_map);
    source.nested_codes = bytes_of(weight.absmax);
    source.nested_absmax = nested_absmax;
    source.nested_map = nested_map;
    source.nested_offset = weight.nested_offset;
    source.nested_block_size = weight.nested_block_size;
  } else {
    scales = floats_of(weight.absmax);
    source.scales = scales;
  }
  add(source, bias, threads);
}

void LinearGroup::add(const QuantizedTensor& weight, const std::vector<float>& bias, int threads) {
  PackSource source;
  source.codes = weight.codes;
  source.levels = weight.codebook.levels;
  source.rows = weight.shape[0];
  source.cols = weight.shape[1];
  source.block_size = weight.block_size;
  if (weight.double_quantized()) {
    source.nested_codes = weight.nested.codes;
    source.nested_absmax = weight.nested.absmax;
    source.nested_map = dynamic_codebook().levels;
    source.nested_offset = weight.nested.offset;
    source.nested_block_size = kNestedBlockSize;
  } else {
    source.scales = weight.scales;
  }
  add(source, bias, threads);
}

void LinearGroup::add(const PackSource& weight, const std::vector<float>& bias, int threads) {
  parts_.push_back({PackedMatrix::pack(weight, threads), bias, weight.rows});
}

uint64_t LinearGroup::bytes() const noexcept {
  uint64_t total = 0;
  for (const Part& part : parts_)
    total += part.bias.size() * sizeof(float) +
             std::visit([](const auto& matrix) { return matrix.bytes(); }, part.matrix);
  return total;
}

void LinearGroup::apply(const Activations& x, float* y, int64_t y_stride, Precision precision,
                        int threads) const {
  for (const Part& part : parts_) {
    const LinearOptions options{.precision = precision,
                                .threads = threads,
                                .bias = part.bias.empty() ? nullptr : part.bias.data(),
                                .y_stride = y_stride};
    std::visit([&](const auto& matrix) { linear(matrix, x, y, options); }, part.matrix);
    y += part.rows;
  }
}

void LinearGroup::apply_transposed(const PackedGradients& dy, int64_t first, float* dx, int64_t dx_stride,
                                   bool accumulate, int threads) const {
  for (const Part& part : parts_) {
    std::visit(
        [&](const auto& matrix) {
          multiply_transposed(matrix, dy, first, dx, dx_stride, accumulate, threads);
        },
        part.matrix);
    accumulate = true;
    first += part.rows;
  }
}

void LinearGroup::apply_part(size_t part, const Activations& x, float* y, int64_t y_stride,
                             Precision precision, int threads) const {
  const LinearOptions options{.precision = precision, .threads = threads, .y_stride = y_stride};
  std::visit([&](const auto& matrix) { linear(matrix, x, y, options); }, parts_[part].matrix);
}

int64_t LinearGroup::outputs() const noexcept {
  int64_t total = 0;
  for (const Part& part : parts_) total += part.rows;
  return total;
}

int64_t LinearGroup::inputs() const noexcept {
  return parts_.empty() ? 0 : std::visit([](const auto& matrix) { return matrix.cols(); }, parts_[0].matrix);
}

void LinearGroup::dequantize_row(size_t part, int64_t row, float* output) const noexcept {
  std::visit([&](const auto& matrix) { matrix.dequantize_row(row, output); }, parts_[part].matrix);
}

}  // namespace nfloat
