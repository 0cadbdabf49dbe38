// SPDX-License-Identifier: Apache-2.0
#include "convert/quantize_job.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>

#include "base/fail.h"
#include "convert/error_feedback.h"
#include "convert/weights.h"

namespace nfloat {
namespace {

int64_t block_count(int64_t elements, int64_t block_size) {
  return (elements + block_size - 1) / block_size;
}

Shape quantized_shape(const TensorPlan& plan) {
  return plan.transpose ? Shape({plan.input.shape[1], plan.input.shape[0]}) : plan.input.shape;
}

std::string state_text(const QuantizeSetup& setup, const TensorPlan& plan, const Shape& shape, float offset) {
  QuantState state;
  state.quant_type = setup.options.format;
  state.block_size = setup.options.block_size_of(plan.input.name);
  state.dtype = plan.input.dtype;
  state.shape = shape;
  state.nested = setup.options.quantize.double_quantization;
  state.nested_block_size = kNestedBlockSize;
  state.nested_offset = offset;
  return format_quant_state(state);
}

// One weight. Without double quantization one pass writes codes and scales. With it the scales of the whole
// weight come first; codes chosen by search then need a second pass, against the scales as stored.
class QuantizeJob : public StreamJob {
 public:
  QuantizeJob(const QuantizeSetup& setup, const TensorPlan& plan, SafetensorsWriter& writer,
              size_t first_index, std::function<void(std::string)> write_state, const LoraDelta* delta)
      : setup_(setup),
        plan_(plan),
        writer_(writer),
        index_(first_index),
        write_state_(std::move(write_state)),
        block_size_(setup.options.block_size_of(plan.input.name)),
        reader_(setup.input, plan.input.name, plan.transpose, delta),
        values_(delta != nullptr ? DType::kF32 : reader_.dtype()) {
    int64_t unit = block_size_;
    // The sum with a base that lies on the levels: codes of whole rows are chosen together.
    if (delta != nullptr && ErrorFeedback::fits(*delta) && setup.input.is_quantized(plan.input.name) &&
        std::lcm(unit, delta->cols) <= kMostChunkElements) {
      unit = std::lcm(unit, delta->cols);
      feedback_.emplace(*delta, setup.codebook);
    }
    reader_.align_chunks(unit);
    if (options().double_quantization) {
      scales_.resize(static_cast<size_t>(block_count(reader_.elements(), block_size_)));
    }
  }

  int64_t next_stage() override {
    ++stage_;
    if (stage_ == 1) return reader_.chunks();
    if (stage_ == 2 && options().double_quantization) {
      store_nested_scales();
      if (options().scale != ScaleMethod::kAbsmax || feedback_) return reader_.chunks();
    }
    store_state();
    return 0;
  }

  uint64_t run(int64_t chunk, Scratch& scratch) override {
    const std::span<const std::byte> values = reader_.read_as(chunk, values_, scratch);
    const BlockRange range{values.data(), values_, reader_.count(chunk), block_size_};
    const int64_t first_block = reader_.begin(chunk) / block_size_;
    const auto blocks = static_cast<size_t>(block_count(range.elements, block_size_));
    const auto codes = scratch.get<uint8_t>(2, static_cast<size_t>((range.elements + 1) / 2));
    float* scales = scales_.empty() ? scratch.get<float>(3, blocks).data() : scales_.data() + first_block;
    const bool fits = options().scale != ScaleMethod::kAbsmax;
    bool codes_ready = true;
    if (stage_ == 1) {
      int64_t bad = -1;
      if (!fits) {
        bad = setup_.converter != nullptr
                  ? setup_.converter->quantize(range, setup_.table, scales, codes.data())
                  : quantize_blocks(range, setup_.table, scales, codes.data());
        codes_ready = scales_.empty() || !feedback_;
      } else {
        bad = fit_scales(range, setup_.table, options().scale, scales);
        codes_ready = scales_.empty();
        if (codes_ready) encode_blocks(range, setup_.table, scales, codes.data());
      }
      if (bad >= 0 && !options().allow_nonfinite) throw_not_finite(reader_.begin(chunk) + bad);
    } else {
      encode_blocks(range, setup_.table, scales, codes.data());
    }
    if (codes_ready && feedback_)
      feedback_->refine({reinterpret_cast<const float*>(values.data()), static_cast<size_t>(range.elements)},
                        scales, block_size_, codes.data());
    if (codes_ready)
      writer_.write(index_, static_cast<uint64_t>(reader_.begin(chunk) / 2), std::as_bytes(codes));
    if (scales_.empty()) {
      writer_.write(index_ + 1, static_cast<uint64_t>(first_block) * sizeof(float),
                    std::as_bytes(std::span(scales, blocks)));
    }
    return codes_ready ? reader_.input_bytes(chunk) : 0;
  }

 private:
  static constexpr int64_t kMostChunkElements = int64_t{1} << 24;

  const QuantizeOptions& options() const { return setup_.options.quantize; }

  [[noreturn]] void throw_not_finite(int64_t index) const {
    const Shape& shape = reader_.shape();
    std::string place = fmt::format("{}", index);
    if (shape.rank() == 2) place = fmt::format("[{}, {}]", index / shape[1], index % shape[1]);
    fail(ErrorCode::kNotFinite,
         "{}: tensor '{}' has a NaN or infinity at {} (allow_nonfinite goes on: NaN becomes the lowest "
         "level)",
         setup_.input.files()[plan_.input.file], plan_.input.name, place);
  }

  void store_nested_scales() {
    const NestedScales nested = quantize_scales(scales_);
    if (!std::isfinite(nested.offset) || !std::all_of(nested.absmax.begin(), nested.absmax.end(),
                                                      [](float scale) { return std::isfinite(scale); }))
      fail(ErrorCode::kNotFinite,
           "{}: tensor '{}': its scales are too large for double quantization: their mean overflows float32",
           setup_.input.files()[plan_.input.file], plan_.input.name);
    writer_.write(index_ + 1, 0, std::as_bytes(std::span(nested.codes)));
    writer_.write(index_ + 3, 0, std::as_bytes(std::span(nested.absmax)));
    writer_.write(index_ + 4, 0, std::as_bytes(std::span(dynamic_codebook().levels)));
    offset_ = nested.offset;
    scales_ = dequantize_scales(nested);
  }

  void store_state() {
    writer_.write(index_ + 2, 0, std::as_bytes(std::span(setup_.codebook.levels)));
    write_state_(state_text(setup_, plan_, reader_.shape(), offset_));
  }

  const QuantizeSetup& setup_;
  const TensorPlan& plan_;
  SafetensorsWriter& writer_;
  const size_t index_;  // of codes; then absmax, quant_map, and if nested nested_absmax, nested_quant_map
  const std::function<void(std::string)> write_state_;
  const int64_t block_size_;
  WeightReader reader_;
  std::optional<ErrorFeedback> feedback_;
  const DType values_;         // that are quantized
  std::vector<float> scales_;  // of the whole weight, only for double quantization
  float offset_ = 0;
  int stage_ = 0;
};

// One weight that was quantized before.
class PreparedJob : public StreamJob {
 public:
  PreparedJob(const QuantizeSetup& setup, const TensorPlan& plan,
              std::shared_ptr<const QuantizedTensor> prepared, SafetensorsWriter& writer, size_t first_index,
              std::function<void(std::string)> write_state)
      : setup_(setup),
        plan_(plan),
        prepared_(std::move(prepared)),
        tensor_(*prepared_),
        writer_(writer),
        index_(first_index),
        write_state_(std::move(write_state)) {
    if (tensor_.shape.elements() != plan.input.shape.elements() ||
        tensor_.block_size != setup.options.block_size_of(plan.input.name) ||
        tensor_.double_quantized() != setup.options.quantize.double_quantization ||
        tensor_.codebook.levels != setup.codebook.levels)
      fail(ErrorCode::kInvalidArgument, "tensor '{}': what was prepared for it is quantized in another way",
           plan.input.name);
  }

  int64_t next_stage() override { return stage_++ == 0 ? 1 : 0; }

  uint64_t run(int64_t, Scratch&) override {
    writer_.write(index_, 0, std::as_bytes(std::span(tensor_.codes)));
    if (tensor_.double_quantized()) {
      writer_.write(index_ + 1, 0, std::as_bytes(std::span(tensor_.nested.codes)));
      writer_.write(index_ + 3, 0, std::as_bytes(std::span(tensor_.nested.absmax)));
      writer_.write(index_ + 4, 0, std::as_bytes(std::span(dynamic_codebook().levels)));
    } else {
      writer_.write(index_ + 1, 0, std::as_bytes(std::span(tensor_.scales)));
    }
    writer_.write(index_ + 2, 0, std::as_bytes(std::span(setup_.codebook.levels)));
    write_state_(state_text(setup_, plan_, quantized_shape(plan_), tensor_.nested.offset));
    return plan_.input.bytes;
  }

 private:
  const QuantizeSetup& setup_;
  const TensorPlan& plan_;
  const std::shared_ptr<const QuantizedTensor> prepared_;
  const QuantizedTensor& tensor_;
  SafetensorsWriter& writer_;
  const size_t index_;
  const std::function<void(std::string)> write_state_;
  int stage_ = 0;
};

// A tensor that has other bytes than the input.
class ReplacedJob : public StreamJob {
 public:
  ReplacedJob(const TensorInfo& info, const Tensor& tensor, SafetensorsWriter& writer, size_t index)
      : info_(info), tensor_(tensor), writer_(writer), index_(index) {
    if (tensor.dtype() != info.dtype || tensor.shape() != info.shape)
      fail(ErrorCode::kInvalidArgument, "tensor '{}': replaced by {} {}, expected {} {}", info.name,
           dtype_name(tensor.dtype()), tensor.shape().to_string(), dtype_name(info.dtype),
           info.shape.to_string());
  }

  int64_t next_stage() override { return stage_++ == 0 ? 1 : 0; }
  uint64_t run(int64_t, Scratch&) override {
    writer_.write(index_, 0, tensor_.bytes());
    return info_.bytes;
  }

 private:
  const TensorInfo& info_;
  const Tensor& tensor_;
  SafetensorsWriter& writer_;
  const size_t index_;
  int stage_ = 0;
};

// A stage a tensor.
class CopyJob : public StreamJob {
 public:
  CopyJob(const Checkpoint& input, std::vector<const TensorInfo*> tensors, SafetensorsWriter& writer,
          size_t first_index)
      : input_(input), tensors_(std::move(tensors)), writer_(writer), first_index_(first_index) {}

  int64_t next_stage() override {
    while (++stage_ <= tensors_.size()) {
      const uint64_t bytes = tensors_[stage_ - 1]->bytes;
      if (bytes > 0) return static_cast<int64_t>((bytes + kChunkBytes - 1) / kChunkBytes);
    }
    return 0;
  }

  uint64_t run(int64_t chunk, Scratch& scratch) override {
    const TensorInfo& info = *tensors_[stage_ - 1];
    const uint64_t begin = static_cast<uint64_t>(chunk) * kChunkBytes;
    const auto bytes = scratch.bytes(0, std::min(kChunkBytes, info.bytes - begin));
    input_.read(info, begin, bytes);
    writer_.write(first_index_ + stage_ - 1, begin, bytes);
    return bytes.size();
  }

 private:
  static constexpr uint64_t kChunkBytes = 1 << 20;
  const Checkpoint& input_;
  const std::vector<const TensorInfo*> tensors_;
  SafetensorsWriter& writer_;
  const size_t first_index_;
  size_t stage_ = 0;  // 1 while the first tensor is copied
};

}  // namespace

QuantizeSetup::QuantizeSetup(const Checkpoint& checkpoint, const QuantizeCheckpointOptions& quantize_options)
    : input(checkpoint),
      options(quantize_options),
      codebook(make_codebook(quantize_options.format)),
      table(make_code_table(codebook)),
      converter(device_converter(quantize_options)) {}

std::shared_ptr<BlockConverter> device_converter(const QuantizeCheckpointOptions& options) {
  std::shared_ptr<BlockConverter> converter = block_converter(options.device);
  if (converter == nullptr) return nullptr;
  if (options.prepared)
    fail(ErrorCode::kUnsupported, "weights that were quantized before are none for {} to quantize",
         options.device);
  if (options.quantize.scale != ScaleMethod::kAbsmax)
    fail(ErrorCode::kUnsupported,
         "{} quantizes by absmax alone: scales that are searched, signed ones too, are the CPU's",
         options.device);
  const auto expect = [&](int64_t block_size) {
    if (!converter->takes(block_size))
      fail(ErrorCode::kUnsupported, "{} quantizes in {}: blocks of {} are the CPU's", options.device,
           converter->what_it_takes(), block_size);
  };
  expect(options.quantize.block_size);
  for (const auto& [name, block_size] : options.block_sizes)
    if (block_size != 0) expect(block_size);
  return converter;
}

void check_storage(const TensorPlan& plan, DType storage) {
  const auto code_bytes = static_cast<uint64_t>((plan.input.shape.elements() + 1) / 2);
  if (code_bytes % dtype_bytes(storage) != 0) {
    fail(ErrorCode::kInvalidArgument,
         "tensor '{}': {} bytes of codes do not fill whole elements of {}: use storage uint8",
         plan.input.name, code_bytes, dtype_torch_name(storage));
  }
}

QuantizedLayout quantized_layout(const TensorPlan& plan, const QuantizeCheckpointOptions& options) {
  const std::string& name = plan.input.name;
  const int64_t elements = plan.input.shape.elements();
  const int64_t block_size = options.block_size_of(name);
  const int64_t blocks = block_count(elements, block_size);
  const auto code_elements = (elements + 1) / 2 / static_cast<int64_t>(dtype_bytes(options.storage));
  const bool nested = options.quantize.double_quantization;
  const auto companion = [&](std::string_view suffix) { return name + std::string(suffix); };
  QuantizedLayout layout;
  layout.tensors = {{name, options.storage, Shape({code_elements, 1})},
                    {companion(kAbsmaxSuffix), nested ? DType::kU8 : DType::kF32, Shape({blocks})},
                    {companion(kQuantMapSuffix), DType::kF32, Shape({16})}};
  if (nested) {
    layout.tensors.push_back(
        {companion(kNestedAbsmaxSuffix), DType::kF32, Shape({block_count(blocks, kNestedBlockSize)})});
    layout.tensors.push_back({companion(kNestedQuantMapSuffix), DType::kF32, Shape({256})});
  }
  layout.late = companion(kQuantStateSuffix) + options.format;
  QuantState state;
  state.quant_type = options.format;
  state.block_size = block_size;
  state.dtype = plan.input.dtype;
  state.shape = quantized_shape(plan);
  state.nested = nested;
  layout.bytes = format_quant_state(state).size();
  for (const auto& tensor : layout.tensors) {
    layout.bytes += static_cast<uint64_t>(tensor.shape.elements()) * dtype_bytes(tensor.dtype);
  }
  return layout;
}

std::unique_ptr<StreamJob> make_quantize_job(const QuantizeSetup& setup, const TensorPlan& plan,
                                             SafetensorsWriter& writer, size_t first_index,
                                             std::function<void(std::string)> write_state,
                                             const LoraDelta* delta) {
  std::shared_ptr<const QuantizedTensor> prepared =
      setup.options.prepared && delta == nullptr ? setup.options.prepared(plan.input.name) : nullptr;
  if (prepared != nullptr)
    return std::make_unique<PreparedJob>(setup, plan, std::move(prepared), writer, first_index,
                                         std::move(write_state));
  return std::make_unique<QuantizeJob>(setup, plan, writer, first_index, std::move(write_state), delta);
}

std::unique_ptr<StreamJob> make_plain_job(const QuantizeSetup& setup, const TensorPlan& plan,
                                          SafetensorsWriter& writer, size_t first_index) {
  const Tensor* replaced = setup.options.replaced ? setup.options.replaced(plan.input.name) : nullptr;
  if (replaced != nullptr) return std::make_unique<ReplacedJob>(plan.input, *replaced, writer, first_index);
  return make_copy_job(setup.input, {&plan.input}, writer, first_index);
}

std::unique_ptr<StreamJob> make_copy_job(const Checkpoint& input, std::vector<const TensorInfo*> tensors,
                                         SafetensorsWriter& writer, size_t first_index) {
  return std::make_unique<CopyJob>(input, std::move(tensors), writer, first_index);
}

}  // namespace nfloat
