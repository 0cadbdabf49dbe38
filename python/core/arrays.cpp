// SPDX-License-Identifier: Apache-2.0
// Memory of Python objects, read and given.
#include <bit>

#include "base/fail.h"
#include "core.h"

namespace nfloat::python {
namespace {

// The structures of DLPack (version 0.x), which a capsule "dltensor" points to.
struct DlTensor {
  void* data;
  int32_t device_type, device_id;
  int32_t rank;
  uint8_t code, bits;
  uint16_t lanes;
  int64_t* shape;
  int64_t* strides;
  uint64_t byte_offset;
};
struct DlManaged {
  DlTensor tensor;
  void* context;
  void (*deleter)(DlManaged*);
};
constexpr int32_t kDlCpu = 1;
constexpr uint8_t kDlInt = 0, kDlUnsigned = 1, kDlFloat = 2, kDlBfloat = 4, kDlBool = 6;

std::optional<DType> integer_of_bytes(Py_ssize_t bytes, bool is_signed) {
  switch (bytes) {
    case 1:
      return is_signed ? DType::kI8 : DType::kU8;
    case 2:
      return is_signed ? DType::kI16 : DType::kU16;
    case 4:
      return is_signed ? DType::kI32 : DType::kU32;
    case 8:
      return is_signed ? DType::kI64 : DType::kU64;
    default:
      return std::nullopt;
  }
}

std::optional<DType> dtype_of_format(std::string_view format, Py_ssize_t item) {
  if (!format.empty() && (format[0] == '@' || format[0] == '=' || format[0] == '<')) format.remove_prefix(1);
  if (format.size() != 1) return std::nullopt;
  const char code = format[0];
  if (code == 'f') return DType::kF32;
  if (code == 'd') return DType::kF64;
  if (code == 'e') return DType::kF16;
  if (code == '?') return DType::kBool;
  if (std::string_view("bhilqn").find(code) != std::string_view::npos) return integer_of_bytes(item, true);
  if (std::string_view("cBHILQN").find(code) != std::string_view::npos) return integer_of_bytes(item, false);
  return std::nullopt;
}

std::optional<DType> dtype_of_dlpack(const DlTensor& tensor) {
  if (tensor.lanes != 1) return std::nullopt;
  const int bits = tensor.bits;
  switch (tensor.code) {
    case kDlFloat:
      return bits == 16   ? DType::kF16
             : bits == 32 ? DType::kF32
             : bits == 64 ? std::optional(DType::kF64)
                          : std::nullopt;
    case kDlBfloat:
      return bits == 16 ? std::optional(DType::kBF16) : std::nullopt;
    case kDlInt:
      return bits % 8 == 0 ? integer_of_bytes(bits / 8, true) : std::nullopt;
    case kDlUnsigned:
      return bits % 8 == 0 ? integer_of_bytes(bits / 8, false) : std::nullopt;
    case kDlBool:
      return DType::kBool;
    default:
      return std::nullopt;
  }
}

std::string type_name(PyObject* object) {
  const Ref type(PyObject_Type(object));
  const Ref name(PyObject_GetAttrString(type.get(), "__name__"));
  const char* spelled = name ? PyUnicode_AsUTF8AndSize(name.get(), nullptr) : nullptr;
  if (spelled == nullptr) PyErr_Clear();
  return spelled == nullptr ? "an object" : spelled;
}

// Why an object with the buffer protocol did not give its memory; an exception of its own is set.
[[noreturn]] void refuse_buffer(PyObject* object, bool writable) {
  // Objects disagree about the class: numpy says ValueError, bytes and memoryview say BufferError.
  if (PyErr_ExceptionMatches(PyExc_ValueError) == 0 && PyErr_ExceptionMatches(PyExc_BufferError) == 0)
    throw PythonError{};
  PyErr_Clear();
  const auto gives = [&](int flags, auto&& looks) {
    Py_buffer buffer{};
    if (PyObject_GetBuffer(object, &buffer, flags) != 0) {
      PyErr_Clear();
      return false;
    }
    const bool result = looks(buffer);
    PyBuffer_Release(&buffer);
    return result;
  };
  const auto anything = [](const Py_buffer&) { return true; };
  if (!gives(PyBUF_STRIDED_RO, anything))
    fail(ErrorCode::kInvalidArgument, "{} does not show its memory: it is closed, or in use",
         type_name(object));
  if (!gives(PyBUF_STRIDED_RO | PyBUF_FORMAT, anything))
    raise(PyExc_TypeError, type_name(object) + " has elements of a type that is not taken");
  if (writable && !gives(PyBUF_STRIDED, anything))
    fail(ErrorCode::kInvalidArgument, "the array is read-only");
  fail(ErrorCode::kInvalidArgument, "the array is not contiguous");
}

}  // namespace

Array::Array(Array&& other) noexcept
    : given_(other.given_),
      buffered_(std::exchange(other.buffered_, false)),
      buffer_(other.buffer_),
      capsule_(std::move(other.capsule_)),
      view_(std::move(other.view_)) {}

Array::~Array() {
  if (buffered_) PyBuffer_Release(&buffer_);
}

void Array::take_buffer() {
  const std::string_view format = buffer_.format == nullptr ? "B" : buffer_.format;
  const std::optional<DType> own = dtype_of_format(format, buffer_.itemsize);
  if (!own) raise(PyExc_TypeError, "arrays of the type '" + std::string(format) + "' are not taken");
  view_.dtype = *own;
  view_.shape = Shape(std::vector<int64_t>(buffer_.shape, buffer_.shape + buffer_.ndim));
  view_.bytes = {static_cast<const std::byte*>(buffer_.buf), static_cast<size_t>(buffer_.len)};
}

void Array::say(std::string_view said) {
  if (said.empty()) return;
  const DType own = view_.dtype, wanted = dtype_argument(std::string(said));
  const size_t width = dtype_bytes(wanted);
  const bool bits = own == DType::kU16 || own == DType::kI16 || own == wanted;
  if (own == DType::kU8 && view_.shape.rank() == 1 && bytes() % width == 0) {
    view_.shape = Shape({static_cast<int64_t>(bytes() / width)});
  } else if (!bits || width != dtype_bytes(own)) {
    raise(PyExc_TypeError, "an array of " + std::string(dtype_torch_name(own)) +
                               " does not hold the bits of " + std::string(dtype_torch_name(wanted)));
  }
  view_.dtype = wanted;
}

bool Array::take_dlpack(PyObject* object, bool writable) {
  if (PyObject_HasAttrString(object, "__dlpack__") == 0) return false;
  const Ref device = checked(PyObject_CallMethod(object, "__dlpack_device__", nullptr));
  const Ref kind = checked(PySequence_GetItem(device.get(), 0));
  const long number = PyLong_AsLong(kind.get());
  if (number == -1 && PyErr_Occurred() != nullptr) throw PythonError{};
  if (number != kDlCpu) fail(ErrorCode::kUnsupported, "the array is not in the memory of the CPU");
  capsule_ = checked(PyObject_CallMethod(object, "__dlpack__", nullptr));
  // The capsule's own destructor gives the memory back: it is not marked as used.
  auto* managed = static_cast<DlManaged*>(PyCapsule_GetPointer(capsule_.get(), "dltensor"));
  if (managed == nullptr) throw PythonError{};
  const DlTensor& tensor = managed->tensor;
  const std::optional<DType> dtype = dtype_of_dlpack(tensor);
  if (!dtype) raise(PyExc_TypeError, type_name(object) + " has elements of a type that is not taken");
  view_.dtype = *dtype;
  view_.shape = Shape(std::vector<int64_t>(tensor.shape, tensor.shape + tensor.rank));
  int64_t step = 1;
  for (int32_t i = tensor.rank; i-- > 0;) {
    if (tensor.strides != nullptr && tensor.shape[i] > 1 && view_.shape.elements() > 0 &&
        tensor.strides[i] != step)
      fail(ErrorCode::kInvalidArgument, "the array is not contiguous");
    step *= tensor.shape[i];
  }
  (void)writable;  // DLPack 0.x has no read-only memory
  view_.bytes = {static_cast<const std::byte*>(tensor.data) + tensor.byte_offset,
                 static_cast<size_t>(view_.shape.elements()) * dtype_bytes(*dtype)};
  return true;
}

Array Array::of(PyObject* object, std::string_view said, bool writable) {
  Array array;
  if (object == Py_None) raise(PyExc_TypeError, "None is no array");
  array.given_ = true;
  if (PyObject_CheckBuffer(object) != 0) {
    const int flags = PyBUF_FORMAT | PyBUF_C_CONTIGUOUS | (writable ? PyBUF_WRITABLE : 0);
    if (PyObject_GetBuffer(object, &array.buffer_, flags) != 0) refuse_buffer(object, writable);
    array.buffered_ = true;
    array.take_buffer();
  } else if (!array.take_dlpack(object, writable)) {
    raise(PyExc_TypeError, type_name(object) + " is no array: it has neither the buffer protocol nor DLPack");
  }
  array.say(said);
  return array;
}

std::byte* Array::check(DType dtype, const char* name) const {
  if (!given_) return nullptr;
  if (view_.dtype != dtype)
    raise(PyExc_TypeError, std::string(name) + " is an array of " +
                               std::string(dtype_torch_name(view_.dtype)) + ", " +
                               std::string(dtype_torch_name(dtype)) + " is needed");
  if (reinterpret_cast<uintptr_t>(data()) % dtype_bytes(dtype) != 0)
    fail(ErrorCode::kInvalidArgument, "{} is not aligned to its elements", name);
  return data();
}
template <>
std::span<uint8_t> Array::items<uint8_t>(const char* name) const {
  return {reinterpret_cast<uint8_t*>(check(DType::kU8, name)), bytes()};
}
template <>
std::span<float> Array::items<float>(const char* name) const {
  return {reinterpret_cast<float*>(check(DType::kF32, name)), bytes() / 4};
}
template <>
std::span<int32_t> Array::items<int32_t>(const char* name) const {
  return {reinterpret_cast<int32_t*>(check(DType::kI32, name)), bytes() / 4};
}
template <>
std::span<double> Array::items<double>(const char* name) const {
  return {reinterpret_cast<double*>(check(DType::kF64, name)), bytes() / 8};
}

namespace {

struct Memory {
  PyObject_HEAD std::shared_ptr<const void> owner;
  const void* data;
  Py_ssize_t bytes;
  bool writable;
};

int memory_get(PyObject* self, Py_buffer* view, int flags) {
  auto* memory = reinterpret_cast<Memory*>(self);
  return PyBuffer_FillInfo(view, self, const_cast<void*>(memory->data), memory->bytes,
                           memory->writable ? 0 : 1, flags);
}
void memory_free(PyObject* self) {
  PyTypeObject* type = Py_TYPE(self);
  std::destroy_at(&reinterpret_cast<Memory*>(self)->owner);
  PyObject_Free(self);
  Py_DecRef(reinterpret_cast<PyObject*>(type));
}

PyTypeObject* memory_type() {
  static PyTypeObject* const type = [] {
    static PyType_Slot slots[] = {{Py_tp_dealloc, reinterpret_cast<void*>(&memory_free)},
                                  {Py_bf_getbuffer, reinterpret_cast<void*>(&memory_get)},
                                  {0, nullptr}};
    static PyType_Spec spec = {"nfloat._core.Memory", sizeof(Memory), 0,
                               Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION, slots};
    return reinterpret_cast<PyTypeObject*>(PyType_FromSpec(&spec));
  }();
  if (type == nullptr) throw PythonError{};
  return type;
}

}  // namespace

Ref make_memory(std::shared_ptr<const void> owner, const void* data, size_t bytes, bool writable) {
  Ref object = checked(PyType_GenericAlloc(memory_type(), 0));
  auto* memory = reinterpret_cast<Memory*>(object.get());
  std::construct_at(&memory->owner, std::move(owner));
  memory->data = data == nullptr ? static_cast<const void*>(&memory->bytes) : data;
  memory->bytes = static_cast<Py_ssize_t>(bytes);
  memory->writable = writable;
  return object;
}

}  // namespace nfloat::python
