// SPDX-License-Identifier: Apache-2.0
#include "calibrate/gguf_coding.h"

#include <cstring>

#include "base/fail.h"
#include "base/float16.h"

namespace nfloat {
namespace {

constexpr size_t kBlockBytes = 2 + kGgufBlock / 2;

}  // namespace

float gguf_unit(GgufType type) noexcept {
  return -gguf_levels(type).front();
}

Codebook gguf_codebook(GgufType type) {
  if (type != GgufType::kQ4_0 && type != GgufType::kIQ4_NL)
    fail(ErrorCode::kUnsupported, "{} is not a code with a scale a block: Q4_0 and IQ4_NL are",
         gguf_type_info(type).name);
  std::vector<double> levels;
  for (const float level : gguf_levels(type))
    levels.push_back(static_cast<double>(level) / static_cast<double>(gguf_unit(type)));
  return codebook_from_levels(std::string(gguf_type_info(type).name), levels);
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
