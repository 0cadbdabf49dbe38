// SPDX-License-Identifier: Apache-2.0
// A whole GGUF file: header, metadata shown, tensors decoded.
#include <cstdint>
#include <span>
#include <vector>

#include "nfloat/error.h"
#include "nfloat/gguf.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    const nfloat::GgufFile file(std::as_bytes(std::span(data, size)), "fuzz.gguf");
    size_t length = 0;
    for (const nfloat::GgufValue& value : file.metadata()) length += value.to_string().size();
    if (length > 200 * file.metadata().size()) __builtin_trap();
    for (const nfloat::GgufTensor& tensor : file.tensors()) {
      if (file.bytes(tensor).size() != tensor.bytes) __builtin_trap();
      if (!nfloat::is_decodable(tensor.type)) continue;
      const nfloat::GgufTypeInfo& info = nfloat::gguf_type_info(tensor.type);
      std::vector<float> values(static_cast<size_t>(info.block_elements));
      nfloat::decode_gguf(tensor.type, file.bytes(tensor).first(static_cast<size_t>(info.block_bytes)),
                          values);
    }
  } catch (const nfloat::Error&) {
  }
  return 0;
}
