// SPDX-License-Identifier: Apache-2.0
// Checkpoints, their tensors as views, and files of tensors.
#include "nfloat/checkpoint.h"

#include "base/fail.h"
#include "checkpoint/quant_state.h"
#include "core.h"
#include "options.h"

namespace nfloat::python {

namespace {

// path, dtype of decoded blocks, packed.
Ref open_checkpoint(Args& args) {
  const std::string path = args.text();
  CheckpointOptions options;
  options.decoded = dtype_argument(args.text());
  options.packed = args.flag();
  if (!is_quantizable(options.decoded))
    fail(ErrorCode::kInvalidArgument, "decoded is {}: float32, float16 or bfloat16",
         dtype_torch_name(options.decoded));
  return make_handle(unlocked(
      [&] { return std::make_shared<const Checkpoint>(nfloat::resolve_model_path(path), options); }));
}
// path, files, is_folder, is_gguf
Ref checkpoint_info(Args& args) {
  const Checkpoint& checkpoint = *args.handle<const Checkpoint>();
  return tuple(text(checkpoint.path()), list(checkpoint.files(), [](const auto& file) { return text(file); }),
               boolean(checkpoint.is_folder()), boolean(checkpoint.is_gguf()));
}
Ref checkpoint_tensors(Args& args) {
  const Checkpoint& checkpoint = *args.handle<const Checkpoint>();
  return list(checkpoint.tensors(), [&](const TensorInfo& info) {
    return tuple(text(info.name), text(dtype_name(info.dtype)), shape_tuple(info.shape),
                 text(checkpoint.files()[info.file]), integer(static_cast<int64_t>(info.offset)),
                 integer(static_cast<int64_t>(info.bytes)));
  });
}
// How many own it: the handle, and each view.
Ref checkpoint_users(Args& args) {
  return integer(args.handle<const Checkpoint>().use_count());
}

Ref memory_of(const std::shared_ptr<const Checkpoint>& checkpoint, const TensorView& view) {
  struct Owner {
    std::shared_ptr<const Checkpoint> checkpoint;
    std::shared_ptr<const void> bytes;
  };
  return make_memory(std::make_shared<Owner>(Owner{checkpoint, view.owner}), view.bytes.data(),
                     view.bytes.size(), false);
}
// memory, dtype, shape
Ref checkpoint_view(Args& args) {
  const std::shared_ptr<const Checkpoint> checkpoint = args.handle<const Checkpoint>();
  const TensorView view = checkpoint->view(args.text());
  return tuple(memory_of(checkpoint, view), text(dtype_torch_name(view.dtype)), shape_tuple(view.shape));
}
// quant_type, dtype, shape, block_size, codes, absmax, quant_map, nested_block_size, nested_offset,
// nested_absmax or None, nested_quant_map or None
Ref checkpoint_quantized(Args& args) {
  const std::shared_ptr<const Checkpoint> checkpoint = args.handle<const Checkpoint>();
  const QuantizedView view = checkpoint->quantized(args.text());
  const auto part = [&](const TensorView& of) { return memory_of(checkpoint, of); };
  return tuple(text(view.quant_type), text(dtype_torch_name(view.dtype)), shape_tuple(view.shape),
               integer(view.block_size), part(view.codes), part(view.absmax), part(view.quant_map),
               integer(view.nested_block_size), real(static_cast<double>(view.nested_offset)),
               view.nested ? part(view.nested_absmax) : none(),
               view.nested ? part(view.nested_quant_map) : none());
}
Ref checkpoint_is_quantized(Args& args) {
  const Checkpoint& checkpoint = *args.handle<const Checkpoint>();
  return boolean(checkpoint.is_quantized(args.text()));
}
Ref checkpoint_weight_names(Args& args) {
  return list(args.handle<const Checkpoint>()->weight_names(), [](const auto& name) { return text(name); });
}
Ref checkpoint_weight_shape(Args& args) {
  const Checkpoint& checkpoint = *args.handle<const Checkpoint>();
  return shape_tuple(checkpoint.weight_shape(args.text()));
}
Ref checkpoint_stored_type(Args& args) {
  const Checkpoint& checkpoint = *args.handle<const Checkpoint>();
  return text(checkpoint.stored_type(args.text()));
}
Ref checkpoint_stored_bytes(Args& args) {
  const Checkpoint& checkpoint = *args.handle<const Checkpoint>();
  return integer(static_cast<int64_t>(checkpoint.stored_bytes(args.text())));
}
Ref checkpoint_text_file(Args& args) {
  const Checkpoint& checkpoint = *args.handle<const Checkpoint>();
  return text(checkpoint.text_file(args.text()));
}
Ref resolve_model_path(Args& args) {
  return text(nfloat::resolve_model_path(args.text()));
}

Shape shape_argument(PyObject* object) {
  if (PyTuple_Check(object) == 0) raise(PyExc_TypeError, "a shape is a tuple");
  std::vector<int64_t> dims;
  for (Py_ssize_t i = 0; i < PyTuple_Size(object); ++i) {
    dims.push_back(PyLong_AsLongLong(PyTuple_GetItem(object, i)));
    if (PyErr_Occurred() != nullptr) throw PythonError{};
  }
  return Shape(std::move(dims));
}

// quant_type, block_size, dtype, shape, nested, nested_block_size, nested_offset
Ref format_quant_state(Args& args) {
  QuantState state;
  state.quant_type = args.text();
  state.block_size = args.integer();
  state.dtype = dtype_argument(args.text());
  state.shape = shape_argument(args.object());
  state.nested = args.flag();
  state.nested_block_size = args.integer();
  state.nested_offset = static_cast<float>(args.real());
  return text(nfloat::format_quant_state(state));
}
Ref parse_quant_state(Args& args) {
  const std::string json = args.text();
  const QuantState state = nfloat::parse_quant_state(json, args.text());
  return tuple(text(state.quant_type), integer(state.block_size), text(dtype_torch_name(state.dtype)),
               shape_tuple(state.shape), boolean(state.nested), integer(state.nested_block_size),
               real(static_cast<double>(state.nested_offset)));
}

// path, names, arrays, dtypes said, overwrite.
Ref save_tensors(Args& args) {
  const std::string path = args.text();
  const std::vector<std::string> names = args.texts();
  PyObject* objects = args.object();
  const std::vector<std::string> said = args.texts();
  const bool overwrite = args.flag();
  if (PyList_Check(objects) == 0 || static_cast<size_t>(PyList_Size(objects)) != names.size() ||
      said.size() != names.size())
    raise(PyExc_TypeError, "as many names as arrays and dtypes are needed");
  std::vector<Array> arrays;
  std::vector<NamedTensor> tensors;
  arrays.reserve(names.size());
  for (size_t i = 0; i < names.size(); ++i) {
    arrays.push_back(Array::of(PyList_GetItem(objects, static_cast<Py_ssize_t>(i)), said[i]));
    tensors.push_back({names[i], arrays.back().view()});
  }
  run_endable(true, true, [&] { nfloat::save_tensors(path, tensors, overwrite); });
  return none();
}

}  // namespace

std::vector<PyMethodDef> checkpoint_methods() {
  return {method<open_checkpoint>("open_checkpoint"),
          method<checkpoint_info>("checkpoint_info"),
          method<checkpoint_tensors>("checkpoint_tensors"),
          method<checkpoint_users>("checkpoint_users"),
          method<checkpoint_view>("checkpoint_view"),
          method<checkpoint_quantized>("checkpoint_quantized"),
          method<checkpoint_is_quantized>("checkpoint_is_quantized"),
          method<checkpoint_weight_names>("checkpoint_weight_names"),
          method<checkpoint_weight_shape>("checkpoint_weight_shape"),
          method<checkpoint_stored_type>("checkpoint_stored_type"),
          method<checkpoint_stored_bytes>("checkpoint_stored_bytes"),
          method<checkpoint_text_file>("checkpoint_text_file"),
          method<python::resolve_model_path>("resolve_model_path"),
          method<python::format_quant_state>("format_quant_state"),
          method<python::parse_quant_state>("parse_quant_state"),
          method<python::save_tensors>("save_tensors")};
}

}  // namespace nfloat::python
