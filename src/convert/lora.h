// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_CONVERT_LORA_H_
#define NFLOAT_CONVERT_LORA_H_

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "nfloat/checkpoint.h"

namespace nfloat {

// What an adapter makes of one tensor of the base, in the order in which the base holds it: the base's values
// or, `whole`, the adapter's own; plus up * down (LoRA, Hu et al. 2021, section 4.1); times a factor for each
// output (DoRA, Liu et al. 2024, section 4.1: trained length over the length of the sum's row).
struct LoraDelta {
  int64_t rows = 0, cols = 0, rank = 0;
  std::vector<float> up;                   // [rows, rank], the adapter's scale included
  std::vector<float> down;                 // [rank, cols]
  std::vector<float> factors;              // DoRA: one a row, or a column; empty: none
  bool factors_of_columns = false;         // of a base that is held as [in, out]
  std::shared_ptr<const Checkpoint> file;  // of `whole`
  const TensorInfo* whole = nullptr;

  // Turns base values begin, begin + 1, ... into merged ones, in float32; the same whatever the ranges.
  // Throws kIo.
  void apply(int64_t begin, std::span<float> values) const;
};

// A LoRA adapter as PEFT saves it: adapter_config.json and adapter_model.safetensors. Plain and
// rank-stabilized LoRA of linear layers and embeddings, DoRA, lora_bias, trained biases and whole modules.
class LoraAdapter {
 public:
  // Throws kNotFound, kMalformedFile (naming file and tensor; a tensor that `base` does not have, a shape
  // that does not fit, a part of the adapter without its other parts), kNotFinite, kUnsupported (what
  // AdapterConfig refuses, tensors that are not understood, an embedding and a head that are tied where one
  // cannot tell which tensors these are, PyTorch .bin files): nothing of the adapter is passed over.
  LoraAdapter(const std::string& folder, const Checkpoint& base);

  // What it adds counts `weight` times. Throws kUnsupported for other weights than 1 where it does more than
  // add: DoRA, whole tensors.
  void weigh(double weight);

  const LoraDelta* find(const std::string& weight) const noexcept;  // null: it stays as it is
  size_t size() const noexcept { return deltas_.size(); }
  // Where the base ties embedding and head and the adapter changes them differently, the merged model has a
  // head of its own, which begins with the embedding's values: its name, under which find() gives what is
  // added to them. Else empty.
  const std::string& untied_head() const noexcept { return untied_head_; }
  const std::string& tied_embedding() const noexcept { return tied_embedding_; }  // its tensor
  // Matrices of the base for which adapter_config.json (target_modules, layers_to_transform) asks for a pair
  // that the adapter's file does not have, one sentence; empty where there are none.
  const std::string& missing() const noexcept { return missing_; }
  // By the tensor's name in the base, or untied_head().
  const std::map<std::string, LoraDelta>& deltas() const noexcept { return deltas_; }

 private:
  std::map<std::string, LoraDelta> deltas_;
  std::string untied_head_, tied_embedding_, missing_;
};

}  // namespace nfloat

#endif  // NFLOAT_CONVERT_LORA_H_
