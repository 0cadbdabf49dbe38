// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_CHECKPOINT_QUANT_STATE_H_
#define NFLOAT_CHECKPOINT_QUANT_STATE_H_

#include <string>
#include <string_view>

#include "nfloat/tensor.h"

// The layout of a bitsandbytes 4-bit weight in a checkpoint: what hangs on the weight's name, and the JSON of
// its quant_state (bitsandbytes functional.py, QuantState.as_dict).
namespace nfloat {

inline constexpr std::string_view kAbsmaxSuffix = ".absmax";
inline constexpr std::string_view kQuantMapSuffix = ".quant_map";
inline constexpr std::string_view kNestedAbsmaxSuffix = ".nested_absmax";
inline constexpr std::string_view kNestedQuantMapSuffix = ".nested_quant_map";
inline constexpr std::string_view kQuantStateSuffix = ".quant_state.bitsandbytes__";  // and the quant_type

struct QuantState {
  std::string quant_type;  // "nf4" or "fp4"
  int64_t block_size = 64;
  DType dtype = DType::kBF16;
  Shape shape;
  bool nested = false;
  int64_t nested_block_size = 256;
  float nested_offset = 0;
};

// Python's json.dumps of the state: keys in bitsandbytes' order, ", " and ": ", floats as Python prints them.
std::string format_quant_state(const QuantState& state);

// Throws kMalformedFile, `where` naming file and tensor: syntax, missing keys, types, an unknown quant_type
// or dtype, a block size below 1, negative or overflowing shape, non-finite offset.
QuantState parse_quant_state(std::string_view json, const std::string& where);

}  // namespace nfloat

#endif  // NFLOAT_CHECKPOINT_QUANT_STATE_H_
