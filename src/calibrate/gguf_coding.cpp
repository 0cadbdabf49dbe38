// SPDX-License-Identifier: Apache-2.0
#include "calibrate/gguf_coding.h"

#include <cstring>

#include "base/fail.h"
#include "base/float16.h"
#include "base/parallel.h"
#include "nfloat/calibrate.h"

namespace nfloat {
namespace {

constexpr size_t kBlockBytes = 2 + kGgufBlock / 2;

}  // namespace

float gguf_unit(GgufType type) noexcept {
  return -gguf_levels(type).front();
}

Codebook gguf_codebook(GgufType type) {
  if (type != GgufType::kQ4_0 && type != GgufType::kIQ4_NL)
    fail(ErrorCode::kUnsupported, "{} is not calibrated: Q4_0 and IQ4_NL are", gguf_type_info(type).name);
  std::vector<double> levels;
  for (const float level : gguf_levels(type))
    levels.push_back(static_cast<double>(level) / static_cast<double>(gguf_unit(type)));
  return codebook_from_levels(std::string(gguf_type_info(type).name), levels);
}

QuantizedTensor gguf_rounded(GgufType type, std::span<const float> weights, int64_t rows, int64_t columns,
                             int threads) {
  QuantizedTensor tensor;
  tensor.codebook = gguf_codebook(type);
  tensor.shape = {rows, columns};
  tensor.block_size = kGgufBlock;
  tensor.codes.resize(weights.size() / 2);
  tensor.scales.resize(weights.size() / kGgufBlock);
  const float unit = gguf_unit(type);
  parallel_for(tensor.blocks(), 1024, threads, [&](int64_t begin, int64_t end) {
    uint8_t block[kBlockBytes];
    for (int64_t b = begin; b < end; ++b) {
      const auto at = static_cast<size_t>(b);
      encode_gguf(type, weights.subspan(at * kGgufBlock, kGgufBlock),
                  std::as_writable_bytes(std::span(block)));
      uint16_t half = 0;
      std::memcpy(&half, block, sizeof half);
      tensor.scales[at] = unit * f16_to_float(half);
      uint8_t* codes = tensor.codes.data() + at * kGgufBlock / 2;
      const auto code = [&](int i) { return i < 16 ? block[2 + i] & 15 : block[2 + i - 16] >> 4; };
      for (int i = 0; i < kGgufBlock; i += 2) codes[i / 2] = static_cast<uint8_t>(code(i) << 4 | code(i + 1));
    }
  });
  return tensor;
}

std::vector<std::byte> gguf_blocks(const QuantizedTensor& tensor, GgufType type) {
  const Codebook codebook = gguf_codebook(type);
  if (tensor.block_size != kGgufBlock || tensor.double_quantized() ||
      tensor.codebook.levels != codebook.levels)
    fail(ErrorCode::kInvalidArgument, "the tensor is not coded as {}", gguf_type_info(type).name);
  const float unit = gguf_unit(type);
  std::vector<std::byte> result(static_cast<size_t>(tensor.blocks()) * kBlockBytes);
  std::byte* to = result.data();
  for (size_t b = 0; b < tensor.scales.size(); ++b, to += kBlockBytes) {
    const uint16_t half = float_to_f16(tensor.scales[b] / unit);
    std::memcpy(to, &half, sizeof half);
    const uint8_t* codes = tensor.codes.data() + b * kGgufBlock / 2;
    const auto code = [&](int i) { return i % 2 == 0 ? codes[i / 2] >> 4 : codes[i / 2] & 15; };
    for (int i = 0; i < 16; ++i) to[2 + i] = static_cast<std::byte>(code(i) | code(i + 16) << 4);
  }
  return result;
}

}  // namespace nfloat
