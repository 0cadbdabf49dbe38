// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_GGUF_PARSE_H_
#define NFLOAT_GGUF_PARSE_H_

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "nfloat/gguf.h"

namespace nfloat {

inline constexpr uint32_t kGgufDefaultAlignment = 32;
inline constexpr std::string_view kGgufMagic = "GGUF";
inline constexpr size_t kGgufMaxNameBytes = 1024;
inline constexpr size_t kGgufMaxDimensions = 4;

// Everything that stands before the data of one file. Values borrow the bytes; tensor offsets count from the
// beginning of the file.
struct GgufHeader {
  uint32_t version = 0;
  uint32_t alignment = kGgufDefaultAlignment;
  std::vector<GgufValue> metadata;
  std::vector<GgufTensor> tensors;
};

// Parses and checks a whole file's header. Throws as GgufFile does.
GgufHeader parse_gguf_header(std::span<const std::byte> file, const std::string& source);

}  // namespace nfloat

#endif  // NFLOAT_GGUF_PARSE_H_
