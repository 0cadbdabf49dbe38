// SPDX-License-Identifier: Apache-2.0
// Files of weights, and the quant_state of their 4-bit ones.
#include "c_api/handles.h"
#include "checkpoint/quant_state.h"

using nfloat::Checkpoint;
using nfloat::ErrorCode;
using nfloat::fail;
using namespace nfloat::c_api;

namespace {

void set_shape(const nfloat::Shape& shape, int32_t* rank, int64_t* dims, const std::string& name) {
  if (shape.rank() > NFLOAT_MAX_RANK)
    fail(ErrorCode::kUnsupported, "tensor '{}' has {} dimensions, at most {}", name, shape.rank(),
         int{NFLOAT_MAX_RANK});
  *rank = static_cast<int32_t>(shape.rank());
  std::copy(shape.dims().begin(), shape.dims().end(), dims);
}

void set_type(const std::string& type, nfloat_quantized_view* view) {
  if (type.size() < sizeof view->quant_type && (type == "nf4" || type == "fp4"))
    std::memcpy(view->quant_type, type.c_str(), type.size());
}

const float* levels_of(const std::string& quant_type) {
  static const nfloat::Codebook nf4 = nfloat::make_codebook("nf4"), fp4 = nfloat::make_codebook("fp4");
  return (quant_type == "fp4" ? fp4 : nf4).levels.data();
}

}  // namespace

nfloat_status nfloat_format_quant_state(const nfloat_quantized_view* given, nfloat_buffer** json,
                                        nfloat_error** error) {
  return guard(error, [&] {
    needed_result(json, "json");
    const auto view = read_options(needed(given, "view"), "nfloat_quantized_view");
    const std::string type(view.quant_type, strnlen(view.quant_type, sizeof view.quant_type));
    if (type != "nf4" && type != "fp4")
      fail(ErrorCode::kUnsupported, "quant_type is '{}': bitsandbytes has nf4 and fp4", type);
    nfloat::QuantState state;
    state.quant_type = type;
    state.block_size = view.block_size;
    state.dtype = dtype_of(view.dtype, "view");
    state.shape = shape_of(view.rank, view.shape, "view");
    state.nested = flag(view.nested, "nested");
    if (state.nested) {
      state.nested_block_size = view.nested_block_size;
      state.nested_offset = view.nested_offset;
    }
    *json = make_buffer(nfloat::format_quant_state(state));
  });
}

nfloat_status nfloat_parse_quant_state(const char* json, size_t json_bytes, nfloat_quantized_view* view,
                                       nfloat_error** error) {
  return guard(error, [&] {
    needed(view, "view");
    const nfloat::QuantState state =
        nfloat::parse_quant_state({needed(json, "json"), json_bytes}, "quant_state");
    auto result = read_options(static_cast<const nfloat_quantized_view*>(view), "nfloat_quantized_view");
    std::memset(result.shape, 0, sizeof result.shape);
    std::memset(result.quant_type, 0, sizeof result.quant_type);
    set_shape(state.shape, &result.rank, result.shape, "quant_state");
    result.dtype = dtype_number(state.dtype);
    result.block_size = state.block_size;
    set_type(state.quant_type, &result);
    result.levels = levels_of(state.quant_type);
    result.level_count = 16;
    result.nested = state.nested ? 1 : 0;
    result.nested_block_size = state.nested ? state.nested_block_size : 0;
    result.nested_offset = state.nested ? state.nested_offset : 0;
    write_result(result, view, "nfloat_quantized_view");
  });
}

nfloat_status nfloat_checkpoint_open(const char* path, const nfloat_checkpoint_options* given,
                                     nfloat_checkpoint** checkpoint, nfloat_error** error) {
  return guard(error, [&] {
    needed_result(checkpoint, "checkpoint");
    const auto from = read_options(given, "nfloat_checkpoint_options");
    nfloat::CheckpointOptions options;
    if (from.decoded != 0) options.decoded = dtype_of(from.decoded, "decoded weights");
    if (!nfloat::is_quantizable(options.decoded))
      fail(ErrorCode::kInvalidArgument, "weights are decoded to float32, float16 or bfloat16, not {}",
           nfloat::dtype_torch_name(options.decoded));
    options.packed = flag(from.packed, "packed");
    auto opened = std::make_unique<nfloat_checkpoint>(Checkpoint(needed(path, "path"), options));
    for (const nfloat::TensorInfo& info : opened->value.tensors())
      for (std::string& name : opened->value.companions(info.name))
        opened->companions.insert(std::move(name));
    *checkpoint = opened.release();
  });
}
void nfloat_checkpoint_free(nfloat_checkpoint* checkpoint) {
  delete checkpoint;
}
size_t nfloat_checkpoint_tensors(const nfloat_checkpoint* checkpoint) {
  return checkpoint == nullptr ? 0 : checkpoint->value.tensors().size();
}
nfloat_status nfloat_checkpoint_tensor_info(const nfloat_checkpoint* checkpoint, size_t index,
                                            nfloat_tensor_info* info, nfloat_error** error) {
  return guard(error, [&] {
    const auto& tensors = needed(checkpoint, "checkpoint")->value.tensors();
    needed(info, "info");
    if (index >= tensors.size())
      fail(ErrorCode::kInvalidArgument, "tensor {} of a checkpoint with {}", index, tensors.size());
    const nfloat::TensorInfo& from = tensors[index];
    nfloat_tensor_info result;
    std::memset(&result, 0, sizeof result);
    result.name = from.name.c_str();
    result.dtype = dtype_number(from.dtype);
    set_shape(from.shape, &result.rank, result.shape, from.name);
    result.bytes = from.bytes;
    result.offset = from.offset;
    result.file = from.file;
    result.quantized = checkpoint->value.is_quantized(from.name) ? 1 : 0;
    result.companion = checkpoint->companions.contains(from.name) ? 1 : 0;
    write_result(result, info, "nfloat_tensor_info");
  });
}
nfloat_status nfloat_checkpoint_view(const nfloat_checkpoint* checkpoint, const char* name,
                                     nfloat_tensor* view, nfloat_error** error) {
  return guard(error, [&] {
    needed(view, "view");
    const nfloat::TensorView& from = needed(checkpoint, "checkpoint")->view(needed(name, "name"));
    nfloat_tensor result;
    std::memset(&result, 0, sizeof result);
    result.dtype = dtype_number(from.dtype);
    if (result.dtype == 0)
      fail(ErrorCode::kUnsupported, "tensor '{}' is {}, which has no number here", name,
           nfloat::dtype_name(from.dtype));
    set_shape(from.shape, &result.rank, result.shape, name);
    result.data = from.data();
    *view = result;
  });
}
nfloat_status nfloat_checkpoint_quantized(const nfloat_checkpoint* checkpoint, const char* name,
                                          nfloat_quantized_view* view, nfloat_error** error) {
  return guard(error, [&] {
    needed(view, "view");
    needed(name, "name");
    if (!needed(checkpoint, "checkpoint")->value.is_quantized(name)) {
      checkpoint->value.view(name);  // says so when there is no such tensor
      fail(ErrorCode::kInvalidArgument, "tensor '{}' is not quantized", name);
    }
    const nfloat::QuantizedView& from = checkpoint->quantized(name);
    const auto floats = [](const nfloat::TensorView& tensor) {
      return static_cast<const float*>(tensor.data());
    };
    nfloat_quantized_view result;
    std::memset(&result, 0, sizeof result);
    result.dtype = dtype_number(from.dtype);
    set_shape(from.shape, &result.rank, result.shape, name);
    result.block_size = from.block_size;
    result.codes = static_cast<const uint8_t*>(from.codes.data());
    result.levels = floats(from.quant_map);
    result.level_count = static_cast<int32_t>(from.quant_map.elements());
    if (from.nested) {
      result.nested = 1;
      result.nested_codes = static_cast<const uint8_t*>(from.absmax.data());
      result.nested_absmax = floats(from.nested_absmax);
      result.nested_map = floats(from.nested_quant_map);
      result.nested_block_size = from.nested_block_size;
      result.nested_offset = from.nested_offset;
    } else {
      result.scales = floats(from.absmax);
    }
    set_type(from.quant_type, &result);
    write_result(result, view, "nfloat_quantized_view");
  });
}
nfloat_status nfloat_checkpoint_text_file(const nfloat_checkpoint* checkpoint, const char* name,
                                          nfloat_buffer** text, nfloat_error** error) {
  return guard(error, [&] {
    needed_result(text, "text");
    const std::string read = needed(checkpoint, "checkpoint")->value.text_file(needed(name, "name"));
    if (read.empty()) fail(ErrorCode::kNotFound, "{} has no file '{}'", checkpoint->value.path(), name);
    *text = make_buffer(read);
  });
}
nfloat_status nfloat_resolve_model_path(const char* path, nfloat_buffer** resolved, nfloat_error** error) {
  return guard(error, [&] {
    needed_result(resolved, "resolved");
    *resolved = make_buffer(nfloat::resolve_model_path(needed(path, "path")));
  });
}
