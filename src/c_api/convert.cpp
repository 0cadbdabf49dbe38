// SPDX-License-Identifier: Apache-2.0
// Whole files of weights: quantized, converted, checked, compared, written.
#include <optional>

#include "c_api/handles.h"
#include "nfloat/bridge.h"
#include "nfloat/gguf.h"
#include "nfloat/results.h"

using nfloat::Checkpoint;
using nfloat::DType;
using nfloat::ErrorCode;
using nfloat::fail;
using namespace nfloat::c_api;

namespace nfloat::c_api {

std::vector<std::string> texts_of(const char* const* texts, size_t count, const char* name) {
  if (count != 0) needed(texts, name);
  std::vector<std::string> result;
  for (size_t i = 0; i < count; ++i) {
    if (texts[i] == nullptr) fail(ErrorCode::kInvalidArgument, "{}[{}] is null", name, i);
    result.emplace_back(texts[i]);
  }
  return result;
}

ConvertControl convert_control(nfloat_control* control, int32_t threads, bool overwrite) {
  ConvertControl result;
  result.threads = thread_count(threads);
  result.overwrite = overwrite;
  begin_progress(control, 0);
  if (control == nullptr) return result;
  result.cancelled = [control] { return control->cancelled.load(); };
  result.progress = [control](const ConvertProgress& progress) {
    report_progress(control, progress.input_bytes_done, progress.input_bytes_total);
  };
  return result;
}

}  // namespace nfloat::c_api

namespace {

// Where a caller may not want the document.
void clear_json(nfloat_buffer** json) {
  if (json != nullptr) *json = nullptr;
}
void give_json(nfloat_buffer** json, const std::string& text) {
  if (json != nullptr) *json = make_buffer(text);
}

struct QuantizeRequest {
  nfloat::QuantizeCheckpointOptions options;
  bool overwrite = false;
};

QuantizeRequest request_of(const nfloat_quantize_checkpoint_options* given) {
  const auto from = read_options(given, "nfloat_quantize_checkpoint_options");
  check_reserved(from.reserved, "nfloat_quantize_checkpoint_options");
  QuantizeRequest request;
  nfloat::QuantizeCheckpointOptions& options = request.options;
  if (from.format != nullptr) options.format = from.format;
  options.quantize = quantize_options_of(from.quantize);
  if (from.storage != 0) options.storage = dtype_of(from.storage, "storage");
  options.skip = texts_of(from.skip, from.skip_count, "skip");
  options.only = texts_of(from.only, from.only_count, "only");
  options.quantize_experts = flag(from.quantize_experts, "quantize_experts");
  if (from.shard_bytes != 0) options.shard_bytes = from.shard_bytes;
  request.overwrite = flag(from.overwrite, "overwrite");
  return request;
}

nfloat_convert_options convert_options_of(const nfloat_convert_options* given) {
  const auto from = read_options(given, "nfloat_convert_options");
  check_reserved(from.reserved, "nfloat_convert_options");
  return from;
}

// "bfloat16", "bf16" or a type of GGUF files.
nfloat::GgufType type_of(const char* name) {
  if (DType dtype{}; nfloat::parse_dtype(name, &dtype)) {
    if (dtype == DType::kF32) return nfloat::GgufType::kF32;
    if (dtype == DType::kF16) return nfloat::GgufType::kF16;
    if (dtype == DType::kBF16) return nfloat::GgufType::kBF16;
  }
  const nfloat::GgufTypeInfo* type = nfloat::find_gguf_type(std::string_view(name));
  if (type == nullptr) fail(ErrorCode::kInvalidArgument, "type '{}' is not known", name);
  return type->type;
}

using Writer = nfloat::BridgeResult (*)(const Checkpoint&, const std::string&, const nfloat::BridgeOptions&,
                                        const nfloat::ConvertControl&);

nfloat_status convert(const nfloat_checkpoint* input, const char* output, const nfloat_convert_options* given,
                      nfloat_control* control, nfloat_buffer** json, nfloat_error** error, Writer writer,
                      bool to_gguf) {
  return guard(error, [&] {
    clear_json(json);
    needed(input, "input");
    const nfloat_convert_options from = convert_options_of(given);
    nfloat::BridgeOptions options;
    if (from.type != nullptr) options.type = type_of(from.type);
    if (from.lora != nullptr) options.lora = nfloat::resolve_model_path(from.lora);
    options.keep_packed = flag(from.keep_packed, "keep_packed");
    options.scale = enumerator<nfloat::ScaleMethod>(from.scale, NFLOAT_SCALE_SIGNED, "scale");
    options.part_bytes = from.part_bytes;
    options.check = flag(from.check, "check");
    // What is lost is measured against float32, whatever the caller looks at.
    const Checkpoint source(input->value.path(), {.decoded = DType::kF32, .keep_mxfp4 = to_gguf});
    give_json(json, nfloat::convert_json(
                        writer(source, needed(output, "output"), options,
                               convert_control(control, from.threads, flag(from.overwrite, "overwrite")))));
  });
}

}  // namespace

nfloat_status nfloat_checkpoint_describe(const nfloat_checkpoint* checkpoint, nfloat_buffer** json,
                                         nfloat_error** error) {
  return guard(error, [&] {
    needed_result(json, "json");
    *json = make_buffer(nfloat::inspect_json(needed(checkpoint, "checkpoint")->value));
  });
}

nfloat_status nfloat_check_checkpoint(const nfloat_checkpoint* checkpoint, nfloat_control* control,
                                      nfloat_buffer** json, nfloat_error** error) {
  return guard(error, [&] {
    needed_result(json, "json");
    const Checkpoint& value = needed(checkpoint, "checkpoint")->value;
    *json = make_buffer(
        nfloat::inspect_json(value, nfloat::check_checkpoint(value, convert_control(control, 0, false))));
  });
}

nfloat_status nfloat_compare_checkpoints(const nfloat_checkpoint* checkpoint,
                                         const nfloat_checkpoint* original, nfloat_control* control,
                                         nfloat_buffer** json, nfloat_error** error) {
  return guard(error, [&] {
    needed_result(json, "json");
    const Checkpoint& value = needed(checkpoint, "checkpoint")->value;
    *json = make_buffer(
        nfloat::inspect_json(value, std::nullopt,
                             nfloat::compare_checkpoints(value, needed(original, "original")->value,
                                                         convert_control(control, 0, false))));
  });
}

nfloat_status nfloat_plan_quantization(const nfloat_checkpoint* input,
                                       const nfloat_quantize_checkpoint_options* options,
                                       nfloat_buffer** json, nfloat_error** error) {
  return guard(error, [&] {
    needed_result(json, "json");
    *json = make_buffer(nfloat::quantization_plan_json(
        nfloat::plan_quantization(needed(input, "input")->value, request_of(options).options)));
  });
}

nfloat_status nfloat_quantize_checkpoint(const nfloat_checkpoint* input, const char* output,
                                         const nfloat_quantize_checkpoint_options* options,
                                         nfloat_control* control, nfloat_buffer** json,
                                         nfloat_error** error) {
  return guard(error, [&] {
    clear_json(json);
    const QuantizeRequest request = request_of(options);
    give_json(json, nfloat::quantize_json(nfloat::quantize_checkpoint(
                        needed(input, "input")->value, needed(output, "output"), request.options,
                        convert_control(control, request.options.quantize.threads, request.overwrite))));
  });
}

nfloat_status nfloat_dequantize_checkpoint(const nfloat_checkpoint* input, const char* output,
                                           const nfloat_convert_options* given, nfloat_control* control,
                                           nfloat_buffer** json, nfloat_error** error) {
  return guard(error, [&] {
    clear_json(json);
    const nfloat_convert_options from = convert_options_of(given);
    if (from.lora != nullptr || from.keep_packed != 0 || from.scale != 0 || from.check != 0)
      fail(ErrorCode::kInvalidArgument, "lora, keep_packed, scale and check are for nfloat_write_folder");
    DType dtype = DType::kBF16;
    if (from.type != nullptr && !nfloat::parse_dtype(from.type, &dtype))
      fail(ErrorCode::kInvalidArgument, "type '{}' is not known: float32, float16 or bfloat16", from.type);
    const Checkpoint source(needed(input, "input")->value.path(), {.decoded = DType::kF32});
    give_json(json, nfloat::dequantize_json(nfloat::dequantize_checkpoint(
                        source, needed(output, "output"), dtype,
                        from.part_bytes != 0 ? from.part_bytes : uint64_t{5'000'000'000},
                        convert_control(control, from.threads, flag(from.overwrite, "overwrite")))));
  });
}

nfloat_status nfloat_write_gguf(const nfloat_checkpoint* input, const char* output,
                                const nfloat_convert_options* options, nfloat_control* control,
                                nfloat_buffer** json, nfloat_error** error) {
  return convert(input, output, options, control, json, error, &nfloat::write_gguf, true);
}
nfloat_status nfloat_write_folder(const nfloat_checkpoint* input, const char* output,
                                  const nfloat_convert_options* options, nfloat_control* control,
                                  nfloat_buffer** json, nfloat_error** error) {
  return convert(input, output, options, control, json, error, &nfloat::write_folder, false);
}

nfloat_status nfloat_save_tensors(const char* path, const char* const* names, const nfloat_tensor* tensors,
                                  size_t count, int32_t overwrite, nfloat_error** error) {
  return guard(error, [&] {
    needed(path, "path");
    if (count != 0) needed(tensors, "tensors");
    std::vector<std::string> texts = texts_of(names, count, "names");
    std::vector<nfloat::NamedTensor> list(count);
    for (size_t i = 0; i < count; ++i) {
      list[i].view = view_of(&tensors[i], texts[i].c_str());
      list[i].name = std::move(texts[i]);
    }
    nfloat::save_tensors(path, list, flag(overwrite, "overwrite"));
  });
}
