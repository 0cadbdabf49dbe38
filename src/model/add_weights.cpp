// SPDX-License-Identifier: Apache-2.0
#include "model/add_weights.h"

#include "tensor/floats.h"

namespace nfloat {
namespace {

std::span<const uint8_t> bytes_of(const TensorView& view) {
  return {static_cast<const uint8_t*>(view.data()), view.bytes.size()};
}

// Where they are, if they are float32 already; else nothing.
std::span<const float> floats_in(const TensorView& view) {
  const void* const data = view.data();
  if (view.dtype != DType::kF32 || reinterpret_cast<uintptr_t>(data) % alignof(float) != 0) return {};
  return {static_cast<const float*>(data), static_cast<size_t>(view.elements())};
}

DenseMatrix::Storage storage_of(DType dtype) noexcept {
  return dtype == DType::kF32   ? DenseMatrix::Storage::kF32
         : dtype == DType::kF16 ? DenseMatrix::Storage::kF16
                                : DenseMatrix::Storage::kBF16;
}

}  // namespace

void add_weights(LinearGroup& group, Device& device, const TensorView& weight, const std::vector<float>& bias,
                 int threads, const LinearGroup::Release& release) {
  group.add(device, weight, storage_of(weight.dtype), bias, threads, release);
}

void add_weights(LinearGroup& group, Device& device, const QuantizedView& weight,
                 const std::vector<float>& bias, int threads, const LinearGroup::Release& release) {
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
    source.scales = floats_in(weight.absmax);
    if (source.scales.empty()) source.scales = scales = floats_of(weight.absmax);
  }
  group.add(device, source, bias, threads);
}

void add_weights(LinearGroup& group, Device& device, const QuantizedTensor& weight,
                 const std::vector<float>& bias, int threads) {
  group.add(device, pack_source(weight), bias, threads);
}

}  // namespace nfloat
