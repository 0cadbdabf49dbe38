// SPDX-License-Identifier: Apache-2.0
// Whole checkpoints: quantize, dequantize, convert, check, compare.
#include "nfloat/convert.h"

#include "base/fail.h"
#include "base/json.h"
#include "core.h"
#include "nfloat/bridge.h"
#include "nfloat/memory_plan.h"
#include "nfloat/results.h"
#include "options.h"

namespace nfloat::python {
namespace {

// format, block_size, scale, double_quantization, storage, skip, only, quantize_experts, allow_nonfinite,
// shard_bytes
QuantizeCheckpointOptions quantize_options(Args& args) {
  QuantizeCheckpointOptions options;
  options.format = args.text();
  options.quantize.block_size = args.integer();
  options.quantize.scale = scale_argument(args.text());
  options.quantize.double_quantization = args.flag();
  options.storage = dtype_argument(args.text());
  options.skip = args.texts();
  options.only = args.texts();
  options.quantize_experts = args.flag();
  options.quantize.allow_nonfinite = args.flag();
  options.shard_bytes = args.natural();
  return options;
}

Json plan_json(const QuantizationPlan& plan) {
  Json result = Json::object();
  result["tensors"] = Json::array();
  for (const TensorPlan& tensor : plan.tensors)
    result["tensors"].push_back({{"name", tensor.input.name},
                                 {"quantize", tensor.quantize},
                                 {"reason", tensor.reason},
                                 {"bytes_before", tensor.input.bytes},
                                 {"bytes_after", tensor.bytes_after}});
  result["bytes_before"] = plan.bytes_before;
  result["bytes_after"] = plan.bytes_after;
  result["parameters"] = plan.parameters;
  result["quantized_parameters"] = plan.quantized_parameters;
  return result;
}
Json result_json(const ConvertResult& result) {
  return {{"files", result.files},
          {"seconds", result.seconds},
          {"sync_seconds", result.sync_seconds},
          {"plan", plan_json(result.plan)},
          {"bytes_before", result.plan.bytes_before},
          {"bytes_after", result.plan.bytes_after},
          {"notes", Json::array()}};
}
Ref json_text(const Json& json) {
  return text(json.dump(-1, Json::Invalid::kReplace));
}

Ref plan_quantization(Args& args) {
  const std::shared_ptr<const Checkpoint> input = args.handle<const Checkpoint>();
  const QuantizeCheckpointOptions options = quantize_options(args);
  return json_text(unlocked([&] { return plan_json(nfloat::plan_quantization(*input, options)); }));
}

// The last arguments of a conversion: overwrite, threads, progress, control.
struct Job {
  explicit Job(Args& args)
      : overwrite(args.flag()),
        threads(thread_argument(args.integer())),
        progress(args.object()),
        watch(control_of(args.object())) {}
  template <typename Work>
  Ref run(const Work& work) {
    ConvertControl control;
    control.progress = [this](const ConvertProgress& now) {
      watch.count(now.input_bytes_done, now.input_bytes_total);
    };
    control.cancelled = [this] { return watch.stopped(); };
    control.threads = threads;
    control.overwrite = overwrite;
    Json json;
    watch.run(progress, [&] { json = work(control); });
    return json_text(json);
  }
  bool overwrite;
  int threads;
  PyObject* progress;
  Watch watch;
};

Ref quantize_checkpoint(Args& args) {
  const std::shared_ptr<const Checkpoint> input = args.handle<const Checkpoint>();
  const std::string output = args.text();
  const QuantizeCheckpointOptions options = quantize_options(args);
  return Job(args).run([&](const ConvertControl& control) {
    return result_json(nfloat::quantize_checkpoint(*input, output, options, control));
  });
}
// input, output, dtype, shard_bytes
Ref dequantize_checkpoint(Args& args) {
  const std::shared_ptr<const Checkpoint> input = args.handle<const Checkpoint>();
  const std::string output = args.text();
  const DType dtype = dtype_argument(args.text());
  const uint64_t shard_bytes = args.natural();
  return Job(args).run([&](const ConvertControl& control) {
    return result_json(nfloat::dequantize_checkpoint(*input, output, dtype, shard_bytes, control));
  });
}

Json bridge_json(const BridgeResult& result) {
  Json tensors = Json::array();
  for (const BridgeTensor& tensor : result.tensors)
    tensors.push_back({{"name", tensor.name},
                       {"before", tensor.before},
                       {"after", tensor.after},
                       {"elements", tensor.elements},
                       {"bytes", tensor.bytes},
                       {"squared_error", tensor.squared_error},
                       {"squared_original", tensor.squared_original}});
  return {{"files", result.files},
          {"seconds", result.seconds},
          {"sync_seconds", result.sync_seconds},
          {"bytes_before", result.bytes_before},
          {"bytes_after", result.bytes_after},
          {"notes", result.notes},
          {"tensors", tensors}};
}
// input, output, type or None, lora, keep_packed, scale, part_bytes, check; to a GGUF file or a folder.
template <bool kGguf>
Ref bridge(Args& args) {
  const std::shared_ptr<const Checkpoint> input = args.handle<const Checkpoint>();
  const std::string output = args.text();
  BridgeOptions options;
  if (const std::optional<std::string> name = args.maybe_text(); name) {
    const GgufTypeInfo* type = find_gguf_type(std::string_view(*name));
    if (type == nullptr) fail(ErrorCode::kInvalidArgument, "type '{}' is not known", *name);
    options.type = type->type;
  }
  options.lora = args.maybe_text().value_or("");
  options.keep_packed = args.flag();
  options.scale = scale_argument(args.text());
  options.part_bytes = args.natural();
  options.check = args.flag();
  return Job(args).run([&](const ConvertControl& control) {
    return bridge_json(kGguf ? write_gguf(*input, output, options, control)
                             : write_folder(*input, output, options, control));
  });
}

Ref check_checkpoint(Args& args) {
  const std::shared_ptr<const Checkpoint> input = args.handle<const Checkpoint>();
  return Job(args).run([&](const ConvertControl& control) {
    Json found = Json::array();
    for (const Finding& finding : nfloat::check_checkpoint(*input, control))
      found.push_back({{"error", finding.error}, {"tensor", finding.tensor}, {"text", finding.text}});
    return found;
  });
}
Ref compare_checkpoints(Args& args) {
  const std::shared_ptr<const Checkpoint> input = args.handle<const Checkpoint>();
  const std::shared_ptr<const Checkpoint> original = args.handle<const Checkpoint>();
  return Job(args).run([&](const ConvertControl& control) {
    Json errors = Json::array();
    for (const TensorError& error : nfloat::compare_checkpoints(*input, *original, control))
      errors.push_back({{"name", error.name},
                        {"elements", error.elements},
                        {"squared_error", error.squared_error},
                        {"squared_original", error.squared_original},
                        {"max_error", error.max_error}});
    return errors;
  });
}

// path, memory_bytes, context
Ref plan_memory(Args& args) {
  const std::string path = args.text();
  const uint64_t memory = args.natural();
  const int64_t context = args.integer();
  const ModelSize model = measure_model(path);
  Json rows = Json::array();
  for (const MemoryPlanRow& row :
       nfloat::plan_memory(model, memory, context != 0 ? context : planned_context(model)))
    rows.push_back({{"format", row.format},
                    {"bits_per_weight", row.bits_per_weight},
                    {"weight_bytes", row.weight_bytes},
                    {"kv_cache_bytes", row.kv_cache_bytes},
                    {"working_bytes", row.working_bytes},
                    {"peak_bytes", row.peak_bytes()},
                    {"largest_context", row.largest_context}});
  return json_text(rows);
}

}  // namespace

std::vector<PyMethodDef> convert_methods() {
  return {method<python::plan_quantization>("plan_quantization"),
          method<python::quantize_checkpoint>("quantize_checkpoint"),
          method<python::dequantize_checkpoint>("dequantize_checkpoint"),
          method<bridge<true>>("write_gguf"),
          method<bridge<false>>("write_folder"),
          method<python::check_checkpoint>("check_checkpoint"),
          method<python::compare_checkpoints>("compare_checkpoints"),
          method<python::plan_memory>("plan_memory")};
}

}  // namespace nfloat::python
