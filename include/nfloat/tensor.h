// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_TENSOR_H_
#define NFLOAT_TENSOR_H_

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "nfloat/api.h"

namespace nfloat {

// Element types of checkpoint files, with the names that safetensors gives them ("F32", "BF16", ...).
enum class DType : uint8_t {
  kF64,
  kF32,
  kF16,
  kBF16,
  kI64,
  kI32,
  kI16,
  kI8,
  kU64,
  kU32,
  kU16,
  kU8,
  kBool,
  kF8E4M3,
  kF8E5M2,
  // Known by name and size only.
  kF8E8M0,
  kF8E4M3Fnuz,
  kF8E5M2Fnuz,
  kF4,
  kF6E2M3,
  kF6E3M2,
  kC64
};

// Of one element, rounded up to whole bytes.
NFLOAT_API size_t dtype_bytes(DType dtype) noexcept;
NFLOAT_API size_t dtype_bits(DType dtype) noexcept;
NFLOAT_API std::string_view dtype_name(DType dtype) noexcept;        // "BF16"
NFLOAT_API std::string_view dtype_torch_name(DType dtype) noexcept;  // "bfloat16"
// Either spelling, any case ("bf16", "BF16", "bfloat16"). Returns false when the name is not known.
NFLOAT_API bool parse_dtype(std::string_view name, DType* dtype) noexcept;
// True for the types that can be quantized: F32, F16, BF16.
NFLOAT_API bool is_quantizable(DType dtype) noexcept;

// Row-major dimensions, outermost first. A scalar has none.
class NFLOAT_API Shape {
 public:
  Shape() = default;
  Shape(std::initializer_list<int64_t> dims) : dims_(dims) {}
  explicit Shape(std::vector<int64_t> dims) : dims_(std::move(dims)) {}
  size_t rank() const noexcept { return dims_.size(); }
  int64_t operator[](size_t axis) const noexcept { return dims_[axis]; }
  const std::vector<int64_t>& dims() const noexcept { return dims_; }
  // Product of the dimensions; 1 for a scalar. The readers reject shapes whose product overflows.
  int64_t elements() const noexcept;
  std::string to_string() const;  // "[4096, 11008]"
  bool operator==(const Shape&) const = default;

 private:
  std::vector<int64_t> dims_;
};

// Borrowed, read-only, contiguous, row-major. Valid while its owner (a Tensor, a mapped file) lives; bytes
// that were made for the view (weights decoded from blocks) live as long as `owner` or a copy of it.
struct TensorView {
  DType dtype = DType::kF32;
  Shape shape;
  std::span<const std::byte> bytes;
  std::shared_ptr<const void> owner = nullptr;

  int64_t elements() const noexcept { return shape.elements(); }
  const void* data() const noexcept { return bytes.data(); }
};

// Owned bytes, aligned to 64 and never zero-filled twice.
class NFLOAT_API Buffer {
 public:
  Buffer() = default;
  explicit Buffer(size_t bytes);  // uninitialised
  std::byte* data() noexcept { return data_.get(); }
  const std::byte* data() const noexcept { return data_.get(); }
  size_t size() const noexcept { return bytes_; }
  std::span<std::byte> span() noexcept { return {data_.get(), bytes_}; }
  std::span<const std::byte> span() const noexcept { return {data_.get(), bytes_}; }

 private:
  struct Free {
    void operator()(std::byte* pointer) const noexcept;
  };
  std::unique_ptr<std::byte[], Free> data_;
  size_t bytes_ = 0;
};

// Owning, contiguous, row-major.
class NFLOAT_API Tensor {
 public:
  Tensor() = default;
  Tensor(DType dtype, Shape shape);  // uninitialised elements
  DType dtype() const noexcept { return dtype_; }
  const Shape& shape() const noexcept { return shape_; }
  int64_t elements() const noexcept { return shape_.elements(); }
  std::span<std::byte> bytes() noexcept { return buffer_.span(); }
  std::span<const std::byte> bytes() const noexcept { return buffer_.span(); }
  template <typename T>
  T* data() noexcept {
    return reinterpret_cast<T*>(buffer_.data());
  }
  template <typename T>
  const T* data() const noexcept {
    return reinterpret_cast<const T*>(buffer_.data());
  }
  TensorView view() const { return {dtype_, shape_, buffer_.span()}; }

 private:
  DType dtype_ = DType::kF32;
  Shape shape_;
  Buffer buffer_;
};

// Converts between F64, F32, F16 and BF16, rounding to nearest even (NaN stays NaN). `output` holds
// view.elements() elements of `dtype`. Throws kInvalidArgument for other types or a wrong size.
NFLOAT_API void convert_elements(const TensorView& view, DType dtype, std::span<std::byte> output);

}  // namespace nfloat

#endif  // NFLOAT_TENSOR_H_
