// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_PYTHON_CORE_H_
#define NFLOAT_PYTHON_CORE_H_

// nfloat._core: what the Python files of the package call. Functions take their arguments by position,
// checked here; keywords, defaults and documentation are the package's. CPython's limited API of 3.11 only.

#ifndef Py_LIMITED_API
#define Py_LIMITED_API 0x030b0000
#endif
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "nfloat/error.h"
#include "nfloat/tensor.h"

namespace nfloat::python {

// A Python exception is set.
struct PythonError {};

// Owns one reference.
class Ref {
 public:
  Ref() noexcept = default;
  explicit Ref(PyObject* owned) noexcept : object_(owned) {}
  Ref(Ref&& other) noexcept : object_(std::exchange(other.object_, nullptr)) {}
  Ref& operator=(Ref&& other) noexcept {
    std::swap(object_, other.object_);
    return *this;
  }
  ~Ref() { Py_XDECREF(object_); }
  PyObject* get() const noexcept { return object_; }
  PyObject* release() noexcept { return std::exchange(object_, nullptr); }
  explicit operator bool() const noexcept { return object_ != nullptr; }

 private:
  PyObject* object_ = nullptr;
};

// Throws PythonError for null.
inline Ref checked(PyObject* owned) {
  if (owned == nullptr) throw PythonError{};
  return Ref(owned);
}
[[noreturn]] void raise(PyObject* type, const std::string& message);
// Clears the exception that is set where it is of `kind`.
bool clear_if(PyObject* kind) noexcept;

// Sets the Python exception that fits the C++ one at work.
void set_exception() noexcept;

template <typename Body>
PyObject* guard(const Body& body) noexcept {
  try {
    return body().release();
  } catch (...) {
    set_exception();
    return nullptr;
  }
}

// What body() returns; meanwhile other Python threads run, if `really`. Nothing of Python may be touched in
// it, the count of None included.
template <typename Body>
decltype(auto) unlocked(bool really, const Body& body) {
  struct Lock {
    explicit Lock(bool away) noexcept : state(away ? PyEval_SaveThread() : nullptr) {}
    ~Lock() {
      if (state != nullptr) PyEval_RestoreThread(state);
    }
    Lock(const Lock&) = delete;
    Lock& operator=(const Lock&) = delete;
    PyThreadState* state;
  };
  const Lock lock(really);
  return body();
}
template <typename Body>
decltype(auto) unlocked(const Body& body) {
  return unlocked(true, body);
}
// Bytes from which giving the lock away costs less than the work.
inline constexpr size_t kGilBytes = size_t{64} << 10;

// Work that nothing else can end, without the lock where `unlock` says so. What takes `longer` than some
// hundredths of a second runs in a thread of its own, and Ctrl-C ends it (nfloat/interrupt.h).
void run_endable(bool longer, bool unlock, const std::function<void()>& work);
// The same by the bytes that are read or written, at their fastest and at an expression's or a search's pace.
inline constexpr size_t kLongBytes = size_t{8} << 20, kLongSlowBytes = size_t{1} << 20;
template <typename Work>
void over_memory(size_t bytes, const Work& work, size_t longest = kLongBytes) {
  run_endable(bytes >= longest, bytes >= kGilBytes, work);
}

// Handles are capsules: a shared C++ object behind the name of its type.
template <typename T>
inline constexpr const char* kTypeName = nullptr;

template <typename T>
Ref make_handle(std::shared_ptr<T> object) {
  auto place = std::make_unique<std::shared_ptr<T>>(std::move(object));
  Ref capsule = checked(PyCapsule_New(place.get(), kTypeName<T>, [](PyObject* self) {
    delete static_cast<std::shared_ptr<T>*>(PyCapsule_GetPointer(self, kTypeName<T>));
  }));
  place.release();
  return capsule;
}
template <typename T>
std::shared_ptr<T>& handle(PyObject* object) {
  void* pointer =
      PyCapsule_IsValid(object, kTypeName<T>) != 0 ? PyCapsule_GetPointer(object, kTypeName<T>) : nullptr;
  if (pointer == nullptr) {
    if (object == Py_None) throw Error(ErrorCode::kInvalidArgument, std::string(kTypeName<T>) + " is closed");
    raise(PyExc_TypeError, std::string("not a handle of ") + kTypeName<T>);
  }
  return *static_cast<std::shared_ptr<T>*>(pointer);
}

// Memory of a Python object (buffer protocol or DLPack on the CPU), or nothing.
class Array {
 public:
  Array() noexcept = default;
  Array(Array&& other) noexcept;
  Array& operator=(Array&&) = delete;
  ~Array();

  // `said`: the dtype where the object's own type cannot say it (bf16 as uint16, raw bytes); "" otherwise.
  // Throws TypeError for what is no array, None included, and for elements that are not numbers;
  // kInvalidArgument for memory that is not contiguous, or read-only where it is to be written.
  static Array of(PyObject* object, std::string_view said = "", bool writable = false);

  bool given() const noexcept { return given_; }
  const TensorView& view() const noexcept { return view_; }
  size_t bytes() const noexcept { return view_.bytes.size(); }
  std::byte* data() const noexcept { return const_cast<std::byte*>(view_.bytes.data()); }
  // Elements of exactly this type; throws TypeError naming `name`, kInvalidArgument where they are not
  // aligned. Nothing where nothing was given.
  template <typename T>
  std::span<T> items(const char* name) const;

 private:
  void take_buffer();
  bool take_dlpack(PyObject* object, bool writable);
  void say(std::string_view said);  // that the elements are of this type; nothing for ""
  std::byte* check(DType dtype, const char* name) const;

  bool given_ = false, buffered_ = false;
  Py_buffer buffer_{};
  Ref capsule_;
  TensorView view_;
};
template <>
std::span<uint8_t> Array::items<uint8_t>(const char* name) const;
template <>
std::span<float> Array::items<float>(const char* name) const;
template <>
std::span<int32_t> Array::items<int32_t>(const char* name) const;
template <>
std::span<double> Array::items<double>(const char* name) const;

// The arguments of a call, one after the other. What is of a wrong type is a TypeError, a value that cannot
// be is kInvalidArgument.
class Args {
 public:
  Args(const char* function, PyObject* const* values, Py_ssize_t count) noexcept
      : function_(function), values_(values), count_(count) {}
  PyObject* object();
  int64_t integer();
  uint64_t natural();  // 0 to 2^64 - 1
  double real();
  bool flag();
  std::string text();                       // a str, or bytes as they are
  std::optional<std::string> maybe_text();  // nothing for None
  std::vector<std::string> texts();         // of a list
  Array array(std::string_view said = "", bool writable = false) {
    return Array::of(object(), said, writable);
  }
  Array maybe_array(bool writable = false);  // nothing for None
  template <typename T>
  std::shared_ptr<T>& handle() {
    return python::handle<T>(object());
  }

 private:
  const char* function_;
  PyObject* const* values_;
  Py_ssize_t count_;
  Py_ssize_t at_ = 0;
};

// One line of a table of methods: NFLOAT_METHOD(name) for Ref name(Args& args).
template <Ref (*Body)(Args&)>
struct Method {
  static const char* name;
  static PyObject* call(PyObject*, PyObject* const* values, Py_ssize_t count) noexcept {
    return guard([&] {
      Args args(name, values, count);
      return Body(args);
    });
  }
};
template <Ref (*Body)(Args&)>
const char* Method<Body>::name = "";
template <Ref (*Body)(Args&)>
PyMethodDef method(const char* name) {
  Method<Body>::name = name;
  return {name, reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(&Method<Body>::call)),
          METH_FASTCALL, nullptr};
}

Ref none();
Ref integer(int64_t value);
Ref real(double value);
Ref boolean(bool value);
Ref text(std::string_view value);  // UTF-8; what is not becomes U+FFFD
Ref bytes(std::string_view value);
template <typename... Items>
Ref tuple(Items&&... items) {
  Ref result = checked(PyTuple_New(sizeof...(items)));
  Py_ssize_t at = 0;
  (PyTuple_SetItem(result.get(), at++, std::forward<Items>(items).release()), ...);
  return result;
}
template <typename Range, typename Make>
Ref list(const Range& range, const Make& make) {
  Ref result = checked(PyList_New(0));
  for (const auto& item : range)
    if (const Ref made = make(item); PyList_Append(result.get(), made.get()) != 0) throw PythonError{};
  return result;
}
Ref shape_tuple(const Shape& shape);

// A Python object with the buffer protocol over memory that `owner` keeps alive.
Ref make_memory(std::shared_ptr<const void> owner, const void* data, size_t bytes, bool writable);
template <typename T>
Ref copied_memory(std::span<const T> values) {
  auto owner = std::make_shared<std::vector<T>>(values.begin(), values.end());
  return make_memory(owner, owner->data(), values.size_bytes(), true);
}

// Progress and cancellation of a long call.
struct Control {
  std::atomic<bool> cancelled{false};
  std::atomic<uint64_t> done{0}, total{0};
};
template <>
inline constexpr const char* kTypeName<Control> = "nfloat.Control";
class Watch {
 public:
  explicit Watch(std::shared_ptr<Control> control) : control_(std::move(control)) {}
  bool stopped() const noexcept { return stop_ || control_->cancelled; }
  // Throws kInterrupted when the caller wants an end.
  void show(uint64_t done, uint64_t total);
  // Work that looks whether its thread is to end (nfloat/interrupt.h), by run().
  void run_interruptible(const std::function<void()>& work);
  // Sets the counters only.
  void count(uint64_t done, uint64_t total) noexcept;

  // Runs `work` in a thread of its own; meanwhile the caller handles signals and calls progress(done, total),
  // which may be None, 20 times a second at most; once before the work begins and once after it. An exception
  // of either ends the work, or keeps it from beginning, and is raised.
  void run(PyObject* progress, const std::function<void()>& work);

 private:
  std::shared_ptr<Control> control_;
  std::atomic<bool> stop_{false};
};
// Of an argument: a Control's handle or None.
std::shared_ptr<Control> control_of(PyObject* object);

// One thread at a time: throws RuntimeError when another one is inside.
class Alone {
 public:
  Alone(std::atomic<bool>& busy, const char* what);
  ~Alone() { busy_ = false; }
  Alone(const Alone&) = delete;
  Alone& operator=(const Alone&) = delete;

 private:
  std::atomic<bool>& busy_;
};

// The functions of each file.
std::vector<PyMethodDef> base_methods();
std::vector<PyMethodDef> weight_methods();
std::vector<PyMethodDef> matrix_methods();
std::vector<PyMethodDef> checkpoint_methods();
std::vector<PyMethodDef> convert_methods();
std::vector<PyMethodDef> text_methods();
std::vector<PyMethodDef> model_methods();
std::vector<PyMethodDef> evaluate_methods();
std::vector<PyMethodDef> compare_methods();

DType dtype_argument(const std::string& name);  // throws kInvalidArgument
int thread_argument(int64_t threads);

}  // namespace nfloat::python

#endif  // NFLOAT_PYTHON_CORE_H_
