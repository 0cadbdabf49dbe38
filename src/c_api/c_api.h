// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_C_API_C_API_H_
#define NFLOAT_C_API_C_API_H_

#include <algorithm>
#include <atomic>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "base/fail.h"
#include "nfloat/codebook.h"
#include "nfloat/model.h"
#include "nfloat/nfloat.h"
#include "nfloat/quantize.h"
#include "nfloat/tensor.h"
#include "nfloat/tokenizer.h"

// What every section of the C interface uses: the border where exceptions become codes, and the handles.

struct nfloat_codebook {
  nfloat::Codebook value;
};

struct nfloat_control {
  std::atomic<bool> cancelled{false};
  std::atomic<uint64_t> done{0}, total{0};
  std::atomic<nfloat_progress_function> function{nullptr};
  std::atomic<void*> user{nullptr};
};

namespace nfloat::c_api {

// Makes *error (where error is not null) of the exception at work; its status.
nfloat_status report_exception(nfloat_error** error) noexcept;

// Runs `work` and turns what it throws into a status.
template <typename Work>
nfloat_status guard(nfloat_error** error, const Work& work) noexcept {
  try {
    work();
    return NFLOAT_OK;
  } catch (...) {
    return report_exception(error);
  }
}

// Throws kInvalidArgument naming the parameter when it is null.
template <typename T>
T* needed(T* pointer, const char* parameter) {
  if (pointer == nullptr) fail(ErrorCode::kInvalidArgument, "{} is null", parameter);
  return pointer;
}

// The same for the place of a result, which becomes null.
template <typename T>
void needed_result(T** place, const char* parameter) {
  *needed(place, parameter) = nullptr;
}

// A whole struct of options from one that may be shorter or longer; all zero for null. Throws kUnsupported
// when the part that is not known here is not zero.
template <typename Options>
Options read_options(const Options* given, const char* type) {
  Options options;
  std::memset(&options, 0, sizeof options);
  if (given == nullptr) return options;
  const size_t size = given->struct_size;
  if (size < sizeof(size_t))
    fail(ErrorCode::kInvalidArgument, "{}.struct_size is {}: set it to sizeof({})", type, size, type);
  std::memcpy(&options, given, std::min(size, sizeof options));
  const auto* bytes = reinterpret_cast<const unsigned char*>(given);
  for (size_t i = sizeof options; i < size; ++i) {
    if (bytes[i] != 0)
      fail(ErrorCode::kUnsupported, "{} has a field that is not known here, at byte {}", type, i);
  }
  return options;
}

// Writes as much of `result` as the caller has room for and leaves struct_size.
template <typename Result>
void write_result(Result result, Result* output, const char* type) {
  const size_t size = output->struct_size;
  if (size < sizeof(size_t))
    fail(ErrorCode::kInvalidArgument, "{}.struct_size is {}: set it to sizeof({})", type, size, type);
  result.struct_size = size;
  std::memcpy(output, &result, std::min(size, sizeof result));
}

// Throws kInvalidArgument unless 0 or 1.
bool flag(int32_t value, const char* name);
// Throws kInvalidArgument unless 0 to `last`; the enumerator of that number.
template <typename Enum>
Enum enumerator(int32_t value, int32_t last, const char* name) {
  if (value < 0 || value > last)
    fail(ErrorCode::kInvalidArgument, "{} is {}, not 0 to {}", name, value, last);
  return static_cast<Enum>(value);
}
int thread_count(int32_t threads);  // throws kInvalidArgument when negative

DType dtype_of(nfloat_dtype dtype, const char* name);
nfloat_dtype dtype_number(DType dtype) noexcept;  // 0: none
// Of rank and shape; throws kInvalidArgument, also when the elements cannot be counted.
Shape shape_of(int32_t rank, const int64_t* shape, const char* name);
TensorView view_of(const nfloat_tensor* tensor, const char* name);
QuantizeOptions quantize_options_of(const nfloat_quantize_options* options);
std::optional<Precision> precision_of(nfloat_precision precision);
KvCacheType kv_cache_of(nfloat_kv_cache_type type);

nfloat_buffer* make_buffer(const void* data, size_t bytes);
inline nfloat_buffer* make_buffer(std::string_view text) {
  return make_buffer(text.data(), text.size());
}

void begin_progress(nfloat_control* control, uint64_t total) noexcept;
// Says how far the work is. Nothing for null.
void report_progress(nfloat_control* control, uint64_t done, uint64_t total);
// The same; throws kInterrupted when cancelled.
void show_progress(nfloat_control* control, uint64_t done, uint64_t total);

}  // namespace nfloat::c_api

#endif  // NFLOAT_C_API_C_API_H_
