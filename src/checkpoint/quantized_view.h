// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_CHECKPOINT_QUANTIZED_VIEW_H_
#define NFLOAT_CHECKPOINT_QUANTIZED_VIEW_H_

#include "nfloat/checkpoint.h"
#include "tensor/block_scales.h"

namespace nfloat {

// Valid as long as the view.
inline BlockScales block_scales(const QuantizedView& view) noexcept {
  if (!view.nested) return BlockScales(view.absmax.data());
  return {view.absmax.data(), view.nested_quant_map.data(), view.nested_absmax.data(), view.nested_offset,
          view.nested_block_size};
}

}  // namespace nfloat

#endif  // NFLOAT_CHECKPOINT_QUANTIZED_VIEW_H_
