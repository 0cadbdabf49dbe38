// SPDX-License-Identifier: Apache-2.0
#include "checkpoint/scaled_weights.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>

#include "base/fail.h"
#include "gguf/tables.h"

namespace nfloat {
namespace {

using Float8 = std::array<float, 256>;

// OCP OFP8: a sign, exponent and mantissa bits with the usual subnormals. E5M2 has infinities and NaN as IEEE
// types do; of E4M3 only the code of all ones is NaN.
Float8 make_float8(int mantissa_bits, int bias, bool ieee) {
  Float8 values{};
  for (int code = 0; code < 256; ++code) {
    const int mantissa = code & ((1 << mantissa_bits) - 1), exponent = (code & 127) >> mantissa_bits;
    const int highest = 127 >> mantissa_bits;
    float value = exponent == 0 ? std::ldexp(static_cast<float>(mantissa), 1 - bias - mantissa_bits)
                                : std::ldexp(static_cast<float>(mantissa + (1 << mantissa_bits)),
                                             exponent - bias - mantissa_bits);
    if (ieee && exponent == highest)
      value =
          mantissa == 0 ? std::numeric_limits<float>::infinity() : std::numeric_limits<float>::quiet_NaN();
    if (!ieee && (code & 127) == 127) value = std::numeric_limits<float>::quiet_NaN();
    values[static_cast<size_t>(code)] = (code & 128) != 0 ? -value : value;
  }
  return values;
}

const Float8& float8_values(DType dtype) {
  static const Float8 e4m3 = make_float8(3, 7, false), e5m2 = make_float8(2, 15, true);
  return dtype == DType::kF8E4M3 ? e4m3 : e5m2;
}

float power_of_two(std::byte exponent) noexcept {
  const int code = std::to_integer<int>(exponent);
  return code == 255 ? std::numeric_limits<float>::quiet_NaN() : std::ldexp(1.0f, code - 127);
}

float scale_at(const TensorView& scales, int64_t index) {
  const auto width = static_cast<int64_t>(dtype_bytes(scales.dtype));
  const auto bytes = scales.bytes.subspan(static_cast<size_t>(index * width), static_cast<size_t>(width));
  if (width == 1) return power_of_two(bytes[0]);
  float value;
  convert_elements({scales.dtype, Shape({1}), bytes}, DType::kF32,
                   std::as_writable_bytes(std::span(&value, 1)));
  return value;
}

void decode_float8(const ScaledTensor& tensor, DType dtype, std::span<const std::byte> codes,
                   const TensorView& scales, int64_t begin, std::span<float> output) {
  const Float8& values = float8_values(dtype);
  const auto value_at = [&](size_t i) { return values[std::to_integer<size_t>(codes[i])]; };
  if (!tensor.scales || tensor.shape.rank() == 0) {
    const float factor = tensor.scales ? scale_at(scales, 0) : 1;
    for (size_t i = 0; i < output.size(); ++i) output[i] = value_at(i) * factor;
    return;
  }
  const size_t rank = tensor.shape.rank();
  const int64_t cols = tensor.shape[rank - 1], width = tensor.block[rank - 1];
  for (size_t done = 0; done < output.size();) {
    const int64_t row = (begin + static_cast<int64_t>(done)) / cols;
    const int64_t col = (begin + static_cast<int64_t>(done)) % cols;
    // Where the scales of this row begin.
    int64_t first = 0, stride = (cols + width - 1) / width;
    for (int64_t axis = static_cast<int64_t>(rank) - 2, rest = row; axis >= 0; --axis) {
      const auto at = static_cast<size_t>(axis);
      const int64_t size = tensor.shape[at], block = tensor.block[at];
      first += rest % size / block * stride;
      stride *= (size + block - 1) / block;
      rest /= size;
    }
    const int64_t end = std::min(cols, (col / width + 1) * width);
    const size_t count = std::min(static_cast<size_t>(end - col), output.size() - done);
    const float factor = scale_at(scales, first + col / width);
    for (size_t i = done; i < done + count; ++i) output[i] = value_at(i) * factor;
    done += count;
  }
}

// Shown are columns of what is stored: of each stored row the same few values are decoded.
void decode_mxfp4(const ScaledTensor& tensor, std::span<const std::byte> codes, const TensorView& scales,
                  int64_t begin, std::span<float> output) {
  constexpr int64_t kBlock = 32;
  const int64_t ins = tensor.shape[1], outs = tensor.shape[2];
  int64_t left = static_cast<int64_t>(output.size());
  float* to = output.data();
  while (left > 0) {
    const int64_t expert = begin / (ins * outs), in = begin / outs % ins, out = begin % outs;
    const bool whole = out == 0 && left >= outs;
    const int64_t columns = whole ? std::min(left / outs, ins - in) : 1;
    const int64_t outputs = whole ? outs : std::min(outs - out, left);
    for (int64_t o = 0; o < outputs; ++o) {
      const int64_t row = (expert * outs + out + o) * ins;
      float factor = 0;
      for (int64_t i = 0; i < columns; ++i) {
        const auto at = static_cast<size_t>(row + in + i);
        if (i == 0 || at % kBlock == 0) factor = 0.5f * power_of_two(scales.bytes[at / kBlock]);
        const auto pair = std::to_integer<size_t>(codes[at / 2]);
        const size_t code = at % 2 == 0 ? pair & 15 : pair >> 4;
        const float size = kMxfp4Levels[code & 7] * factor;
        to[i * outputs + o] = (code & 8) != 0 ? -size : size;
      }
    }
    to += columns * outputs;
    begin += columns * outputs;
    left -= columns * outputs;
  }
}

}  // namespace

ScaledWeights::ScaledWeights(std::vector<TensorInfo> stored, Foreign foreign, DType decoded)
    : stored_(std::move(stored)), scaled_(std::move(foreign.scaled)) {
  std::vector<const ScaledTensor*> by_codes(stored_.size());
  for (const ScaledTensor& tensor : scaled_) {
    by_codes[tensor.codes] = &tensor;
    by_name_.emplace(tensor.name, &tensor);
  }
  std::vector<bool> hidden(stored_.size());
  for (const size_t index : foreign.companions) hidden[index] = true;
  for (size_t i = 0; i < stored_.size(); ++i) {
    if (hidden[i]) continue;
    TensorInfo& info = shown_.emplace_back(stored_[i]);
    if (by_codes[i] == nullptr) continue;
    info.name = by_codes[i]->name;
    info.dtype = decoded;
    info.shape = by_codes[i]->shape;
    info.bytes = static_cast<uint64_t>(info.shape.elements()) * dtype_bytes(decoded);
  }
}

const ScaledTensor* ScaledWeights::find(std::string_view name) const noexcept {
  const auto found = by_name_.find(name);
  return found == by_name_.end() ? nullptr : found->second;
}

std::string_view ScaledWeights::stored_type(const ScaledTensor& tensor) const noexcept {
  return tensor.mxfp4 ? "MXFP4" : dtype_name(codes(tensor).dtype);
}

uint64_t ScaledWeights::stored_bytes(const ScaledTensor& tensor) const noexcept {
  return codes(tensor).bytes + (tensor.scales ? scales(tensor)->bytes : 0);
}

void ScaledWeights::read(const TensorInfo& shown, const ScaledTensor& tensor, uint64_t begin,
                         std::span<std::byte> output, const Files& files) const {
  const size_t width = dtype_bytes(shown.dtype);
  if (begin % width != 0 || output.size() % width != 0)
    fail(ErrorCode::kInvalidArgument, "'{}': bytes {} to {} of elements of {} bytes", shown.name, begin,
         begin + output.size(), width);
  const auto first = static_cast<int64_t>(begin / width), count = static_cast<int64_t>(output.size() / width);
  const TensorView scales =
      tensor.scales ? files.view(stored_[*tensor.scales]) : TensorView{DType::kF32, Shape({0}), {}};
  std::vector<float> values(shown.dtype == DType::kF32 ? 0 : static_cast<size_t>(count));
  // Callers may hand over bytes at any address.
  const bool in_place = values.empty() && reinterpret_cast<uintptr_t>(output.data()) % alignof(float) == 0;
  if (!in_place) values.resize(static_cast<size_t>(count));
  const std::span<float> decoded =
      in_place ? std::span(reinterpret_cast<float*>(output.data()), static_cast<size_t>(count))
               : std::span(values);
  if (tensor.mxfp4) {
    const TensorView stored = files.view(codes(tensor));
    decode_mxfp4(tensor, stored.bytes, scales, first, decoded);
    // An expert is read in pieces of its columns: its pages go with the last.
    const int64_t expert = tensor.shape[1] * tensor.shape[2];
    const int64_t from = first / std::max<int64_t>(1, expert),
                  to = (first + count) / std::max<int64_t>(1, expert);
    if (to > from)
      files.release({stored.dtype,
                     {},
                     stored.bytes.subspan(static_cast<size_t>(from * expert / 2),
                                          static_cast<size_t>((to - from) * expert / 2))});
  } else {
    std::vector<std::byte> stored(static_cast<size_t>(count));
    files.read(codes(tensor), static_cast<uint64_t>(first), stored);
    decode_float8(tensor, codes(tensor).dtype, stored, scales, first, decoded);
  }
  if (in_place) return;
  convert_elements({DType::kF32, Shape({count}), std::as_bytes(decoded)}, shown.dtype, output);
}

}  // namespace nfloat
