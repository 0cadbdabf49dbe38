// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_CHECKPOINT_H_
#define NFLOAT_CHECKPOINT_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "nfloat/api.h"
#include "nfloat/codebook.h"
#include "nfloat/tensor.h"

namespace nfloat {

// One tensor of a checkpoint, as its file's header describes it.
struct TensorInfo {
  std::string name;
  DType dtype = DType::kF32;
  Shape shape;
  size_t file = 0;      // index into Checkpoint::files()
  uint64_t offset = 0;  // of its first byte in that file
  uint64_t bytes = 0;
};

// A tensor whose elements have a type that nfloat does not know: it can be listed, and nothing else.
struct UnknownTensor {
  std::string name, dtype;  // as the header has them, at most 4096 bytes of any kind
  Shape shape;
  uint64_t bytes = 0;  // in the file
};

// The parts of one bitsandbytes 4-bit weight, borrowed from the mapped files.
// value = level(code) * scale, scale[i] = absmax[i], or nested_map[absmax[i]] * nested_absmax[i/256] +
// offset.
struct QuantizedView {
  std::string quant_type;      // "nf4" or "fp4"
  DType dtype = DType::kBF16;  // what the weight was before
  Shape shape;                 // [out, in]
  int64_t block_size = 64;
  TensorView codes;      // (elements + 1) / 2 bytes whatever the storage dtype
  TensorView absmax;     // F32 [blocks], or U8 [blocks] when nested
  TensorView quant_map;  // F32 [16]
  bool nested = false;
  int64_t nested_block_size = 256;
  float nested_offset = 0;
  TensorView nested_absmax;     // F32
  TensorView nested_quant_map;  // F32 [256]
};

// How weights that the files store in blocks are presented.
struct CheckpointOptions {
  // F32, F16 or BF16: what those of GGUF files, 8-bit floats and MXFP4 are decoded to.
  DType decoded = DType::kBF16;
  // Q4_0, IQ4_NL, IQ4_XS and MXFP4 matrices appear as quantized, with their own codes, levels and scales.
  bool packed = false;
  // Experts in MXFP4 are shown as gpt-oss stores them, "W_blocks" [experts, out, in/32, 16] and "W_scales",
  // and not as the values "W" [experts, in, out].
  bool keep_mxfp4 = false;
  // For a look at what files hold: tensors of types that are not known are in unknown(), not refused. Where
  // there are any, all others are shown as they are stored.
  bool list_unknown = false;
};

// A checkpoint opened for reading: a Hugging Face folder (model.safetensors, or shards with their index), one
// .safetensors file, or a .gguf file, which is shown as the folder that its model would be: names, order of
// rows, config.json and tokenizer files (nfloat/gguf.h shows it as it is). What other programs stored as
// 8-bit floats with scales or as MXFP4 is shown as values, under the names that Transformers gives them;
// codes of other methods are shown as they are, and foreign_refusal() names them. Files are mapped, headers
// checked whole: every length, offset, overlap, gap, name. Throws kMalformedFile, kNotFound, kUnsupported
// (types that are not known; PyTorch .bin files, with what to do), naming file and tensor.
class NFLOAT_API Checkpoint {
 public:
  explicit Checkpoint(const std::string& path, const CheckpointOptions& options = {});
  Checkpoint(Checkpoint&&) noexcept;
  Checkpoint& operator=(Checkpoint&&) noexcept;
  ~Checkpoint();

  const std::string& path() const noexcept;
  bool is_folder() const noexcept;  // or shown as one
  bool is_gguf() const noexcept;
  const std::vector<std::string>& files() const noexcept;        // paths of the safetensors files
  const std::vector<TensorInfo>& tensors() const noexcept;       // in file order, then offset
  const TensorInfo* find(std::string_view name) const noexcept;  // null if absent
  // Beside tensors(), with CheckpointOptions::list_unknown; else empty.
  const std::vector<UnknownTensor>& unknown() const noexcept;
  // The "__metadata__" of file `index`.
  const std::map<std::string, std::string>& metadata(size_t file) const;

  // The bytes of a tensor, whatever its dtype. They may lie at any address: F32 data need not be aligned
  // to 4. Throws kNotFound.
  TensorView view(std::string_view name) const;
  TensorView view(const TensorInfo& info) const;
  // Names of the tensors that belong to `name` when it is quantized: absmax, quant_map, quant_state, nested
  // ones.
  std::vector<std::string> companions(std::string_view name) const;
  // True when `name` ("model.layers.0.mlp.up_proj.weight") has a quant_state companion.
  bool is_quantized(std::string_view name) const noexcept;
  // Its parts, checked against one another. Throws kMalformedFile naming the tensor and what disagrees.
  QuantizedView quantized(std::string_view name) const;
  // How its elements are stored: "BF16", "nf4", "F8_E4M3", "MXFP4", of a GGUF file "Q4_K".
  std::string stored_type(std::string_view name) const;
  // Bytes of a weight in the files, its companions and scales with it; of a GGUF file, of what is shown.
  uint64_t stored_bytes(std::string_view name) const;
  // The weight's own shape, quantized or not. Throws as quantized() does, and kNotFound.
  Shape weight_shape(std::string_view name) const;
  // Logical weights: every tensor that is not a companion of a quantized one.
  std::vector<std::string> weight_names() const;

  // The method by which another program quantized the tensors, and the evidence: "gptq", "FP8 in blocks
  // ('...weight_scale_inv')". Empty for plain weights, bitsandbytes in 4 bits and GGUF.
  const std::string& foreign_method() const noexcept;
  // The same and the reason, where the tensors are not the values of weights; else empty.
  const std::string& foreign_refusal() const noexcept;

  // Text of a file of the folder ("config.json"); empty if absent, "\n" for an empty .json file.
  // Throws kIo, kMalformedFile above 64 MiB, kInvalidArgument for a name that leads out of the folder.
  std::string text_file(const std::string& name) const;
  // Names of the text files derived from a GGUF file; empty for other inputs.
  std::vector<std::string> made_files() const;

  // Copies bytes [begin, begin + output.size()) of a tensor with a positioned read: nothing stays mapped, and
  // a file that shrinks meanwhile is a kIo error. Safe from several threads.
  void read(const TensorInfo& info, uint64_t begin, std::span<std::byte> output) const;

  // Drops the pages under `view` from resident memory, or asks for them ahead.
  void release(const TensorView& view) const noexcept;
  void prefetch(const TensorView& view) const noexcept;
  // From now on files are read where they are used or prefetched, not around that too; those of GGUF as
  // before.
  void expect_places() const noexcept;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// Where the Hugging Face cache keeps "org/model" (HF_HUB_CACHE, HF_HOME, ~/.cache/huggingface/hub), or `path`
// itself when it exists. Throws kNotFound naming the places searched.
NFLOAT_API std::string resolve_model_path(const std::string& path);

struct NamedTensor {
  std::string name;
  TensorView view;
};
// Writes one .safetensors file, whole or not at all. Throws kInvalidArgument (two tensors of one name, an
// empty one), kAlreadyExists without `overwrite`, kIo.
NFLOAT_API void save_tensors(const std::string& path, std::span<const NamedTensor> tensors,
                             bool overwrite = false);

}  // namespace nfloat

#endif  // NFLOAT_CHECKPOINT_H_
