// SPDX-License-Identifier: Apache-2.0
#include "bridge/row_reader.h"

#include <algorithm>

namespace nfloat {

RowReader::RowReader(const Checkpoint& checkpoint, const std::string& name, int64_t cols, bool transposed,
                     const LoraDelta* delta)
    : checkpoint_(checkpoint),
      info_(*checkpoint.find(name)),
      weights_(checkpoint, name, false, delta),
      cols_(cols),
      stored_type_(checkpoint.stored_type(name) + (delta != nullptr ? " + LoRA" : "")),
      quantized_(checkpoint.is_quantized(name)),
      merged_(delta != nullptr) {
  const Shape& shape = weights_.shape();
  // bitsandbytes turns two-dimensional ones when it quantizes them.
  if (transposed && (!quantized_ || shape.rank() == 3)) slice_rows_ = shape[shape.rank() - 1];
}

std::optional<DType> RowReader::plain() const noexcept {
  if (quantized_ || merged_ || slice_rows_ > 0) return std::nullopt;
  return info_.dtype;
}

void RowReader::read_bytes(int64_t first, int64_t count, std::span<std::byte> output) const {
  const uint64_t row_bytes = static_cast<uint64_t>(cols_) * dtype_bytes(info_.dtype);
  checkpoint_.read(info_, static_cast<uint64_t>(first) * row_bytes,
                   output.first(static_cast<size_t>(count) * row_bytes));
}

void RowReader::read(int64_t first, int64_t count, float* output, Scratch& scratch) const {
  if (slice_rows_ == 0) {
    weights_.read_floats(first * cols_, {output, static_cast<size_t>(count * cols_)}, scratch);
    return;
  }
  while (count > 0) {
    const int64_t index = first / slice_rows_, within = first % slice_rows_;
    const int64_t part = std::min(count, slice_rows_ - within);
    const auto turned = slice(index, scratch);
    std::copy_n(turned->values.data() + within * cols_, part * cols_, output);
    output += part * cols_;
    first += part;
    count -= part;
  }
}

std::shared_ptr<const RowReader::Slice> RowReader::slice(int64_t index, Scratch& scratch) const {
  const std::lock_guard lock(mutex_);
  for (const auto& known : slices_)
    if (known != nullptr && known->index == index) return known;
  std::vector<float> stored(static_cast<size_t>(slice_rows_ * cols_));  // [in, out]
  weights_.read_floats(index * slice_rows_ * cols_, stored, scratch);
  auto turned = std::make_shared<Slice>();
  turned->index = index;
  turned->values.resize(stored.size());
  constexpr int64_t kTile = 32;
  for (int64_t i0 = 0; i0 < cols_; i0 += kTile)
    for (int64_t o0 = 0; o0 < slice_rows_; o0 += kTile)
      for (int64_t i = i0; i < std::min(cols_, i0 + kTile); ++i)
        for (int64_t o = o0; o < std::min(slice_rows_, o0 + kTile); ++o)
          turned->values[static_cast<size_t>(o * cols_ + i)] =
              stored[static_cast<size_t>(i * slice_rows_ + o)];
  slices_[1] = std::move(slices_[0]);
  slices_[0] = turned;
  return turned;
}

uint64_t RowReader::input_bytes(int64_t rows) const noexcept {
  const auto elements = static_cast<uint64_t>(rows * cols_);
  return quantized_ ? elements / 2 : elements * dtype_bytes(info_.dtype);
}

}  // namespace nfloat
