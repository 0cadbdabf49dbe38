// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <memory>
#include <mutex>

#include "architecture/check_tensors.h"
#include "architecture/tensor_roles.h"
#include "base/checksum.h"
#include "base/fail.h"
#include "base/json.h"
#include "base/output_place.h"
#include "bridge/adapter.h"
#include "bridge/count_not_finite.h"
#include "bridge/over_ranks.h"
#include "checkpoint/fingerprint.h"
#include "convert/compare.h"
#include "convert/output.h"
#include "convert/partial_folder.h"
#include "convert/quantize_job.h"
#include "convert/stream.h"
#include "convert/weights.h"
#include "nfloat/bridge.h"
#include "nfloat/model_config.h"
#include "nfloat/version.h"

namespace nfloat {
namespace {

using Clock = std::chrono::steady_clock;
// Where the bytes of a tensor go: into the file, or beside what is in the file.
using Sink = std::function<void(uint64_t begin, std::span<const std::byte> bytes)>;

DType dtype_of(GgufType type) {
  switch (type) {
    case GgufType::kF32:
      return DType::kF32;
    case GgufType::kF16:
      return DType::kF16;
    case GgufType::kBF16:
      return DType::kBF16;
    default:
      fail(ErrorCode::kInvalidArgument, "{} is a type of GGUF files; folders have F32, F16 and BF16",
           gguf_type_info(type).name);
  }
}

// A weight of bitsandbytes' layout in the layout that it has already.
struct PackedWeight {
  std::vector<const TensorInfo*> parts;  // of the input: codes and companions
  QuantizeCheckpointOptions options;
  TensorPlan plan;
  QuantizeSetup setup;

  // `source`: what it is quantized from again, `input` itself or the plain original.
  PackedWeight(const Checkpoint& input, const Checkpoint& source, const std::string& name, ScaleMethod scale)
      : options(options_of(input, name, scale)), setup(source, options) {
    const QuantizedView view = input.quantized(name);
    plan.input = *source.find(name);
    plan.input.dtype = view.dtype;
    plan.input.shape = view.shape;
    if (&source != &input && TensorRoles(parse_config(source)).is_conv1d(name)) {
      plan.transpose = true;
      plan.input.shape = Shape({view.shape[1], view.shape[0]});
    }
    parts = {input.find(name)};
    for (const std::string& companion : input.companions(name)) parts.push_back(input.find(companion));
  }

 private:
  static QuantizeCheckpointOptions options_of(const Checkpoint& input, const std::string& name,
                                              ScaleMethod scale) {
    const QuantizedView view = input.quantized(name);
    QuantizeCheckpointOptions result;
    result.format = view.quant_type;
    result.quantize.block_size = view.block_size;
    result.quantize.double_quantization = view.nested;
    result.quantize.scale = scale;
    result.storage = input.find(name)->dtype;
    return result;
  }
};

// One tensor of the folder.
struct Target {
  TensorInfo input;
  std::string name;  // in the folder
  DType dtype = DType::kF32;
  Shape shape;
  bool transpose = false;
  const LoraDelta* delta = nullptr;
  std::shared_ptr<const PackedWeight> packed;  // of a weight that stays 4-bit
};

class WeightJob : public StreamJob {
 public:
  WeightJob(const Checkpoint& input, const Target& target, BridgeTensor& result, Sink sink)
      : input_(input),
        target_(target),
        result_(result),
        sink_(std::move(sink)),
        exact_(target.delta == nullptr && !input.is_quantized(target.input.name) &&
               target.input.dtype == target.dtype),
        reader_(input, target.input.name, target.transpose, target.delta) {}

  int64_t next_stage() override { return started_++ > 0 ? 0 : reader_.chunks(); }

  uint64_t run(int64_t chunk, Scratch& scratch) override {
    const uint64_t at = static_cast<uint64_t>(reader_.begin(chunk)) * dtype_bytes(target_.dtype);
    if (exact_) {
      sink_(at, reader_.read_as(chunk, target_.dtype, scratch));
    } else {
      const auto elements = static_cast<size_t>(reader_.count(chunk));
      const TensorView values{DType::kF32, Shape({reader_.count(chunk)}),
                              reader_.read_as(chunk, DType::kF32, scratch)};
      if (target_.dtype == DType::kF32) {
        sink_(at, values.bytes);
      } else {
        const auto stored = scratch.bytes(2, elements * dtype_bytes(target_.dtype));
        convert_elements(values, target_.dtype, stored);
        measure(chunk, values, {target_.dtype, values.shape, stored}, scratch);
        sink_(at, stored);
      }
    }
    return reader_.input_bytes(chunk);
  }

 private:
  void measure(int64_t chunk, const TensorView& values, const TensorView& stored, Scratch& scratch) {
    const auto count = static_cast<size_t>(reader_.count(chunk));
    const auto decoded = scratch.get<float>(3, count);
    convert_elements(stored, DType::kF32, std::as_writable_bytes(decoded));
    double error = 0, original = 0;
    for (size_t i = 0; i < count; ++i) {
      float value;
      std::memcpy(&value, values.bytes.data() + i * sizeof(float), sizeof(float));
      const double off = double{decoded[i]} - double{value};
      if (std::isfinite(value) && !std::isfinite(decoded[i]))
        fail(ErrorCode::kNotFinite, "{}: {} at element {} of '{}' has no place in {}: take {}", input_.path(),
             value, reader_.begin(chunk) + static_cast<int64_t>(i), target_.input.name,
             dtype_name(target_.dtype), target_.dtype == DType::kBF16 ? "f32" : "bf16 or f32");
      if (!std::isfinite(value)) continue;
      error += off * off;
      original += double{value} * double{value};
    }
    const std::lock_guard lock(mutex_);
    result_.squared_error += error;
    result_.squared_original += original;
  }

  const Checkpoint& input_;
  const Target& target_;
  BridgeTensor& result_;
  const Sink sink_;
  const bool exact_;
  const WeightReader reader_;
  std::mutex mutex_;
  int started_ = 0;
};

std::vector<Target> plan_folder(const Checkpoint& input, const Json& config, const LoraAdapter* lora,
                                std::optional<DType> dtype, const BridgeOptions& options,
                                const Checkpoint* original) {
  const TensorRoles roles(config);
  std::vector<Target> targets;
  for (const std::string& name : input.weight_names()) {
    Target target;
    target.input = *input.find(name);
    target.name = name;
    target.dtype = target.input.dtype;
    target.shape = target.input.shape;
    if (lora != nullptr) target.delta = lora->find(name);
    if (options.keep_packed && input.is_quantized(name)) {
      const bool from_original = original != nullptr && target.delta != nullptr;
      target.packed =
          std::make_shared<PackedWeight>(input, from_original ? *original : input, name, options.scale);
      target.shape = target.packed->plan.input.shape;
    } else if (input.is_quantized(name)) {
      const QuantizedView view = input.quantized(name);
      target.transpose = roles.is_conv1d(name);
      target.dtype = dtype.value_or(view.dtype);
      target.shape = target.transpose ? Shape({view.shape[1], view.shape[0]}) : view.shape;
    } else if (input.stored_type(name) != dtype_name(target.dtype)) {
      target.dtype = dtype.value_or(DType::kBF16);
    } else if (dtype && (is_quantizable(target.dtype) || target.dtype == DType::kF64)) {
      target.dtype = *dtype;
    }
    targets.push_back(std::move(target));
  }
  if (lora != nullptr && !lora->untied_head().empty()) {
    // A tensor of that name that the tie has kept from counting.
    std::erase_if(targets, [&](const Target& target) { return target.name == lora->untied_head(); });
    Target head = *std::find_if(targets.begin(), targets.end(),
                                [&](const Target& target) { return target.name == lora->tied_embedding(); });
    head.name = lora->untied_head();
    head.delta = lora->find(head.name);
    targets.push_back(std::move(head));
  }
  return targets;
}

// What the configuration says of a head that is no longer the embedding.
void untie(Json& config, const std::string& head) {
  constexpr const char* kTied = "tie_word_embeddings";
  config[kTied] = false;
  if (const Json* text = config.find("text_config"); text != nullptr && text->contains(kTied))
    config["text_config"][kTied] = false;
  const Json* described = config.find("quantization_config");
  if (described == nullptr || !described->is_object() || !(*described)["llm_int8_skip_modules"].is_array())
    return;
  Json& skipped = config["quantization_config"]["llm_int8_skip_modules"];
  const std::string module = module_of(head);
  if (std::none_of(skipped.begin(), skipped.end(), [&](const Json& entry) { return entry == module; }))
    skipped.push_back(module);
}

OutputUnit output_unit(const Target& target) {
  OutputUnit unit;
  unit.input = &target.input;
  if (!target.packed) {
    unit.tensors = {{target.name, target.dtype, target.shape}};
    unit.bytes = static_cast<uint64_t>(target.shape.elements()) * dtype_bytes(target.dtype);
  } else if (target.delta == nullptr) {
    for (const TensorInfo* part : target.packed->parts) {
      unit.tensors.push_back({part->name, part->dtype, part->shape});
      unit.bytes += part->bytes;
    }
  } else {
    QuantizedLayout layout = quantized_layout(target.packed->plan, target.packed->options);
    unit.tensors = std::move(layout.tensors);
    unit.late = std::move(layout.late);
    unit.bytes = layout.bytes;
  }
  return unit;
}

void check_packed(const Checkpoint& input, const std::vector<Target>& targets, const BridgeOptions& options) {
  if (options.type || options.check)
    fail(ErrorCode::kInvalidArgument, "weights that stay 4-bit take no other type and no check of bytes");
  if (std::none_of(targets.begin(), targets.end(), [](const Target& target) { return target.packed; }))
    fail(ErrorCode::kInvalidArgument, "{}: no 4-bit weights of bitsandbytes that could stay so",
         input.path());
}

// That the 4-bit weights which the adapter changes were made from the original's.
void check_original(const Checkpoint& input, const Checkpoint& original, const LoraAdapter* adapter,
                    const BridgeOptions& options, const ConvertControl& control) {
  if (!options.keep_packed || adapter == nullptr)
    fail(ErrorCode::kInvalidArgument, "an original is for an adapter merged into weights that stay 4-bit");
  std::vector<std::string> names;
  for (const auto& [name, delta] : adapter->deltas()) {
    if (name == adapter->untied_head()) continue;
    if (input.find(name) == nullptr)
      fail(ErrorCode::kMalformedFile, "{}: no tensor '{}', which {} has and the adapter changes",
           input.path(), name, original.path());
    if (!input.is_quantized(name)) continue;
    if (original.is_quantized(name))
      fail(ErrorCode::kInvalidArgument, "{}: '{}' is {}; an original is plain", original.path(), name,
           original.stored_type(name));
    names.push_back(name);
  }
  // 4 bits are 15 to 21 dB from what they were made from, another model's weights about 0 or less.
  constexpr double kLeast = 8;
  for (const TensorError& error : compare_weights(input, original, names, nullptr, control))
    if (!(error.sqnr_db() >= kLeast))
      fail(ErrorCode::kInvalidArgument,
           "'{}' of {} is not made from that of {}: the error is {:.0f} % of the weight", error.name,
           input.path(), original.path(), 100 * std::pow(10, -error.sqnr_db() / 20));
}

// What quantizing the merged weights again has cost.
void measure_packed(const Checkpoint& source, const std::vector<Target>& targets, const LoraAdapter& adapter,
                    const std::string& output, const ConvertControl& control, BridgeResult& result) {
  std::vector<std::string> names;
  std::vector<size_t> places;
  for (size_t i = 0; i < targets.size(); ++i) {
    if (!targets[i].packed || targets[i].delta == nullptr) continue;
    names.push_back(targets[i].input.name);
    places.push_back(i);
  }
  const std::vector<TensorError> errors =
      compare_weights(Checkpoint(output), source, names, &adapter, control);
  for (size_t i = 0; i < places.size(); ++i) {
    result.tensors[places[i]].squared_error = errors[i].squared_error;
    result.tensors[places[i]].squared_original = errors[i].squared_original;
    result.tensors[places[i]].squared_change = errors[i].squared_change;
    result.tensors[places[i]].change_product = errors[i].change_product;
  }
}

void check_written(const Checkpoint& input, const std::vector<Target>& targets, const std::string& output,
                   const ConvertControl& control) {
  const Checkpoint written(output);
  std::vector<BridgeTensor> ignored(targets.size());
  ConvertProgress progress;
  progress.tensors_total = targets.size();
  for (const Target& target : targets) progress.input_bytes_total += target.input.bytes;
  run_stream(
      targets.size(),
      [&](size_t i) -> std::unique_ptr<StreamJob> {
        const Target& target = targets[i];
        const TensorInfo* tensor = written.find(target.name);
        if (tensor == nullptr || tensor->dtype != target.dtype || tensor->shape != target.shape)
          fail(ErrorCode::kMalformedFile, "{}: tensor '{}' is not as it was written", output, target.name);
        return std::make_unique<WeightJob>(
            input, target, ignored[i], [&, tensor](uint64_t begin, std::span<const std::byte> bytes) {
              std::vector<std::byte> stored(bytes.size());
              written.read(*tensor, begin, stored);
              if (std::memcmp(stored.data(), bytes.data(), bytes.size()) != 0)
                fail(ErrorCode::kMalformedFile, "{}: tensor '{}' differs near its byte {}", output,
                     tensor->name, begin);
            });
      },
      progress, control);
}

ConversionKey conversion_key(const Checkpoint& input, const Checkpoint* original,
                             const BridgeOptions& options, uint64_t shard_bytes) {
  if (!input.is_folder()) return {};
  const char* const scales[] = {"absmax", "search", "signed"};
  return {{"command", "convert"},
          {"nfloat version", std::string(version())},
          {"input", files_fingerprint(input)},
          {"type", options.type ? std::string(gguf_type_info(*options.type).name) : "as it is"},
          {"4-bit weights stay", options.keep_packed ? "yes" : "no"},
          {"scale", scales[static_cast<size_t>(options.scale)]},
          {"adapter", options.lora.empty() ? "none" : adapter_fingerprint(options.lora)},
          {"adapter's weight", fmt::format("{}", options.lora_weight)},
          {"original", original != nullptr ? files_fingerprint(*original) : "none"},
          {"shard size", fmt::format("{}", shard_bytes)}};
}

// What converting these has lost, where another run has done it.
void measure_again(const Checkpoint& input, const std::vector<Target>& targets,
                   const std::vector<size_t>& which, const ConvertControl& control, BridgeResult& result) {
  ConvertProgress progress;
  progress.tensors_total = which.size();
  for (const size_t i : which) progress.input_bytes_total += targets[i].input.bytes;
  run_stream(
      which.size(),
      [&](size_t k) -> std::unique_ptr<StreamJob> {
        const size_t i = which[k];
        return std::make_unique<WeightJob>(
            input, targets[i], result.tensors[i], [&, i](uint64_t begin, std::span<const std::byte> bytes) {
              count_not_finite(targets[i].dtype, begin, bytes, result.tensors[i]);
            });
      },
      progress, control);
}

}  // namespace

BridgeResult write_folder(const Checkpoint& input, const std::string& output, const BridgeOptions& options,
                          const ConvertControl& control) {
  std::optional<DType> dtype;
  if (options.type) dtype = dtype_of(*options.type);
  expect_own_weights(input);
  // A folder's model need not run here; a GGUF file's configuration is made here.
  if (input.is_gguf())
    check_tensors(stored_tensors(input), parse_model_config(input.text_file("config.json"), input.path()));
  Json config = parse_config(input);
  std::optional<Checkpoint> original;
  if (!options.original.empty()) original.emplace(options.original);
  const auto adapter = load_adapter(options, original ? *original : input);
  expect_checkpoint_apart(output, {{options.lora}, {options.original}});
  if (original) check_original(input, *original, adapter ? &*adapter : nullptr, options, control);
  const std::vector<Target> targets = plan_folder(input, config, adapter ? &*adapter : nullptr, dtype,
                                                  options, original ? &*original : nullptr);
  if (options.keep_packed) check_packed(input, targets, options);

  BridgeResult result;
  result.merged = adapter ? adapter->size() : 0;
  if (adapter && !adapter->missing().empty()) result.notes.push_back(adapter->missing());
  result.bytes_before = stored_bytes(input);
  std::vector<OutputUnit> units;
  for (const Target& target : targets) {
    BridgeTensor tensor;
    tensor.name = target.name;
    tensor.before = input.stored_type(target.input.name) + (target.delta != nullptr ? " + LoRA" : "");
    tensor.elements = target.shape.elements();
    OutputUnit unit = output_unit(target);
    tensor.after = target.packed ? target.packed->options.format : dtype_name(target.dtype);
    tensor.bytes = unit.bytes;
    result.parameters += tensor.elements;
    result.bytes_after += tensor.bytes;
    units.push_back(std::move(unit));
    result.tensors.push_back(std::move(tensor));
  }
  if (!config.empty()) {
    if (adapter && !adapter->untied_head().empty()) {
      untie(config, adapter->untied_head());
      result.notes.push_back(untied_note(*adapter));
    }
    if (!options.keep_packed) erase_quantization(config);
    if (dtype)
      for (const char* key : {"torch_dtype", "dtype"})
        if (config.contains(key)) config[key] = dtype_torch_name(*dtype);
  }
  constexpr uint64_t kUsualShard = 5'000'000'000;
  ConvertResult written;
  const JobMaker make_job = [&](size_t i, SafetensorsWriter& writer, size_t first,
                                std::function<void(std::string)> write_late) -> std::unique_ptr<StreamJob> {
    if (const PackedWeight* packed = targets[i].packed.get()) {
      return targets[i].delta != nullptr ? make_quantize_job(packed->setup, packed->plan, writer, first,
                                                             std::move(write_late), targets[i].delta)
                                         : make_copy_job(input, packed->parts, writer, first);
    }
    return std::make_unique<WeightJob>(input, targets[i], result.tensors[i],
                                       [&, i, first](uint64_t begin, std::span<const std::byte> bytes) {
                                         count_not_finite(targets[i].dtype, begin, bytes, result.tensors[i]);
                                         writer.write(first, begin, bytes);
                                       });
  };
  const uint64_t shard_bytes = options.part_bytes > 0 ? options.part_bytes : kUsualShard;
  std::vector<size_t> finished;
  write_checkpoint(input, output, units, make_job, config, shard_bytes, control, &written, {},
                   conversion_key(input, original ? &*original : nullptr, options, shard_bytes),
                   [&](size_t unit) {
                     if (!targets[unit].packed) finished.push_back(unit);
                   });
  result.files = written.files;
  result.seconds = written.seconds;
  result.sync_seconds = written.sync_seconds;
  result.shards = written.shards;
  result.shards_before = written.shards_before;
  result.shards_damaged = written.shards_damaged;
  result.whole = written.whole;
  if (options.measure_finished) measure_again(input, targets, finished, control, result);
  if (!result.whole) return result;
  if (options.keep_packed && adapter)
    measure_packed(original ? *original : input, targets, *adapter, output, control, result);
  if (options.check) {
    const Clock::time_point start = Clock::now();
    check_written(input, targets, output, control);
    result.check_seconds = std::chrono::duration<double>(Clock::now() - start).count();
  }
  return result;
}

}  // namespace nfloat
