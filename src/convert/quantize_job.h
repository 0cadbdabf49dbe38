// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_CONVERT_QUANTIZE_JOB_H_
#define NFLOAT_CONVERT_QUANTIZE_JOB_H_

#include <memory>

#include "checkpoint/quant_state.h"
#include "checkpoint/safetensors_writer.h"
#include "convert/lora.h"
#include "convert/stream.h"
#include "engine/block_converter.h"
#include "nfloat/convert.h"
#include "quantize/blocks.h"

namespace nfloat {

// The code and its tables, shared by the jobs of one conversion.
struct QuantizeSetup {
  const Checkpoint& input;
  const QuantizeCheckpointOptions& options;
  Codebook codebook;
  kernels::CodeTable table;
  std::shared_ptr<BlockConverter> converter;  // of the device; null: the CPU
  QuantizeSetup(const Checkpoint& checkpoint, const QuantizeCheckpointOptions& quantize_options);
};

// What quantizes on options.device, or null for the CPU. Throws kUnsupported where it cannot do what the
// options ask for.
std::shared_ptr<BlockConverter> device_converter(const QuantizeCheckpointOptions& options);

// What a quantized weight becomes in the file: `late` is the name of its quant_state.
struct QuantizedLayout {
  std::vector<SafetensorsWriter::Declared> tensors;
  std::string late;
  uint64_t bytes = 0;  // quant_state included, give or take the digits of the offset
};
QuantizedLayout quantized_layout(const TensorPlan& plan, const QuantizeCheckpointOptions& options);
// Throws kInvalidArgument when the packed codes do not fill whole elements of the storage dtype.
void check_storage(const TensorPlan& plan, DType storage);

// Writes the layout's tensors at writer indices first_index and on, and gives the quant_state text when done.
// With `delta`, of the weight and what the adapter adds to it, summed in float32.
std::unique_ptr<StreamJob> make_quantize_job(const QuantizeSetup& setup, const TensorPlan& plan,
                                             SafetensorsWriter& writer, size_t first_index,
                                             std::function<void(std::string)> write_state,
                                             const LoraDelta* delta = nullptr);

// Writes a tensor that stays plain, as it is or as the options replace it.
std::unique_ptr<StreamJob> make_plain_job(const QuantizeSetup& setup, const TensorPlan& plan,
                                          SafetensorsWriter& writer, size_t first_index);

// Copies the bytes of tensors as they are, to writer indices first_index and on.
std::unique_ptr<StreamJob> make_copy_job(const Checkpoint& input, std::vector<const TensorInfo*> tensors,
                                         SafetensorsWriter& writer, size_t first_index);

}  // namespace nfloat

#endif  // NFLOAT_CONVERT_QUANTIZE_JOB_H_
