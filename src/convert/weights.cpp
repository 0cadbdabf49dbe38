// SPDX-License-Identifier: Apache-2.0
#include "convert/weights.h"

#include <cmath>
#include <cstring>
#include <numeric>
#include <utility>

#include "base/fail.h"
#include "checkpoint/quantized_view.h"
#include "tensor/transpose.h"

namespace nfloat {
namespace {

const TensorInfo& require(const Checkpoint& checkpoint, const std::string& name) {
  const TensorInfo* info = checkpoint.find(name);
  if (info == nullptr) fail(ErrorCode::kNotFound, "{}: no tensor '{}'", checkpoint.path(), name);
  return *info;
}

}  // namespace

std::vector<float> stored_scales(const QuantizedView& view) {
  const BlockScales stored = block_scales(view);
  std::vector<float> scales(static_cast<size_t>(view.absmax.elements()));
  for (size_t i = 0; i < scales.size(); ++i) scales[i] = stored[static_cast<int64_t>(i)];
  return scales;
}

WeightReader::WeightReader(const Checkpoint& checkpoint, const std::string& name, bool transpose,
                           const LoraDelta* delta)
    : checkpoint_(checkpoint),
      info_(require(checkpoint, name)),
      dtype_(info_.dtype),
      shape_(info_.shape),
      delta_(delta) {
  if (checkpoint.is_quantized(name)) {
    const QuantizedView view = checkpoint.quantized(name);
    quantized_ = true;
    dtype_ = view.dtype;
    shape_ = view.shape;
    block_size_ = view.block_size;
    table_ = make_code_table(make_codebook(view.quant_type));
    scales_ = stored_scales(view);
    for (const std::string& companion : checkpoint.companions(name))
      checkpoint.release(checkpoint.view(companion));
    align_chunks(block_size_);
  } else if (dtype_bits(dtype_) % 8 != 0) {
    fail(ErrorCode::kUnsupported, "{}: tensor '{}' is {}: values of less than a byte are not read",
         checkpoint.files()[info_.file], name, dtype_name(dtype_));
  }
  if (!transpose) return;
  const int64_t rows = shape_[0], columns = shape_[1];
  Buffer whole(static_cast<size_t>(elements()) * dtype_bytes(dtype_));
  if (quantized_ || delta_ != nullptr) {
    Scratch scratch;
    for (int64_t chunk = 0; chunk < chunks(); ++chunk) {
      const auto values = read_as(chunk, dtype_, scratch);
      std::memcpy(whole.data() + static_cast<size_t>(begin(chunk)) * dtype_bytes(dtype_), values.data(),
                  values.size());
    }
  } else {
    checkpoint.read(info_, 0, whole.span());
  }
  transposed_ = Buffer(whole.size());
  nfloat::transpose(whole.data(), transposed_.data(), rows, columns, dtype_bytes(dtype_));
  shape_ = Shape({columns, rows});
}

void WeightReader::align_chunks(int64_t unit_elements) noexcept {
  const int64_t unit = unit_elements % 2 == 0 ? unit_elements : 2 * unit_elements;
  chunk_elements_ = std::max<int64_t>(1, kChunkElements / unit) * unit;
}

uint64_t WeightReader::input_bytes(int64_t chunk) const noexcept {
  const auto values = static_cast<uint64_t>(count(chunk));
  return quantized_ ? (values + 1) / 2 : values * dtype_bytes(info_.dtype);
}

std::span<const std::byte> WeightReader::read(int64_t chunk, Scratch& scratch) const {
  return read_as(chunk, dtype_, scratch);
}

bool WeightReader::decode_on(std::shared_ptr<BlockConverter> converter) {
  if (converter == nullptr || !quantized_ || delta_ != nullptr || transposed_.size() > 0 ||
      !converter->takes(block_size_))
    return false;
  converter_ = std::move(converter);
  return true;
}

std::span<const std::byte> WeightReader::read_as(int64_t chunk, DType as, Scratch& scratch) const {
  const auto first = static_cast<uint64_t>(begin(chunk));
  const auto values = static_cast<size_t>(count(chunk));
  if (transposed_.size() > 0) {
    const TensorView view{
        dtype_, Shape({count(chunk)}),
        transposed_.span().subspan(first * dtype_bytes(dtype_), values * dtype_bytes(dtype_))};
    if (as == dtype_) return view.bytes;
    const auto converted = scratch.bytes(1, values * dtype_bytes(as));
    convert_elements(view, as, converted);
    return converted;
  }
  if (delta_ != nullptr) {
    // Chunks begin with a block: what is decoded needs no place besides this one.
    const auto floats = scratch.get<float>(1, values);
    read_stored(begin(chunk), floats, scratch);
    merge(begin(chunk), floats);
    if (as == DType::kF32) return std::as_bytes(floats);
    const auto converted = scratch.bytes(0, values * dtype_bytes(as));
    convert_elements({DType::kF32, Shape({count(chunk)}), std::as_bytes(floats)}, as, converted);
    return converted;
  }
  if (quantized_) {
    const auto codes = scratch.get<uint8_t>(0, (values + 1) / 2);
    checkpoint_.read(info_, first / 2, std::as_writable_bytes(codes));
    const auto decoded = scratch.bytes(1, values * dtype_bytes(as));
    const float* const scales = scales_.data() + first / static_cast<uint64_t>(block_size_);
    const auto elements = static_cast<int64_t>(values);
    if (converter_ != nullptr) {
      converter_->decode(codes.data(), scales, table_, elements, block_size_, as, decoded.data());
    } else {
      decode_blocks(codes.data(), scales, table_, elements, block_size_, as, decoded.data());
    }
    return decoded;
  }
  const auto plain = scratch.bytes(0, values * dtype_bytes(dtype_));
  checkpoint_.read(info_, first * dtype_bytes(dtype_), plain);
  if (as == dtype_) return plain;
  const auto converted = scratch.bytes(1, values * dtype_bytes(as));
  convert_elements({dtype_, Shape({count(chunk)}), plain}, as, converted);
  return converted;
}

void WeightReader::read_floats(int64_t begin, std::span<float> output, Scratch& scratch) const {
  read_stored(begin, output, scratch);
  if (delta_ != nullptr) merge(begin, output);
}

void WeightReader::merge(int64_t begin, std::span<float> values) const {
  delta_->apply(begin, values);
  for (size_t i = 0; i < values.size(); ++i)
    if (!std::isfinite(values[i]))
      fail(ErrorCode::kNotFinite, "{}: element {} of '{}' is {} with the adapter added", checkpoint_.path(),
           begin + static_cast<int64_t>(i), info_.name, values[i]);
}

void WeightReader::read_stored(int64_t begin, std::span<float> output, Scratch& scratch) const {
  const auto first = static_cast<uint64_t>(begin);
  if (!quantized_) {
    const auto plain = scratch.bytes(0, output.size() * dtype_bytes(dtype_));
    checkpoint_.read(info_, first * dtype_bytes(dtype_), plain);
    convert_elements({dtype_, Shape({static_cast<int64_t>(output.size())}), plain}, DType::kF32,
                     std::as_writable_bytes(output));
    return;
  }
  // Decoding begins with a block and, two codes a byte, at an even element.
  const auto block = static_cast<uint64_t>(block_size_ % 2 == 0 ? block_size_ : 2 * block_size_);
  const uint64_t from = first / block * block, last = first + output.size();
  const auto codes = scratch.get<uint8_t>(0, static_cast<size_t>((last - from + 1) / 2));
  checkpoint_.read(info_, from / 2, std::as_writable_bytes(codes));
  const auto values = static_cast<size_t>(last - from);
  float* decoded = from == first ? output.data() : scratch.get<float>(1, values).data();
  decode_blocks(codes.data(), scales_.data() + from / static_cast<uint64_t>(block_size_), table_,
                static_cast<int64_t>(values), block_size_, DType::kF32, decoded);
  if (from != first) std::copy_n(decoded + (first - from), output.size(), output.data());
}

}  // namespace nfloat
