// SPDX-License-Identifier: Apache-2.0
#include <atomic>
#include <cmath>
#include <cstring>

#include "architecture/tensor_roles.h"
#include "base/fail.h"
#include "base/json.h"
#include "checkpoint/fingerprint.h"
#include "convert/output.h"
#include "convert/quantize_job.h"
#include "convert/weights.h"
#include "nfloat/convert.h"
#include "nfloat/version.h"

namespace nfloat {
namespace {

class DequantizeJob : public StreamJob {
 public:
  DequantizeJob(const Checkpoint& input, const std::string& name, DType dtype, bool transpose,
                SafetensorsWriter& writer, size_t index, const std::shared_ptr<BlockConverter>& converter,
                std::atomic<int64_t>& on_device)
      : path_(input.path()),
        name_(name),
        reader_(input, name, transpose),
        dtype_(dtype),
        writer_(writer),
        index_(index) {
    if (reader_.decode_on(converter)) on_device += reader_.elements();
  }

  int64_t next_stage() override { return started_++ > 0 ? 0 : reader_.chunks(); }

  uint64_t run(int64_t chunk, Scratch& scratch) override {
    const auto values = reader_.read_as(chunk, dtype_, scratch);
    if (dtype_ != DType::kF32 && dtype_ != reader_.dtype()) expect_finite(chunk, values);
    writer_.write(index_, static_cast<uint64_t>(reader_.begin(chunk)) * dtype_bytes(dtype_), values);
    return reader_.input_bytes(chunk);
  }

 private:
  // Throws where a finite value has no place in 16 bits.
  void expect_finite(int64_t chunk, std::span<const std::byte> halves) const {
    Scratch own;  // `halves` lie in the caller's
    std::span<const std::byte> exact;
    const auto count = static_cast<size_t>(reader_.count(chunk));
    const uint16_t exponent = dtype_ == DType::kF16 ? 0x7c00 : 0x7f80;
    for (size_t i = 0; i < count; ++i) {
      uint16_t half;
      std::memcpy(&half, halves.data() + 2 * i, sizeof half);
      if ((half & exponent) != exponent) continue;
      if (exact.empty()) exact = reader_.read_as(chunk, DType::kF32, own);
      float value;
      std::memcpy(&value, exact.data() + sizeof(float) * i, sizeof value);
      if (!std::isfinite(value)) continue;  // as it is in the file
      fail(ErrorCode::kNotFinite, "{}: {} at element {} of '{}' has no place in {}: take {}", path_, value,
           reader_.begin(chunk) + static_cast<int64_t>(i), name_, dtype_name(dtype_),
           dtype_ == DType::kF16 ? "bf16 or f32" : "f32");
    }
  }

  const std::string path_, name_;
  WeightReader reader_;
  const DType dtype_;
  SafetensorsWriter& writer_;
  const size_t index_;
  int started_ = 0;
};

}  // namespace

ConvertResult dequantize_checkpoint(const Checkpoint& input, const std::string& output, DType dtype,
                                    uint64_t shard_bytes, const ConvertControl& control,
                                    const std::string& device) {
  if (!is_quantizable(dtype)) {
    fail(ErrorCode::kInvalidArgument, "cannot dequantize to {}: F32, F16 or BF16", dtype_name(dtype));
  }
  const std::shared_ptr<BlockConverter> converter = block_converter(device);
  std::atomic<int64_t> on_device{0};
  expect_own_weights(input);
  Json config = parse_config(input);
  const TensorRoles roles(config);
  ConvertResult result;
  std::vector<OutputUnit> units;
  std::vector<TensorPlan>& plans = result.plan.tensors;
  for (const std::string& name : input.weight_names()) {
    TensorPlan plan;
    plan.input = *input.find(name);
    const bool packed = input.is_quantized(name);
    plan.quantize = packed || (!input.is_gguf() && input.stored_type(name) != dtype_name(plan.input.dtype));
    plan.bytes_after = plan.input.bytes;
    SafetensorsWriter::Declared declared{name, plan.input.dtype, plan.input.shape};
    result.plan.bytes_before += input.stored_bytes(name);
    if (plan.quantize) {
      const Shape shape = input.weight_shape(name);
      plan.transpose = packed && roles.is_conv1d(name);
      declared.dtype = dtype;
      declared.shape = plan.transpose ? Shape({shape[1], shape[0]}) : shape;
      plan.bytes_after = static_cast<uint64_t>(shape.elements()) * dtype_bytes(dtype);
      result.plan.quantized_parameters += shape.elements();
    }
    result.plan.parameters += declared.shape.elements();
    result.plan.bytes_after += plan.bytes_after;
    OutputUnit unit;
    unit.tensors = {declared};
    unit.bytes = plan.bytes_after;
    units.push_back(std::move(unit));
    plans.push_back(std::move(plan));
  }
  if (result.plan.quantized_parameters == 0) {
    fail(ErrorCode::kUnsupported,
         "{}: nothing to dequantize: no tensor has a bitsandbytes quant_state, none is FP8 or MXFP4",
         input.path());
  }
  for (size_t i = 0; i < units.size(); ++i) units[i].input = &plans[i].input;
  if (!config.empty()) {
    erase_quantization(config);
    for (const char* key : {"torch_dtype", "dtype"}) {
      if (config.contains(key)) config[key] = dtype_torch_name(dtype);
    }
  }
  if (input.is_folder()) result.plan.copied_files = other_files(input);
  const JobMaker make_job = [&](size_t i, SafetensorsWriter& writer, size_t first,
                                std::function<void(std::string)>) -> std::unique_ptr<StreamJob> {
    if (!plans[i].quantize) return make_copy_job(input, {&plans[i].input}, writer, first);
    return std::make_unique<DequantizeJob>(input, plans[i].input.name, dtype, plans[i].transpose, writer,
                                           first, converter, on_device);
  };
  ConversionKey key;
  if (input.is_folder())
    key = {{"command", "dequantize"},
           {"nfloat version", std::string(version())},
           {"input", files_fingerprint(input)},
           {"type", std::string(dtype_name(dtype))},
           {"shard size", fmt::format("{}", shard_bytes)}};
  write_checkpoint(input, output, units, make_job, config, shard_bytes, control, &result, {}, key);
  result.device_parameters = on_device;
  return result;
}

}  // namespace nfloat
