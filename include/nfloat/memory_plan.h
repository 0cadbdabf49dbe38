// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_MEMORY_PLAN_H_
#define NFLOAT_MEMORY_PLAN_H_

#include <cstdint>
#include <string>
#include <vector>

#include "nfloat/api.h"
#include "nfloat/model_size.h"

// The memory that a model needs, computed from config.json alone.
namespace nfloat {

// `path`: config.json, or a folder that holds one; with safetensors beside it the parameters are counted in
// the files, else, and when others than bitsandbytes quantized them, computed from the configuration. Throws
// kNotFound, kMalformedFile, kUnsupported naming the missing key.
NFLOAT_API ModelSize measure_model(const std::string& path);

struct MemoryPlanRow {
  std::string format;          // "NF4, blocks of 64, double quantization"
  double bits_per_weight = 0;  // of the linear weights
  uint64_t weight_bytes = 0;   // embeddings, head and the rest at 16 bits included
  uint64_t kv_cache_bytes = 0;
  uint64_t working_bytes = 0;  // activations of a prefill and the logits
  int64_t largest_context =
      0;  // that fits into the memory, at most max_context if that is known; 0: not even one token
  uint64_t peak_bytes() const noexcept { return weight_bytes + kv_cache_bytes + working_bytes; }
};

// One row a format, widest first. `memory_bytes` 0: no limit, largest_context stays 0. KV cache in f16.
// Throws kInvalidArgument for a context of no tokens, or more than 2^40.
NFLOAT_API std::vector<MemoryPlanRow> plan_memory(const ModelSize& model, uint64_t memory_bytes,
                                                  int64_t context);

// What of it lies on a device that runs the model (ModelOptions::device), with `memory_bytes` free there: the
// matrices as the device keeps them, the head's own copy even where it is tied, norms and learned positions
// in float32; embeddings stay in the file. Keys and values in f16, whole pages of all layers. The working
// memory is that of a pass and what an allocator rounds up. Throws kUnsupported for a model that is not run.
NFLOAT_API std::vector<MemoryPlanRow> plan_device_memory(const ModelSize& model, uint64_t memory_bytes,
                                                         int64_t context);

}  // namespace nfloat

#endif  // NFLOAT_MEMORY_PLAN_H_
