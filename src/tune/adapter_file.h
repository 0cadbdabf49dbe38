// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_TUNE_ADAPTER_FILE_H_
#define NFLOAT_TUNE_ADAPTER_FILE_H_

#include <span>
#include <string>
#include <vector>

#include "nfloat/checkpoint.h"
#include "tune/adapter.h"

namespace nfloat {

// One float32 tensor of a file to be written.
struct NamedFloats {
  std::string name;
  Shape shape;
  std::span<const float> values;
};

// A safetensors file with PEFT's metadata. Throws kIo.
void write_floats(const std::string& path, const std::vector<NamedFloats>& tensors);

// Reads a whole float tensor (F32, F16, BF16) of `shape`. Throws kNotFound, kMalformedFile naming file and
// tensor, also for values that are not finite.
std::vector<float> read_floats(const Checkpoint& file, const std::string& name, const Shape& shape);

// "base_model.model." + module + ".lora_A.weight".
std::string a_name(const LoraModule& module);
std::string b_name(const LoraModule& module);
std::string magnitude_name(const LoraModule& module);

// adapter_model.safetensors and adapter_config.json, as PEFT writes and reads them, into a folder that is
// there.
void write_adapter(const std::string& folder, const Model::State& model, const Adapter& adapter,
                   const TrainOptions& options, const std::string& base);

// An adapter that PEFT saved for this model; `options` take its rank and alpha. Scaling by the root and DoRA
// are its own, or what the options ask for; scale * B A and the lengths of rows are the file's either way.
// Throws kMalformedFile for shapes and names that are not the model's, kUnsupported for parts that are not
// trained here (biases, embeddings, whole modules), naming file and tensor.
Adapter read_adapter(const std::string& folder, const Model::State& model, TrainOptions& options);

}  // namespace nfloat

#endif  // NFLOAT_TUNE_ADAPTER_FILE_H_
