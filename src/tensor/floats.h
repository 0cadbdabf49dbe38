// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_TENSOR_FLOATS_H_
#define NFLOAT_TENSOR_FLOATS_H_

#include <span>
#include <vector>

#include "nfloat/tensor.h"

namespace nfloat {

// The elements as float32. Throws what convert_elements throws.
inline std::vector<float> floats_of(const TensorView& view) {
  std::vector<float> values(static_cast<size_t>(view.elements()));
  convert_elements(view, DType::kF32, std::as_writable_bytes(std::span(values)));
  return values;
}

}  // namespace nfloat

#endif  // NFLOAT_TENSOR_FLOATS_H_
