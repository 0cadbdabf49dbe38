// SPDX-License-Identifier: Apache-2.0
#include "nfloat/tensor.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <new>

#include "base/ascii.h"
#include "base/fail.h"
#include "base/float16.h"
#include "base/huge_pages.h"
#include "base/interruption.h"

namespace nfloat {
namespace {

struct DTypeFacts {
  DType dtype;
  uint8_t bits;
  std::string_view name;
  std::string_view torch_name;
};

constexpr std::array<DTypeFacts, 22> kDTypes{{
    {DType::kF64, 64, "F64", "float64"},
    {DType::kF32, 32, "F32", "float32"},
    {DType::kF16, 16, "F16", "float16"},
    {DType::kBF16, 16, "BF16", "bfloat16"},
    {DType::kI64, 64, "I64", "int64"},
    {DType::kI32, 32, "I32", "int32"},
    {DType::kI16, 16, "I16", "int16"},
    {DType::kI8, 8, "I8", "int8"},
    {DType::kU64, 64, "U64", "uint64"},
    {DType::kU32, 32, "U32", "uint32"},
    {DType::kU16, 16, "U16", "uint16"},
    {DType::kU8, 8, "U8", "uint8"},
    {DType::kBool, 8, "BOOL", "bool"},
    {DType::kF8E4M3, 8, "F8_E4M3", "float8_e4m3fn"},
    {DType::kF8E5M2, 8, "F8_E5M2", "float8_e5m2"},
    {DType::kF8E8M0, 8, "F8_E8M0", "float8_e8m0fnu"},
    {DType::kF8E4M3Fnuz, 8, "F8_E4M3FNUZ", "float8_e4m3fnuz"},
    {DType::kF8E5M2Fnuz, 8, "F8_E5M2FNUZ", "float8_e5m2fnuz"},
    {DType::kF4, 4, "F4", "float4_e2m1fn_x2"},
    {DType::kF6E2M3, 6, "F6_E2M3", "float6_e2m3fn"},
    {DType::kF6E3M2, 6, "F6_E3M2", "float6_e3m2fn"},
    {DType::kC64, 64, "C64", "complex64"},
}};

const DTypeFacts& facts(DType dtype) noexcept {
  return kDTypes[static_cast<size_t>(dtype)];
}

template <typename T>
T load(const std::byte* bytes, int64_t index) noexcept {
  T value;
  std::memcpy(&value, bytes + static_cast<size_t>(index) * sizeof(T), sizeof(T));
  return value;
}

template <typename T>
void store(std::byte* bytes, int64_t index, T value) noexcept {
  std::memcpy(bytes + static_cast<size_t>(index) * sizeof(T), &value, sizeof(T));
}

// F64 -> 16 bits goes through F32 rounded to odd, so that the value is rounded once.
float narrow_to_odd(double value) noexcept {
  const float nearest = static_cast<float>(value);
  if (static_cast<double>(nearest) == value || nearest - nearest != 0.0f) return nearest;
  uint32_t bits = std::bit_cast<uint32_t>(nearest);
  if ((bits & 1u) != 0) return nearest;
  const bool away = (static_cast<double>(nearest) > value) == (value > 0);
  bits = away ? bits - 1 : bits + 1;
  return std::bit_cast<float>(bits);
}

}  // namespace

size_t dtype_bytes(DType dtype) noexcept {
  return (facts(dtype).bits + 7u) / 8u;
}
size_t dtype_bits(DType dtype) noexcept {
  return facts(dtype).bits;
}
std::string_view dtype_name(DType dtype) noexcept {
  return facts(dtype).name;
}
std::string_view dtype_torch_name(DType dtype) noexcept {
  return facts(dtype).torch_name;
}

bool parse_dtype(std::string_view name, DType* dtype) noexcept {
  for (const DTypeFacts& entry : kDTypes) {
    if (equal_ignoring_case(name, entry.name) || equal_ignoring_case(name, entry.torch_name)) {
      *dtype = entry.dtype;
      return true;
    }
  }
  return false;
}

bool is_quantizable(DType dtype) noexcept {
  return dtype == DType::kF32 || dtype == DType::kF16 || dtype == DType::kBF16;
}

int64_t Shape::elements() const noexcept {
  int64_t product = 1;
  for (int64_t dim : dims_) product *= dim;
  return product;
}

std::string Shape::to_string() const {
  return fmt::format("[{}]", fmt::join(dims_, ", "));
}

Buffer::Buffer(size_t bytes) : bytes_(bytes) {
  if (bytes == 0) return;
  const size_t alignment = bytes >= kHugePageBytes ? kHugePageBytes : 64;
  void* memory = std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
  if (memory == nullptr) throw std::bad_alloc();
  if (alignment == kHugePageBytes) advise_huge_pages(memory, bytes);
  data_.reset(static_cast<std::byte*>(memory));
}

void Buffer::Free::operator()(std::byte* pointer) const noexcept {
  std::free(pointer);
}

Tensor::Tensor(DType dtype, Shape shape)
    : dtype_(dtype),
      shape_(std::move(shape)),
      buffer_(static_cast<size_t>(shape_.elements()) * dtype_bytes(dtype)) {}

void convert_elements(const TensorView& view, DType dtype, std::span<std::byte> output) {
  const auto is_float = [](DType type) { return type == DType::kF64 || is_quantizable(type); };
  if (!is_float(view.dtype) || !is_float(dtype)) {
    fail(ErrorCode::kInvalidArgument, "cannot convert {} to {}", dtype_name(view.dtype), dtype_name(dtype));
  }
  const int64_t count = view.elements();
  if (view.bytes.size() != static_cast<size_t>(count) * dtype_bytes(view.dtype) ||
      output.size() != static_cast<size_t>(count) * dtype_bytes(dtype)) {
    fail(ErrorCode::kInvalidArgument, "convert_elements: {} elements in {} bytes of {} to {} bytes of {}",
         count, view.bytes.size(), dtype_name(view.dtype), output.size(), dtype_name(dtype));
  }
  const std::byte* from = view.bytes.data();
  std::byte* to = output.data();
  constexpr int64_t kPiece = 1 << 20;
  if (count > kPiece && interruption() != nullptr) {
    const size_t width = dtype_bytes(view.dtype), new_width = dtype_bytes(dtype);
    for (int64_t begin = 0; begin < count; begin += kPiece) {
      end_if_interrupted();
      const auto first = static_cast<size_t>(begin),
                 some = static_cast<size_t>(std::min(kPiece, count - begin));
      convert_elements(
          {view.dtype, Shape({static_cast<int64_t>(some)}), view.bytes.subspan(first * width, some * width)},
          dtype, output.subspan(first * new_width, some * new_width));
    }
    return;
  }
  if (view.dtype == dtype) {
    if (count > 0) std::memcpy(to, from, output.size());
    return;
  }
  if (view.dtype == DType::kBF16 && dtype == DType::kF32) {  // the usual case, in a loop that vectorises
    for (int64_t i = 0; i < count; ++i) store(to, i, bf16_to_float(load<uint16_t>(from, i)));
    return;
  }
  const auto narrow = [&](int64_t i, float value) {
    if (dtype == DType::kF32) store(to, i, value);
    if (dtype == DType::kF16) store(to, i, float_to_f16(value));
    if (dtype == DType::kBF16) store(to, i, float_to_bf16(value));
    if (dtype == DType::kF64) store(to, i, static_cast<double>(value));
  };
  for (int64_t i = 0; i < count; ++i) {
    switch (view.dtype) {
      case DType::kF64: {
        const double value = load<double>(from, i);
        narrow(i, dtype == DType::kF32 ? static_cast<float>(value) : narrow_to_odd(value));
        break;
      }
      case DType::kF32:
        narrow(i, load<float>(from, i));
        break;
      case DType::kF16:
        narrow(i, f16_to_float(load<uint16_t>(from, i)));
        break;
      default:
        narrow(i, bf16_to_float(load<uint16_t>(from, i)));
        break;
    }
  }
}

}  // namespace nfloat
