// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_TESTS_SUPPORT_PACK_SOURCE_H_
#define NFLOAT_TESTS_SUPPORT_PACK_SOURCE_H_

#include "nfloat/linear.h"
#include "nfloat/quantize.h"

namespace nfloat::testing {

// A quantized matrix as products take it; borrows from `tensor`.
inline PackSource source_of(const QuantizedTensor& tensor) {
  PackSource source;
  source.codes = tensor.codes;
  source.levels = tensor.codebook.levels;
  source.rows = tensor.shape[0];
  source.cols = tensor.shape[1];
  source.block_size = tensor.block_size;
  if (tensor.double_quantized()) {
    source.nested_codes = tensor.nested.codes;
    source.nested_absmax = tensor.nested.absmax;
    source.nested_map = dynamic_codebook().levels;
    source.nested_offset = tensor.nested.offset;
    source.nested_block_size = kNestedBlockSize;
  } else {
    source.scales = tensor.scales;
  }
  return source;
}

}  // namespace nfloat::testing

#endif  // NFLOAT_TESTS_SUPPORT_PACK_SOURCE_H_
