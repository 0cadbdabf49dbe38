// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_ENGINE_BLOCK_CONVERTER_H_
#define NFLOAT_ENGINE_BLOCK_CONVERTER_H_

#include <cstdint>
#include <memory>
#include <string>

#include "quantize/blocks.h"

namespace nfloat {

// Weights to 4-bit codes by absmax and back on a device, byte for byte what quantize/blocks.h makes of the
// same memory of the host. For use by any number of threads. Throw kIo when the device has failed, and
// kOutOfMemory.
class BlockConverter {
 public:
  virtual ~BlockConverter() = default;
  virtual bool takes(int64_t block_size) const noexcept = 0;  // other sizes are not to be given to it
  virtual std::string what_it_takes() const = 0;              // in words: "blocks of ..."
  // As quantize_blocks(): the index of the first NaN or infinity, or -1.
  virtual int64_t quantize(const BlockRange& range, const kernels::CodeTable& table, float* scales,
                           uint8_t* codes) = 0;
  // As decode_blocks().
  virtual void decode(const uint8_t* codes, const float* scales, const kernels::CodeTable& table,
                      int64_t elements, int64_t block_size, DType dtype, void* output) = 0;
};

// That of the device so named (find_device); null for the CPU, which needs none, and for "". Throws
// kUnsupported for a device without one.
std::shared_ptr<BlockConverter> block_converter(const std::string& device);

}  // namespace nfloat

#endif  // NFLOAT_ENGINE_BLOCK_CONVERTER_H_
