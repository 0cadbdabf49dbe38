// SPDX-License-Identifier: Apache-2.0
#include "model/linear_group.h"

#include "base/parallel.h"

namespace nfloat {

void LinearGroup::append(const std::vector<float>& bias, int64_t outputs) {
  outputs_ += outputs;
  bias_.insert(bias_.end(), bias.begin(), bias.end());
  bias_.resize(static_cast<size_t>(outputs_));
}

void LinearGroup::add(const TensorView& weight, const std::vector<float>& bias) {
  inputs_ = weight.shape[1];
  const size_t old = weight_.size();
  weight_.resize(old + static_cast<size_t>(weight.elements()));
  convert_elements(weight, DType::kF32, std::as_writable_bytes(std::span(weight_).subspan(old)));
  append(bias, weight.shape[0]);
}

void LinearGroup::add(const QuantizedView& weight, const std::vector<float>& bias) {
  inputs_ = weight.shape[1];
  const auto* codes = static_cast<const uint8_t*>(weight.codes.data());
  const auto* map = static_cast<const float*>(weight.quant_map.data());
  for (int64_t i = 0; i < weight.shape.elements(); ++i) {
    const int64_t block = i / weight.block_size;
    const float scale =
        weight.nested
            ? static_cast<const float*>(
                  weight.nested_quant_map.data())[static_cast<const uint8_t*>(weight.absmax.data())[block]] *
                      static_cast<const float*>(weight.nested_absmax.data())[block / 256] +
                  weight.nested_offset
            : static_cast<const float*>(weight.absmax.data())[block];
    weight_.push_back(map[i % 2 == 0 ? codes[i / 2] >> 4 : codes[i / 2] & 15] * scale);
  }
  append(bias, weight.shape[0]);
}

void LinearGroup::add(const QuantizedTensor& weight, const std::vector<float>& bias) {
  inputs_ = weight.shape[1];
  const size_t old = weight_.size();
  weight_.resize(old + static_cast<size_t>(weight.elements()));
  dequantize_blockwise(weight, DType::kF32, std::as_writable_bytes(std::span(weight_).subspan(old)));
  append(bias, weight.shape[0]);
}

void LinearGroup::apply(const float* x, int64_t x_stride, int64_t rows, float* y, int64_t y_stride,
                        int threads) const noexcept {
  parallel_for(outputs_, 16, threads, [&](int64_t begin, int64_t end) {
    for (int64_t row = 0; row < rows; ++row)
      for (int64_t out = begin; out < end; ++out) {
        const float* w = weight_.data() + out * inputs_;
        float sum[16] = {};
        int64_t i = 0;
        for (; i + 16 <= inputs_; i += 16)
          for (int j = 0; j < 16; ++j) sum[j] += w[i + j] * x[row * x_stride + i + j];
        for (; i < inputs_; ++i) sum[0] += w[i] * x[row * x_stride + i];
        float total = bias_[static_cast<size_t>(out)];
        for (float part : sum) total += part;
        y[row * y_stride + out] = total;
      }
  });
}

}  // namespace nfloat
