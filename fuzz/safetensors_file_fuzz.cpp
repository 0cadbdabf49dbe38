// SPDX-License-Identifier: Apache-2.0
// A whole file through Checkpoint: header, views, companions of quantized weights.
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "nfloat/checkpoint.h"
#include "nfloat/error.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const std::string path = "/tmp/nfloat-fuzz-" + std::to_string(::getpid()) + ".safetensors";
  std::FILE* file = std::fopen(path.c_str(), "wb");
  if (file == nullptr) std::abort();
  if (std::fwrite(data, 1, size, file) != size) std::abort();
  std::fclose(file);
  try {
    const nfloat::Checkpoint checkpoint(path);
    uint64_t bytes = 0;
    for (const nfloat::TensorInfo& tensor : checkpoint.tensors()) {
      for (const std::byte byte : checkpoint.view(tensor).bytes) bytes += static_cast<uint64_t>(byte);
    }
    for (const std::string& name : checkpoint.weight_names()) {
      if (!checkpoint.is_quantized(name)) continue;
      try {
        const nfloat::QuantizedView view = checkpoint.quantized(name);
        const int64_t elements = view.shape.elements();
        const int64_t blocks = (elements + view.block_size - 1) / view.block_size;
        if (static_cast<int64_t>(view.codes.bytes.size()) != (elements + 1) / 2) std::abort();
        if (static_cast<int64_t>(view.absmax.bytes.size()) != blocks * (view.nested ? 1 : 4)) std::abort();
      } catch (const nfloat::Error&) {
      }
    }
    if (bytes == UINT64_MAX) std::abort();  // keeps the reads above
  } catch (const nfloat::Error&) {
  }
  return 0;
}
