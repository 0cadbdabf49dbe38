// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_MODEL_LOADER_H_
#define NFLOAT_MODEL_LOADER_H_

#include <cstdint>
#include <string>
#include <vector>

#include "nfloat/checkpoint.h"
#include "nfloat/model.h"

namespace nfloat {

// One tensor that a model needs, with the shape that its configuration demands.
struct ExpectedTensor {
  std::string name;
  Shape shape;
};

// In the order of the forward pass.
std::vector<ExpectedTensor> expected_tensors(const ModelConfig& config);

// Throws kMalformedFile naming every tensor that is missing and every one of another shape or dtype.
void check_tensors(const Checkpoint& checkpoint, const ModelConfig& config);

// Fills `state.memory` from the weights.
void count_memory(Model::State& state) noexcept;

// Throws kOutOfMemory, with the numbers, when `what` needs more than there is.
void check_available_memory(uint64_t needed, const std::string& what);

// Bytes of memory that the system would give now (Linux: MemAvailable); 0 when it does not say.
uint64_t available_memory_bytes() noexcept;

}  // namespace nfloat

#endif  // NFLOAT_MODEL_LOADER_H_
