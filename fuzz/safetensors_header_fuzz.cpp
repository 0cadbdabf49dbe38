// SPDX-License-Identifier: Apache-2.0
// The first two bytes choose how much data seems to follow the header; the rest is the JSON, under a length
// that is right, so that the fuzzer gets to the parser.
#include <cstdint>
#include <cstdlib>
#include <string>

#include "checkpoint/safetensors_header.h"
#include "nfloat/error.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2) return 0;
  const uint64_t data_bytes = data[0] | uint64_t{data[1]} << 8;
  const uint64_t length = size - 2;
  std::string head(8, '\0');
  for (size_t i = 0; i < 8; ++i) head[i] = static_cast<char>(length >> (8 * i) & 0xff);
  head.append(reinterpret_cast<const char*>(data) + 2, length);
  for (const bool list_unknown : {false, true}) {
    try {
      const nfloat::SafetensorsHeader header =
          nfloat::parse_safetensors_header(head, 8 + length + data_bytes, "fuzz", list_unknown);
      // What was accepted covers the data exactly once.
      uint64_t end = 8 + length;
      for (const nfloat::TensorInfo& tensor : header.tensors) {
        if (tensor.offset != end) std::abort();
        const auto elements = static_cast<uint64_t>(tensor.shape.elements());
        if (header.unknown.contains(tensor.name)
                ? elements > 8 * tensor.bytes
                : elements * nfloat::dtype_bits(tensor.dtype) != 8 * tensor.bytes)
          std::abort();
        end += tensor.bytes;
      }
      if (end != 8 + length + data_bytes) std::abort();
    } catch (const nfloat::Error& error) {
      if (std::string(error.what()).size() > 4096) std::abort();  // a hostile name must not flood the message
    }
  }
  return 0;
}
