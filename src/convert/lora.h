// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_CONVERT_LORA_H_
#define NFLOAT_CONVERT_LORA_H_

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "nfloat/checkpoint.h"

namespace nfloat {

// What a low-rank adapter adds to one weight: up * down (LoRA, Hu et al. 2021, section 4.1), in the order in
// which the checkpoint holds the weight.
struct LoraDelta {
  int64_t rows = 0, cols = 0, rank = 0;
  std::vector<float> up;    // [rows, rank], the adapter's scale included
  std::vector<float> down;  // [rank, cols]

  // values[i] += what it adds to element begin + i, in float32; the same whatever the ranges.
  void add(int64_t begin, std::span<float> values) const noexcept;
};

// A LoRA adapter as PEFT saves it: adapter_config.json and adapter_model.safetensors.
class LoraAdapter {
 public:
  // Throws kNotFound, kMalformedFile (naming file and tensor; a weight that `base` does not have, a shape
  // that does not fit), kNotFinite, kUnsupported (adapters of another kind: DoRA, embeddings, whole modules,
  // PyTorch .bin files).
  LoraAdapter(const std::string& folder, const Checkpoint& base);

  const LoraDelta* find(const std::string& weight) const noexcept;  // null: it stays as it is
  size_t size() const noexcept { return deltas_.size(); }

 private:
  std::map<std::string, LoraDelta> deltas_;  // by the weight's name in the base
};

}  // namespace nfloat

#endif  // NFLOAT_CONVERT_LORA_H_
