// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_CHECKPOINT_FOREIGN_H_
#define NFLOAT_CHECKPOINT_FOREIGN_H_

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "nfloat/checkpoint.h"

// Checkpoints that other programs quantized: which of them can be read as values, and the name of the rest.
namespace nfloat {

// A tensor of values that the files hold as codes, with scales beside them or, of 8-bit floats, without.
struct ScaledTensor {
  std::string name;  // of the values, as Transformers names them
  bool mxfp4 = false;
  size_t codes = 0;              // index into the tensors of the files
  std::optional<size_t> scales;  // likewise
  Shape shape;                 // of the values; of MXFP4 [experts, in, out], the codes are [experts, out, in]
  std::vector<int64_t> block;  // 8-bit floats: values that share a scale, along each axis
};

struct Foreign {
  // How the tensors were quantized and what shows it: "gptq", "FP8 in blocks ('...weight_scale_inv')". Empty
  // for plain weights and for those of bitsandbytes in 4 bits.
  std::string method;
  std::string refusal;               // why they are not read as values; empty when they are
  std::vector<ScaledTensor> scaled;  // empty when refused
  std::vector<size_t> companions;    // tensors that say nothing once `scaled` are values
};

struct ForeignInput {
  const std::vector<TensorInfo>& tensors;  // of the files
  std::function<const TensorInfo*(std::string_view)> find;
  std::function<std::string(const std::string&)> text_file;
  bool keep_mxfp4 = false;  // MXFP4 stays codes and scales
};

// Reads 8-bit floats (E4M3, E5M2) that a scale multiplies: "W_scale_inv" or "W_scale" for "W", one for all,
// for each row, or for each block of values (quantization_config: weight_block_size, block_structure,
// group_size; without it, blocks that divide the weight into powers of two); 8-bit floats of a checkpoint
// without any scale; MXFP4 of "W_blocks" and "W_scales". Everything else is refused, the whole checkpoint.
Foreign recognize_foreign(const ForeignInput& input);

// The files that describe such a checkpoint besides config.json.
bool is_foreign_description(std::string_view file_name) noexcept;

// Throws kUnsupported when the tensors of `input` are not the values of its weights.
void expect_readable(const Checkpoint& input);

}  // namespace nfloat

#endif  // NFLOAT_CHECKPOINT_FOREIGN_H_
