// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_MODEL_LOADER_H_
#define NFLOAT_MODEL_LOADER_H_

#include <cstdint>
#include <string>

#include "architecture/check_tensors.h"
#include "nfloat/checkpoint.h"
#include "nfloat/model.h"

namespace nfloat {

class Device;

// Throws as that of a checkpoint's list does.
void check_tensors(const Checkpoint& checkpoint, const ModelConfig& config);

// Where the weights go: the device that is named, or this rank's part of the CPU.
std::shared_ptr<Device> device_of(const ModelOptions& options);

// Reads a model whose tensors have been checked.
std::shared_ptr<Model::State> load_state(std::shared_ptr<const Checkpoint> checkpoint,
                                         const ModelConfig& config, const ModelOptions& options);

// Fills `state.memory` from the weights.
void count_memory(Model::State& state) noexcept;

// A stand-in for a model, to measure its speed with: its first `layers` layers, which repeat up to its number
// of layers; the model itself where they are not alike. Throws as Model::load.
Model load_repeating(const std::string& path, const ModelOptions& options, int64_t layers);

// What the packed weights will take, to a few percent: the table of embeddings stays in the mapped file.
uint64_t estimated_bytes(const Checkpoint& checkpoint, const ModelConfig& config,
                         const ModelOptions& options);

// Throws kOutOfMemory, with the numbers, when `what` needs more than there is on the device, or in the host's
// memory where none is given or it takes that.
void check_available_memory(uint64_t needed, const std::string& what, const Device* device = nullptr);

// Bytes of memory that the system would give now (Linux: MemAvailable); 0 when it does not say.
uint64_t available_memory_bytes() noexcept;

}  // namespace nfloat

#endif  // NFLOAT_MODEL_LOADER_H_
