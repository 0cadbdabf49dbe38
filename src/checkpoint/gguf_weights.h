// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_CHECKPOINT_GGUF_WEIGHTS_H_
#define NFLOAT_CHECKPOINT_GGUF_WEIGHTS_H_

#include <map>
#include <string>
#include <vector>

#include "nfloat/checkpoint.h"
#include "nfloat/gguf.h"

namespace nfloat {

// A GGUF file as a Hugging Face folder: names, order of rows and files as that would have them. Weights in
// blocks are decoded when they are asked for, into memory that the view owns.
class GgufWeights {
 public:
  GgufWeights(const std::string& path, const CheckpointOptions& options);

  const std::vector<std::string>& files() const noexcept { return file_.files(); }
  // In the order of the file. `offset` is that of the stored bytes, `bytes` the size of the decoded ones.
  const std::vector<TensorInfo>& tensors() const noexcept { return tensors_; }
  const std::map<std::string, std::string>& texts() const noexcept { return texts_; }

  TensorView view(size_t tensor) const;
  void read(size_t tensor, uint64_t begin, std::span<std::byte> output) const;
  // True for weights whose codes go to the kernels as they are.
  bool is_packed(size_t tensor) const noexcept;
  QuantizedView packed(size_t tensor) const;
  void release(const TensorView& view) const noexcept { file_.release(view.bytes); }

 private:
  struct Source {
    const GgufTensor* stored = nullptr;
    int64_t head_dim = 0;  // rows are interleaved in heads of this size; 0: they are not
  };

  // Row `row` as it is stored, of the plain matrix's row order.
  std::span<const std::byte> stored_row(const Source& source, int64_t row) const;
  void decode_row(const Source& source, int64_t row, std::span<float> values) const;

  GgufFile file_;
  CheckpointOptions options_;
  std::vector<TensorInfo> tensors_;
  std::vector<Source> sources_;  // beside tensors_
  std::map<std::string, std::string> texts_;
};

}  // namespace nfloat

#endif  // NFLOAT_CHECKPOINT_GGUF_WEIGHTS_H_
