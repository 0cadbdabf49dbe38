// SPDX-License-Identifier: Apache-2.0
#include <cstdint>
#include <limits>
#include <new>
#include <stdexcept>

#include "c_api/c_api.h"
#include "nfloat/interrupt.h"
#include "nfloat/machine.h"
#include "nfloat/targets.h"
#include "nfloat/threads.h"

using nfloat::ErrorCode;

struct nfloat_error {
  nfloat_status status = NFLOAT_INTERNAL;
  std::string message;
};

struct nfloat_buffer {
  nfloat::Buffer storage;
  size_t bytes = 0;
};

namespace nfloat::c_api {
namespace {

constexpr nfloat_status status_of(ErrorCode code) {
  return static_cast<nfloat_status>(code) + 1;
}
static_assert(status_of(ErrorCode::kInvalidArgument) == NFLOAT_INVALID_ARGUMENT);
static_assert(status_of(ErrorCode::kNotFound) == NFLOAT_NOT_FOUND);
static_assert(status_of(ErrorCode::kAlreadyExists) == NFLOAT_ALREADY_EXISTS);
static_assert(status_of(ErrorCode::kIo) == NFLOAT_IO);
static_assert(status_of(ErrorCode::kMalformedFile) == NFLOAT_MALFORMED_FILE);
static_assert(status_of(ErrorCode::kUnsupported) == NFLOAT_UNSUPPORTED);
static_assert(status_of(ErrorCode::kNotFinite) == NFLOAT_NOT_FINITE);
static_assert(status_of(ErrorCode::kOutOfMemory) == NFLOAT_OUT_OF_MEMORY);
static_assert(status_of(ErrorCode::kInterrupted) == NFLOAT_INTERRUPTED);
static_assert(static_cast<int>(DType::kF64) + 1 == NFLOAT_F64 &&
              static_cast<int>(DType::kBF16) + 1 == NFLOAT_BF16);
static_assert(static_cast<int>(DType::kI64) + 1 == NFLOAT_I64 &&
              static_cast<int>(DType::kU8) + 1 == NFLOAT_U8);
static_assert(static_cast<int>(DType::kBool) + 1 == NFLOAT_BOOL &&
              static_cast<int>(DType::kF8E5M2) + 1 == NFLOAT_F8E5M2);
static_assert(static_cast<int>(ScaleMethod::kAbsmax) == NFLOAT_SCALE_ABSMAX &&
              static_cast<int>(ScaleMethod::kSearch) == NFLOAT_SCALE_SEARCH &&
              static_cast<int>(ScaleMethod::kSigned) == NFLOAT_SCALE_SIGNED);
static_assert(static_cast<int>(Precision::kF32) + 1 == NFLOAT_PRECISION_F32 &&
              static_cast<int>(Precision::kBF16) + 1 == NFLOAT_PRECISION_BF16 &&
              static_cast<int>(Precision::kInt8) + 1 == NFLOAT_PRECISION_INT8);
static_assert(static_cast<int>(KvCacheType::kF32) == NFLOAT_KV_CACHE_F32 &&
              static_cast<int>(KvCacheType::kF16) == NFLOAT_KV_CACHE_F16 &&
              static_cast<int>(KvCacheType::kInt8) == NFLOAT_KV_CACHE_INT8);
static_assert(static_cast<int>(HeadFormat::kInt8) == NFLOAT_HEAD_INT8 &&
              static_cast<int>(HeadFormat::kNf4) == NFLOAT_HEAD_NF4);

// Where there is no memory to say so.
nfloat_error* no_memory() noexcept {
  static nfloat_error error{NFLOAT_OUT_OF_MEMORY, "no memory"};  // short enough to be held in place
  return &error;
}

nfloat_status report(nfloat_error** error, nfloat_status status, const char* message) noexcept {
  if (error == nullptr) return status;
  try {
    *error = new nfloat_error{status, message};
  } catch (...) {
    *error = no_memory();
  }
  return status;
}

}  // namespace

nfloat_status report_exception(nfloat_error** error) noexcept {
  try {
    throw;
  } catch (const Error& thrown) {
    return report(error, status_of(thrown.code()), thrown.what());
  } catch (const std::bad_alloc&) {
    return report(error, NFLOAT_OUT_OF_MEMORY, "not enough memory");
  } catch (const std::length_error& thrown) {
    return report(error, NFLOAT_INVALID_ARGUMENT, thrown.what());
  } catch (const std::exception& thrown) {
    return report(error, NFLOAT_INTERNAL, thrown.what());
  } catch (...) {
    return report(error, NFLOAT_INTERNAL, "an exception of an unknown type");
  }
}

bool flag(int32_t value, const char* name) {
  if (value != 0 && value != 1) fail(ErrorCode::kInvalidArgument, "{} is {}, not 0 or 1", name, value);
  return value == 1;
}

int thread_count(int32_t threads) {
  if (threads < 0) fail(ErrorCode::kInvalidArgument, "threads is {}: 0 or more", threads);
  return threads;
}

DType dtype_of(nfloat_dtype dtype, const char* name) {
  if (dtype < NFLOAT_F64 || dtype > NFLOAT_F8E5M2)
    fail(ErrorCode::kInvalidArgument, "the dtype of {} is {}, which is none", name, dtype);
  return static_cast<DType>(dtype - 1);
}

nfloat_dtype dtype_number(DType dtype) noexcept {
  const nfloat_dtype number = static_cast<nfloat_dtype>(dtype) + 1;
  return number <= NFLOAT_F8E5M2 ? number : 0;
}

Shape shape_of(int32_t rank, const int64_t* shape, const char* name) {
  if (rank < 0 || rank > NFLOAT_MAX_RANK)
    fail(ErrorCode::kInvalidArgument, "the rank of {} is {}, not 0 to {}", name, rank, int{NFLOAT_MAX_RANK});
  uint64_t elements = 1;
  for (int32_t axis = 0; axis < rank; ++axis) {
    if (shape[axis] < 0)
      fail(ErrorCode::kInvalidArgument, "dimension {} of {} is {}", axis, name, shape[axis]);
    if (shape[axis] == 0) continue;
    // The bytes of 8-byte elements must be counted by 63 bits too.
    if (elements > (uint64_t{1} << 59) / static_cast<uint64_t>(shape[axis]))
      fail(ErrorCode::kInvalidArgument, "the shape of {} has more elements than can be counted", name);
    elements *= static_cast<uint64_t>(shape[axis]);
  }
  return Shape(std::vector<int64_t>(shape, shape + rank));
}

TensorView view_of(const nfloat_tensor* tensor, const char* name) {
  needed(tensor, name);
  TensorView view;
  view.dtype = dtype_of(tensor->dtype, name);
  view.shape = shape_of(tensor->rank, tensor->shape, name);
  const size_t bytes = static_cast<size_t>(view.shape.elements()) * dtype_bytes(view.dtype);
  if (tensor->data == nullptr && bytes != 0)
    fail(ErrorCode::kInvalidArgument, "{} has null data and shape {}", name, view.shape.to_string());
  view.bytes = {static_cast<const std::byte*>(tensor->data), bytes};
  return view;
}

QuantizeOptions quantize_options_of(const nfloat_quantize_options* given) {
  const auto from = read_options(given, "nfloat_quantize_options");
  QuantizeOptions options;
  if (from.block_size != 0) options.block_size = from.block_size;
  options.scale = enumerator<ScaleMethod>(from.scale, NFLOAT_SCALE_SIGNED, "scale");
  options.double_quantization = flag(from.double_quantization, "double_quantization");
  options.allow_nonfinite = flag(from.allow_nonfinite, "allow_nonfinite");
  options.threads = thread_count(from.threads);
  return options;
}

std::optional<Precision> precision_of(nfloat_precision precision) {
  if (precision == NFLOAT_PRECISION_DEFAULT) return std::nullopt;
  if (precision < 0 || precision > NFLOAT_PRECISION_INT8)
    fail(ErrorCode::kInvalidArgument, "precision is {}, not 0 to {}", precision, int{NFLOAT_PRECISION_INT8});
  return static_cast<Precision>(precision - 1);
}

KvCacheType kv_cache_of(nfloat_kv_cache_type type) {
  return enumerator<KvCacheType>(type, NFLOAT_KV_CACHE_INT8, "kv_cache");
}

nfloat_buffer* make_buffer(const void* data, size_t bytes) {
  auto buffer = std::make_unique<nfloat_buffer>();
  buffer->storage = Buffer(bytes + 1);
  buffer->bytes = bytes;
  if (bytes != 0) std::memcpy(buffer->storage.data(), data, bytes);
  buffer->storage.data()[bytes] = std::byte{0};
  return buffer.release();
}

void begin_progress(nfloat_control* control, uint64_t total) noexcept {
  if (control == nullptr) return;
  control->done = 0;
  control->total = total;
}

void report_progress(nfloat_control* control, uint64_t done, uint64_t total) {
  if (control == nullptr) return;
  control->total = total;
  if (done > control->done) control->done = done;
  if (const nfloat_progress_function function = control->function)
    function(control->user, control->done, total);
}

void show_progress(nfloat_control* control, uint64_t done, uint64_t total) {
  report_progress(control, done, total);
  if (control != nullptr && control->cancelled) fail(ErrorCode::kInterrupted, "the call was cancelled");
}

}  // namespace nfloat::c_api

using namespace nfloat::c_api;  // the functions below are the interface of that namespace

const char* nfloat_version() {
  return NFLOAT_VERSION_STRING;
}
int32_t nfloat_abi_version() {
  return NFLOAT_ABI_VERSION;
}
const char* nfloat_target() {
  try {
    static const std::string target = nfloat::active_target();
    return target.c_str();
  } catch (...) {
    return "";
  }
}
const char* nfloat_processor() {
  try {
    static const std::string processor = nfloat::machine_processor();
    return processor.c_str();
  } catch (...) {
    return "";
  }
}
int32_t nfloat_threads() {
  return nfloat::default_threads();
}

void nfloat_set_threads(int32_t threads) {
  nfloat::set_threads(threads);
}

const char* nfloat_status_name(nfloat_status status) {
  static constexpr const char* kNames[] = {
      "ok",          "invalid_argument", "not_found",     "already_exists", "io", "malformed_file",
      "unsupported", "not_finite",       "out_of_memory", "interrupted"};
  if (status >= 0 && status <= NFLOAT_INTERRUPTED) return kNames[status];
  return status == NFLOAT_INTERNAL ? "internal" : "unknown";
}
nfloat_status nfloat_error_status(const nfloat_error* error) {
  return error == nullptr ? NFLOAT_OK : error->status;
}
const char* nfloat_error_message(const nfloat_error* error) {
  return error == nullptr ? "" : error->message.c_str();
}
void nfloat_error_free(nfloat_error* error) {
  if (error != no_memory()) delete error;
}

const void* nfloat_buffer_data(const nfloat_buffer* buffer) {
  return buffer == nullptr ? nullptr : buffer->storage.data();
}
size_t nfloat_buffer_bytes(const nfloat_buffer* buffer) {
  return buffer == nullptr ? 0 : buffer->bytes;
}
void nfloat_buffer_free(nfloat_buffer* buffer) {
  delete buffer;
}

nfloat_control* nfloat_control_create() {
  return new (std::nothrow) nfloat_control;
}
void nfloat_control_free(nfloat_control* control) {
  delete control;
}
void nfloat_control_cancel(nfloat_control* control) {
  if (control != nullptr) control->cancelled = true;
}
void nfloat_control_reset(nfloat_control* control) {
  if (control != nullptr) control->cancelled = false;
}
void nfloat_control_call(nfloat_control* control, void (*function)(void* user), void* user) {
  if (function == nullptr) return;
  if (control == nullptr) return function(user);
  const nfloat::Interruptible ends(control->cancelled);
  function(user);
}
void nfloat_control_progress(const nfloat_control* control, uint64_t* done, uint64_t* total) {
  if (done != nullptr) *done = control == nullptr ? 0 : control->done.load();
  if (total != nullptr) *total = control == nullptr ? 0 : control->total.load();
}
void nfloat_control_set_function(nfloat_control* control, nfloat_progress_function function, void* user) {
  if (control == nullptr) return;
  control->user = user;
  control->function = function;
}

size_t nfloat_dtype_bytes(nfloat_dtype dtype) {
  if (dtype < NFLOAT_F64 || dtype > NFLOAT_F8E5M2) return 0;
  return nfloat::dtype_bytes(static_cast<nfloat::DType>(dtype - 1));
}
const char* nfloat_dtype_name(nfloat_dtype dtype) {
  if (dtype < NFLOAT_F64 || dtype > NFLOAT_F8E5M2) return "";
  return nfloat::dtype_torch_name(static_cast<nfloat::DType>(dtype - 1)).data();
}

nfloat_dtype nfloat_parse_dtype(const char* name) {
  nfloat::DType dtype{};
  return name != nullptr && nfloat::parse_dtype(name, &dtype) ? dtype_number(dtype) : 0;
}

nfloat_status nfloat_convert_elements(const nfloat_tensor* tensor, nfloat_dtype dtype, void* output,
                                      size_t output_bytes, nfloat_error** error) {
  return guard(error, [&] {
    const nfloat::TensorView view = view_of(tensor, "tensor");
    if (output_bytes != 0) needed(output, "output");
    nfloat::convert_elements(view, dtype_of(dtype, "output"),
                             {static_cast<std::byte*>(output), output_bytes});
  });
}
