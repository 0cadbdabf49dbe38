// SPDX-License-Identifier: Apache-2.0
#include "quantize/blocks.h"

#include <algorithm>
#include <limits>

#include "base/fail.h"
#include "kernels/dispatch.h"

namespace nfloat {
namespace {

kernels::ElementType element_type(DType dtype) noexcept {
  return dtype == DType::kF32   ? kernels::ElementType::kF32
         : dtype == DType::kF16 ? kernels::ElementType::kF16
                                : kernels::ElementType::kBF16;
}

kernels::BlocksArgs blocks_args(const BlockRange& range, const kernels::CodeTable& table) noexcept {
  return {range.weights, element_type(range.dtype), range.elements, range.block_size, &table};
}

}  // namespace

kernels::CodeTable make_code_table(const Codebook& codebook) {
  if (codebook.levels.size() > 16) {
    fail(ErrorCode::kInvalidArgument, "code '{}' has {} levels, at most 16 fit into 4 bits", codebook.name,
         codebook.levels.size());
  }
  kernels::CodeTable table{};
  const size_t count = codebook.levels.size();
  for (size_t i = 0; i < 16; ++i) {
    table.levels[i] = codebook.levels[std::min(i, count - 1)];
    table.thresholds[i] = i + 1 < count ? codebook.thresholds[i] : std::numeric_limits<float>::infinity();
    table.code_of_rank[i] = codebook.code_of_rank[std::min(i, count - 1)];
  }
  return table;
}

int64_t fit_scales(const BlockRange& range, const kernels::CodeTable& table, ScaleMethod method,
                   float* scales) noexcept {
  const kernels::QuantizeKernels& kernel = kernels::table().quantize;
  const kernels::BlocksArgs args = blocks_args(range, table);
  return method == ScaleMethod::kAbsmax ? kernel.absmax(args, scales)
                                        : kernel.fit(args, method == ScaleMethod::kSigned, scales);
}

int64_t quantize_blocks(const BlockRange& range, const kernels::CodeTable& table, float* scales,
                        uint8_t* codes) noexcept {
  return kernels::table().quantize.quantize(blocks_args(range, table), scales, codes);
}

void encode_blocks(const BlockRange& range, const kernels::CodeTable& table, const float* scales,
                   uint8_t* codes) noexcept {
  kernels::table().quantize.encode(blocks_args(range, table), scales, codes);
}

void decode_blocks(const uint8_t* codes, const float* scales, const kernels::CodeTable& table,
                   int64_t elements, int64_t block_size, DType dtype, void* output, bool stream) noexcept {
  kernels::table().quantize.decode(
      {codes, scales, &table, elements, block_size, element_type(dtype), output, stream});
}

}  // namespace nfloat
