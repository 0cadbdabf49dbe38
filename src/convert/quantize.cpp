// SPDX-License-Identifier: Apache-2.0
#include <fmt/ranges.h>

#include <atomic>

#include "base/fail.h"
#include "base/fnv.h"
#include "base/json.h"
#include "checkpoint/fingerprint.h"
#include "convert/output.h"
#include "convert/quantize_job.h"
#include "nfloat/convert.h"
#include "nfloat/version.h"

namespace nfloat {
namespace {

DType compute_dtype(const QuantizationPlan& plan) {
  for (const TensorPlan& tensor : plan.tensors) {
    if (tensor.quantize) return tensor.input.dtype;
  }
  return DType::kBF16;
}

// As Transformers writes it, key for key.
Json quantization_config(const QuantizeCheckpointOptions& options, const QuantizationPlan& plan) {
  Json config;
  config["_load_in_4bit"] = true;
  config["_load_in_8bit"] = false;
  config["bnb_4bit_compute_dtype"] = dtype_torch_name(compute_dtype(plan));
  config["bnb_4bit_quant_storage"] = dtype_torch_name(options.storage);
  config["bnb_4bit_quant_type"] = options.format;
  config["bnb_4bit_use_double_quant"] = options.quantize.double_quantization;
  config["llm_int8_enable_fp32_cpu_offload"] = false;
  config["llm_int8_has_fp16_weight"] = false;
  config["llm_int8_skip_modules"] = plan.skip_modules;
  config["llm_int8_threshold"] = 6.0;
  config["load_in_4bit"] = true;
  config["load_in_8bit"] = false;
  config["quant_method"] = "bitsandbytes";
  return config;
}

std::string in_words(const std::vector<std::string>& expressions) {
  return expressions.empty() ? "none" : fmt::format("{}", fmt::join(expressions, " "));
}

// Empty, so that nothing is kept, for weights that come from elsewhere: a calibration keeps its own state.
ConversionKey conversion_key(const Checkpoint& input, const QuantizeCheckpointOptions& options) {
  if (!input.is_folder() || options.prepared || options.replaced) return {};
  const char* const scales[] = {"absmax", "search", "signed"};
  std::string sizes;
  for (const auto& [name, size] : options.block_sizes) sizes += fmt::format("{} {}\n", name, size);
  return {{"command", "quantize"},
          {"nfloat version", std::string(version())},
          {"input", files_fingerprint(input)},
          {"format", options.format},
          {"block size", fmt::format("{}", options.quantize.block_size)},
          {"double quantization", options.quantize.double_quantization ? "yes" : "no"},
          {"scale", scales[static_cast<size_t>(options.quantize.scale)]},
          {"storage", std::string(dtype_torch_name(options.storage))},
          {"skip", in_words(options.skip)},
          {"only", in_words(options.only)},
          {"quantize experts", options.quantize_experts ? "yes" : "no"},
          {"allow non-finite", options.quantize.allow_nonfinite ? "yes" : "no"},
          {"block sizes of weights", sizes.empty() ? "none" : fmt::format("{:016x}", fnv(sizes))},
          {"shard size", fmt::format("{}", options.shard_bytes)}};
}

}  // namespace

ConvertResult quantize_checkpoint(const Checkpoint& input, const std::string& output,
                                  const QuantizeCheckpointOptions& options, const ConvertControl& control) {
  ConvertResult result;
  result.plan = plan_quantization(input, options);
  const std::vector<TensorPlan>& plans = result.plan.tensors;
  std::vector<OutputUnit> units(plans.size());
  for (size_t i = 0; i < plans.size(); ++i) {
    units[i].input = &plans[i].input;
    units[i].bytes = plans[i].bytes_after;
    if (plans[i].quantize) {
      QuantizedLayout layout = quantized_layout(plans[i], options);
      units[i].tensors = std::move(layout.tensors);
      units[i].late = std::move(layout.late);
    } else {
      units[i].tensors = {{plans[i].input.name, plans[i].input.dtype, plans[i].input.shape}};
    }
  }
  Json config = parse_config(input);
  erase_quantization(config);
  if (has_config(input) && result.plan.quantized_parameters > 0)
    config["quantization_config"] = quantization_config(options, result.plan);
  const QuantizeSetup setup(input, options);
  std::atomic<int64_t> on_device{0};
  const JobMaker make_job = [&](size_t i, SafetensorsWriter& writer, size_t first,
                                std::function<void(std::string)> write_late) {
    if (plans[i].quantize) on_device += plans[i].input.shape.elements();
    return plans[i].quantize ? make_quantize_job(setup, plans[i], writer, first, std::move(write_late))
                             : make_plain_job(setup, plans[i], writer, first);
  };
  write_checkpoint(input, output, units, make_job, config, options.shard_bytes, control, &result,
                   options.card, conversion_key(input, options));
  if (setup.converter != nullptr) result.device_parameters = on_device;
  return result;
}

std::string expect_quantize_output(const Checkpoint& input, const std::string& output, bool overwrite,
                                   uint64_t bytes) {
  return check_output(input, output, input.is_folder() ? OutputKind::kFolder : OutputKind::kSafetensors,
                      overwrite, bytes);
}

}  // namespace nfloat
