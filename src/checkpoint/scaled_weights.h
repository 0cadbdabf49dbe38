// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_CHECKPOINT_SCALED_WEIGHTS_H_
#define NFLOAT_CHECKPOINT_SCALED_WEIGHTS_H_

#include <functional>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/string_hash.h"
#include "checkpoint/foreign.h"
#include "nfloat/checkpoint.h"

namespace nfloat {

// The tensors of safetensors files with those that are codes and scales shown as values.
class ScaledWeights {
 public:
  // How the bytes of a tensor of the files are had.
  struct Files {
    std::function<TensorView(const TensorInfo&)> view;
    std::function<void(const TensorInfo&, uint64_t begin, std::span<std::byte>)> read;
    std::function<void(const TensorView&)> release;
  };

  // `decoded`: the type of the values, F32, F16 or BF16.
  ScaledWeights(std::vector<TensorInfo> stored, Foreign foreign, DType decoded);

  const std::vector<TensorInfo>& shown() const noexcept { return shown_; }
  // Null for tensors that are shown as they are.
  const ScaledTensor* find(std::string_view name) const noexcept;
  std::string_view stored_type(const ScaledTensor& tensor) const noexcept;  // "F8_E4M3", "MXFP4"
  uint64_t stored_bytes(const ScaledTensor& tensor) const noexcept;         // with its scales

  // Bytes of the values from `begin` on: code times scale in float32, rounded once to the type shown. Throws
  // kInvalidArgument for parts of elements.
  void read(const TensorInfo& shown, const ScaledTensor& tensor, uint64_t begin, std::span<std::byte> output,
            const Files& files) const;

 private:
  const TensorInfo& codes(const ScaledTensor& tensor) const noexcept { return stored_[tensor.codes]; }
  const TensorInfo* scales(const ScaledTensor& tensor) const noexcept { return &stored_[*tensor.scales]; }

  std::vector<TensorInfo> stored_, shown_;
  std::vector<ScaledTensor> scaled_;
  std::unordered_map<std::string, const ScaledTensor*, StringHash, std::equal_to<>> by_name_;
};

}  // namespace nfloat

#endif  // NFLOAT_CHECKPOINT_SCALED_WEIGHTS_H_
