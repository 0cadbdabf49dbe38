// SPDX-License-Identifier: Apache-2.0
// Errors, arguments, results, long calls, and the module itself.
#include "core.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <new>
#include <stdexcept>
#include <thread>

#include "base/fail.h"
#include "nfloat/interrupt.h"
#include "nfloat/machine.h"
#include "nfloat/targets.h"
#include "nfloat/threads.h"
#include "nfloat/version.h"

namespace nfloat::python {

namespace {

// By the numbers of ErrorCode, then "internal". Set once by the package.
std::array<PyObject*, 10> error_types{};

void set_error(size_t code, const char* message) noexcept {
  PyObject* type = error_types[code];
  const Ref string(
      PyUnicode_DecodeUTF8(message, static_cast<Py_ssize_t>(std::string_view(message).size()), "replace"));
  if (string) PyErr_SetObject(type != nullptr ? type : PyExc_RuntimeError, string.get());
}

}  // namespace

void set_exception() noexcept {
  try {
    throw;
  } catch (const PythonError&) {
    if (PyErr_Occurred() == nullptr) PyErr_SetString(PyExc_SystemError, "an error without an exception");
  } catch (const Error& error) {
    set_error(static_cast<size_t>(error.code()), error.what());
  } catch (const std::bad_alloc&) {
    set_error(7, "out of memory");
  } catch (const std::length_error&) {
    set_error(0, "a size that no memory holds");
  } catch (const std::exception& error) {
    set_error(9, error.what());
  } catch (...) {
    set_error(9, "an exception of an unknown type");
  }
}

void raise(PyObject* type, const std::string& message) {
  PyErr_SetString(type, message.c_str());
  throw PythonError{};
}

bool clear_if(PyObject* kind) noexcept {
  if (PyErr_ExceptionMatches(kind) == 0) return false;
  PyErr_Clear();
  return true;
}

PyObject* Args::object() {
  if (at_ == count_) raise(PyExc_TypeError, std::string(function_) + " takes more arguments");
  return values_[at_++];
}
int64_t Args::integer() {
  const int64_t value = PyLong_AsLongLong(object());
  if (value == -1 && PyErr_Occurred() != nullptr) {
    if (clear_if(PyExc_OverflowError))
      fail(ErrorCode::kInvalidArgument, "{}: an integer that does not fit into 64 bits", function_);
    throw PythonError{};
  }
  return value;
}
uint64_t Args::natural() {
  const Ref index = checked(PyNumber_Index(object()));
  const uint64_t value = PyLong_AsUnsignedLongLong(index.get());
  if (value == static_cast<uint64_t>(-1) && PyErr_Occurred() != nullptr) {
    if (clear_if(PyExc_OverflowError))
      fail(ErrorCode::kInvalidArgument, "{}: an integer that is negative, or does not fit into 64 bits",
           function_);
    throw PythonError{};
  }
  return value;
}
double Args::real() {
  const double value = PyFloat_AsDouble(object());
  if (value == -1 && PyErr_Occurred() != nullptr) {
    if (clear_if(PyExc_OverflowError))
      fail(ErrorCode::kInvalidArgument, "{}: an integer that is too large for a float", function_);
    // An array of texts says ValueError.
    if (clear_if(PyExc_ValueError)) raise(PyExc_TypeError, std::string(function_) + ": a number is needed");
    throw PythonError{};
  }
  return value;
}
bool Args::flag() {
  const int value = PyObject_IsTrue(object());
  if (value >= 0) return value != 0;
  // An array of several elements says ValueError.
  if (clear_if(PyExc_ValueError))
    raise(PyExc_TypeError, std::string(function_) + ": True or False is needed");
  throw PythonError{};
}
Array Args::maybe_array(bool writable) {
  PyObject* given = object();
  return given == Py_None ? Array() : Array::of(given, "", writable);
}

namespace {

std::string string_of(PyObject* object, const char* function) {
  Py_ssize_t size = 0;
  if (PyUnicode_Check(object) != 0) {
    const char* data = PyUnicode_AsUTF8AndSize(object, &size);
    if (data != nullptr) return {data, static_cast<size_t>(size)};
    // Bytes of file names and texts that are no UTF-8 come as surrogates.
    PyErr_Clear();
    const Ref encoded(PyUnicode_AsEncodedString(object, "utf-8", "surrogateescape"));
    if (!encoded) {
      if (clear_if(PyExc_UnicodeError))
        fail(ErrorCode::kInvalidArgument, "{}: a text with surrogates that stand for no character", function);
      throw PythonError{};
    }
    char* place = nullptr;
    if (PyBytes_AsStringAndSize(encoded.get(), &place, &size) != 0) throw PythonError{};
    return {place, static_cast<size_t>(size)};
  }
  if (PyBytes_Check(object) != 0) {
    char* place = nullptr;
    if (PyBytes_AsStringAndSize(object, &place, &size) != 0) throw PythonError{};
    return {place, static_cast<size_t>(size)};
  }
  raise(PyExc_TypeError, std::string(function) + ": a str or bytes is needed");
}

}  // namespace

std::string Args::text() {
  return string_of(object(), function_);
}
std::optional<std::string> Args::maybe_text() {
  PyObject* given = object();
  if (given == Py_None) return std::nullopt;
  return string_of(given, function_);
}
std::vector<std::string> Args::texts() {
  PyObject* given = object();
  std::vector<std::string> result;
  if (PyList_Check(given) == 0) raise(PyExc_TypeError, std::string(function_) + ": a list is needed");
  for (Py_ssize_t i = 0; i < PyList_Size(given); ++i)
    result.push_back(string_of(PyList_GetItem(given, i), function_));
  return result;
}

Ref none() {
  Py_IncRef(Py_None);
  return Ref(Py_None);
}
Ref integer(int64_t value) {
  return checked(PyLong_FromLongLong(value));
}
Ref real(double value) {
  return checked(PyFloat_FromDouble(value));
}
Ref boolean(bool value) {
  return checked(PyBool_FromLong(value ? 1 : 0));
}
Ref text(std::string_view value) {
  return checked(PyUnicode_DecodeUTF8(value.data(), static_cast<Py_ssize_t>(value.size()), "replace"));
}
Ref bytes(std::string_view value) {
  return checked(PyBytes_FromStringAndSize(value.data(), static_cast<Py_ssize_t>(value.size())));
}
Ref shape_tuple(const Shape& shape) {
  Ref result = checked(PyTuple_New(static_cast<Py_ssize_t>(shape.rank())));
  for (size_t i = 0; i < shape.rank(); ++i)
    PyTuple_SetItem(result.get(), static_cast<Py_ssize_t>(i), integer(shape[i]).release());
  return result;
}

DType dtype_argument(const std::string& name) {
  DType dtype;
  if (!parse_dtype(name, &dtype))
    fail(ErrorCode::kInvalidArgument, "dtype '{}': float32, float16 or bfloat16", name);
  return dtype;
}
int thread_argument(int64_t threads) {
  if (threads < 0 || threads > 4096)
    fail(ErrorCode::kInvalidArgument, "threads is {}: 1 to 4096, or 0 for the default", threads);
  return static_cast<int>(threads);
}

void Watch::count(uint64_t done, uint64_t total) noexcept {
  control_->total = total;
  control_->done = done;
}
void Watch::show(uint64_t done, uint64_t total) {
  count(done, total);
  if (stopped()) throw Error(ErrorCode::kInterrupted, "cancelled by the caller");
}

void Watch::run_interruptible(const std::function<void()>& work) {
  run(Py_None, [&] {
    const Interruptible ends(stop_);
    work();
  });
}

void Watch::run(PyObject* progress, const std::function<void()>& work) {
  using namespace std::chrono_literals;
  count(0, 0);
  std::exception_ptr failure;
  std::mutex mutex;
  std::condition_variable changed;
  bool finished = false;
  const auto report = [&] {
    if (progress == Py_None) return true;
    const Ref done(PyLong_FromUnsignedLongLong(control_->done));
    const Ref total(PyLong_FromUnsignedLongLong(control_->total));
    const Ref answer(done && total ? PyObject_CallFunctionObjArgs(progress, done.get(), total.get(), nullptr)
                                   : nullptr);
    return static_cast<bool>(answer);
  };
  if (PyErr_CheckSignals() != 0 || !report()) throw PythonError{};
  std::thread worker([&] {
    std::exception_ptr caught;
    try {
      if (stopped()) throw Error(ErrorCode::kInterrupted, "cancelled by the caller");
      work();
    } catch (...) {
      caught = std::current_exception();
    }
    const std::lock_guard lock(mutex);
    failure = caught;
    finished = true;
    changed.notify_one();
  });
  Ref type, value, trace;
  bool raised = false;
  for (bool over = false; !over;) {
    over = unlocked([&] {
      std::unique_lock lock(mutex);
      return changed.wait_for(lock, 50ms, [&] { return finished; });
    });
    if (over && (failure != nullptr || raised)) break;
    if (raised || (PyErr_CheckSignals() == 0 && report())) continue;
    PyObject *a = nullptr, *b = nullptr, *c = nullptr;
    PyErr_Fetch(&a, &b, &c);
    type = Ref(a), value = Ref(b), trace = Ref(c);
    raised = stop_ = true;
  }
  unlocked([&] { worker.join(); });
  if (raised) {
    PyErr_Restore(type.release(), value.release(), trace.release());
    throw PythonError{};
  }
  if (failure != nullptr) std::rethrow_exception(failure);
}

void run_endable(bool longer, bool unlock, const std::function<void()>& work) {
  if (!longer) return unlocked(unlock, work);
  Watch(std::make_shared<Control>()).run_interruptible(work);
}

std::shared_ptr<Control> control_of(PyObject* object) {
  return object == Py_None ? std::make_shared<Control>() : handle<Control>(object);
}

Alone::Alone(std::atomic<bool>& busy, const char* what) : busy_(busy) {
  if (busy.exchange(true)) raise(PyExc_RuntimeError, std::string(what) + " is in use by another thread");
}

namespace {

Ref nothing(Args&) {
  return none();
}
// A list of the classes of errors, by the numbers of ErrorCode, then that of errors inside.
Ref set_errors(Args& args) {
  PyObject* types = args.object();
  if (PyList_Check(types) == 0 || PyList_Size(types) != static_cast<Py_ssize_t>(error_types.size()))
    raise(PyExc_TypeError, "set_errors takes a list of ten classes");
  for (size_t i = 0; i < error_types.size(); ++i) {
    PyObject* old = error_types[i];
    error_types[i] = PyList_GetItem(types, static_cast<Py_ssize_t>(i));
    Py_IncRef(error_types[i]);
    Py_XDECREF(old);
  }
  return none();
}
Ref version(Args&) {
  return text(NFLOAT_VERSION_STRING);
}
Ref target(Args&) {
  return text(active_target());
}
Ref processor(Args&) {
  return text(machine_processor());
}
Ref threads(Args&) {
  return integer(default_threads());
}
Ref make_control(Args&) {
  return make_handle(std::make_shared<Control>());
}
Ref control_cancel(Args& args) {
  args.handle<Control>()->cancelled = true;
  return none();
}
Ref control_reset(Args& args) {
  Control& control = *args.handle<Control>();
  control.cancelled = false;
  control.done = control.total = 0;
  return none();
}
Ref control_state(Args& args) {
  const Control& control = *args.handle<Control>();
  return tuple(boolean(control.cancelled), integer(static_cast<int64_t>(control.done.load())),
               integer(static_cast<int64_t>(control.total.load())));
}
// The address that the library would read, for tests of what is copied.
Ref address(Args& args) {
  const Array array = args.array();
  return integer(static_cast<int64_t>(reinterpret_cast<intptr_t>(array.data())));
}

// Memory over that of an array, which it keeps.
Ref array_memory(Args& args) {
  const auto array = std::make_shared<const Array>(args.array());
  return make_memory(array, array->data(), array->bytes(), false);
}

int execute(PyObject* module) {
  static std::vector<PyMethodDef> methods = [] {
    std::vector<PyMethodDef> all;
    for (const auto& some :
         {base_methods(), weight_methods(), matrix_methods(), checkpoint_methods(), convert_methods(),
          text_methods(), model_methods(), evaluate_methods(), compare_methods()})
      all.insert(all.end(), some.begin(), some.end());
    all.push_back({nullptr, nullptr, 0, nullptr});
    return all;
  }();
  return PyModule_AddFunctions(module, methods.data());
}

PyModuleDef_Slot slots[] = {{Py_mod_exec, reinterpret_cast<void*>(&execute)}, {0, nullptr}};
PyModuleDef definition = {PyModuleDef_HEAD_INIT,
                          "nfloat._core",
                          "The library behind nfloat's Python files.",
                          0,
                          nullptr,
                          slots,
                          nullptr,
                          nullptr,
                          nullptr};

}  // namespace

std::vector<PyMethodDef> base_methods() {
  return {method<nothing>("nothing"),
          method<set_errors>("set_errors"),
          method<version>("version"),
          method<target>("target"),
          method<processor>("processor"),
          method<threads>("threads"),
          method<make_control>("make_control"),
          method<control_cancel>("control_cancel"),
          method<control_reset>("control_reset"),
          method<control_state>("control_state"),
          method<address>("address"),
          method<array_memory>("array_memory")};
}

}  // namespace nfloat::python

PyMODINIT_FUNC PyInit__core() {
  return PyModuleDef_Init(&nfloat::python::definition);
}
