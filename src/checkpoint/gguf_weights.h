// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_CHECKPOINT_GGUF_WEIGHTS_H_
#define NFLOAT_CHECKPOINT_GGUF_WEIGHTS_H_

#include <map>
#include <string>
#include <vector>

#include "llama_cpp/architectures.h"
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
  // Throws kInvalidArgument unless the range is one of whole elements.
  void read(size_t tensor, uint64_t begin, std::span<std::byte> output) const;
  // True for weights whose codes go to the kernels as they are.
  bool is_packed(size_t tensor) const noexcept;
  QuantizedView packed(size_t tensor) const;
  std::string_view stored_type(size_t tensor) const noexcept;
  // Of the matrix itself: [out, in] of packed ones also where the family keeps plain ones as [in, out].
  Shape packed_shape(size_t tensor) const;
  void release(const TensorView& view) const noexcept { file_.release(view.bytes); }

 private:
  enum class Part : uint8_t { kValues, kMxfp4Codes, kMxfp4Scales };

  // Rows of a stored tensor that belong to a shown one.
  struct Piece {
    const GgufTensor* stored = nullptr;
    GgufRowMap map;
    int64_t elements = 1;  // of a stored row; a vector's rows are its elements
  };
  struct Source {
    std::vector<Piece> pieces;  // two where rows alternate
    Part part = Part::kValues;
    bool transposed = false;  // shown with the last two dimensions exchanged
    bool minus_one = false;
    int64_t cols = 1;  // elements of a row as pieces have it
  };

  struct Row {
    const GgufTensor* stored;
    std::span<const std::byte> bytes;
  };
  // Row `row`, not transposed, as it is stored.
  Row stored_row(const Source& source, int64_t row) const;
  void add(const GgufNameMatch& match, const GgufTensor& stored, const GgufHeads& heads, int64_t experts);
  void add_shown(const std::string& name, Shape shape, DType dtype, Source source);
  // The bytes as they are in the file, when they are what is shown; else empty.
  std::span<const std::byte> shown_as_stored(size_t tensor) const;
  // `count` values of row `row` from element `first` on, as float32.
  void decode(const Source& source, int64_t row, int64_t first, std::span<float> values) const;
  void read_rows(const TensorInfo& info, const Source& source, int64_t begin, int64_t count,
                 std::byte* output) const;
  void read_turned(const TensorInfo& info, const Source& source, int64_t begin, int64_t count,
                   std::byte* output) const;
  void release_rows(const Source& source, int64_t first, int64_t last) const noexcept;
  void read_mxfp4(const Source& source, uint64_t begin, std::span<std::byte> output) const;

  GgufFile file_;
  CheckpointOptions options_;
  const GgufArchitecture& architecture_;
  std::vector<TensorInfo> tensors_;
  std::vector<Source> sources_;  // beside tensors_
  std::map<std::string, std::string> texts_;
};

}  // namespace nfloat

#endif  // NFLOAT_CHECKPOINT_GGUF_WEIGHTS_H_
