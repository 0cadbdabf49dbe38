// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_CHECKPOINT_SAFETENSORS_HEADER_H_
#define NFLOAT_CHECKPOINT_SAFETENSORS_HEADER_H_

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "nfloat/checkpoint.h"

namespace nfloat {

// The safetensors format: u64 little-endian header length, JSON header, data. The same limit as the reference
// implementation's.
inline constexpr uint64_t kMaxHeaderBytes = 100'000'000;

struct SafetensorsHeader {
  std::vector<TensorInfo> tensors;  // by offset; `offset` counts from the beginning of the file
  std::map<std::string, std::string> metadata;
  // The dtypes of those tensors, by name, whose type is not known: `dtype` of their TensorInfo is not theirs.
  std::map<std::string, std::string> unknown;
};

// Parses and checks a whole header. `head` is the beginning of the file, at least 8 + header length bytes of
// it; `path` only names the file in messages. Throws kMalformedFile for every way a header can lie: length,
// syntax, nesting, types, unknown dtype, negative or overflowing shape, offsets out of order, beyond the end,
// overlapping or leaving gaps, duplicate names; kUnsupported for a dtype that is not known, unless
// `list_unknown`.
SafetensorsHeader parse_safetensors_header(std::string_view head, uint64_t file_bytes,
                                           const std::string& path, bool list_unknown = false);

// The header length that the first 8 bytes claim, checked against the file's size. Throws kMalformedFile.
uint64_t safetensors_header_bytes(std::string_view first_8_bytes, uint64_t file_bytes,
                                  const std::string& path);

}  // namespace nfloat

#endif  // NFLOAT_CHECKPOINT_SAFETENSORS_HEADER_H_
