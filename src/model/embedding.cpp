// SPDX-License-Identifier: Apache-2.0
#include "model/embedding.h"

#include "checkpoint/quantized_view.h"

namespace nfloat {

Embedding::Embedding(TensorView table, std::shared_ptr<const void> owner)
    : owner_(std::move(owner)), plain_(std::move(table)) {}

Embedding::Embedding(TensorView table, std::shared_ptr<const Checkpoint> checkpoint)
    : checkpoint_(std::move(checkpoint)), plain_(std::move(table)) {}

Embedding::Embedding(QuantizedView table, std::shared_ptr<const void> owner)
    : owner_(std::move(owner)), quantized_(std::move(table)) {}

Embedding::Embedding(std::shared_ptr<const Checkpoint> checkpoint, const TensorInfo& table)
    : checkpoint_(std::move(checkpoint)), read_(&table) {}

uint64_t Embedding::bytes() const noexcept {
  if (read_ != nullptr) return read_->bytes;
  return quantized_ ? quantized_->codes.bytes.size() + quantized_->absmax.bytes.size() : plain_.bytes.size();
}

void Embedding::release() const noexcept {
  if (checkpoint_ && read_ == nullptr && plain_.bytes.size() >= kLarge) checkpoint_->release(plain_);
}

void Embedding::row(int32_t token, float* output) const {
  if (read_ != nullptr) {
    const int64_t hidden = read_->shape[1];
    Tensor values(read_->dtype, {hidden});
    checkpoint_->read(*read_, static_cast<uint64_t>(token) * values.bytes().size(), values.bytes());
    convert_elements(values.view(), DType::kF32,
                     {reinterpret_cast<std::byte*>(output), static_cast<size_t>(hidden) * sizeof(float)});
    return;
  }
  if (!quantized_) {
    const int64_t hidden = plain_.shape[1];
    const size_t row_bytes = static_cast<size_t>(hidden) * dtype_bytes(plain_.dtype);
    convert_elements({plain_.dtype, Shape{hidden},
                      plain_.bytes.subspan(static_cast<size_t>(token) * row_bytes, row_bytes)},
                     DType::kF32, {reinterpret_cast<std::byte*>(output), static_cast<size_t>(hidden) * 4});
    return;
  }
  const QuantizedView& table = *quantized_;
  const int64_t hidden = table.shape[1];
  const auto* codes = static_cast<const uint8_t*>(table.codes.data());
  const BlockScales scales = block_scales(table);
  for (int64_t i = 0; i < hidden; ++i) {
    const int64_t element = int64_t{token} * hidden + i;
    output[i] =
        float_at(table.quant_map.data(), code_at(codes, element)) * scales[element / table.block_size];
  }
}

}  // namespace nfloat
