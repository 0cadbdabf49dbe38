// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_ENGINE_VULKAN_VULKAN_MATRIX_H_
#define NFLOAT_ENGINE_VULKAN_VULKAN_MATRIX_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "engine/device.h"
#include "engine/vulkan/gpu.h"

namespace nfloat::vulkan {

// A matrix in a device's memory, in slabs of whole rows where one allocation does not hold it. Codes and
// their scales have the order of the file; other weights lie in rows of whole groups of eight, zeros behind
// the last column.
class VulkanMatrix final : public DeviceMatrix {
 public:
  struct Slab {
    int64_t first = 0, rows = 0;
    GpuMemory memory;
    Address weights = 0, scales = 0, nested_absmax = 0;
  };

  // Throw kInvalidArgument for what is not a matrix of that kind, kUnsupported where rows cannot be cut to
  // slabs of `most` bytes of weights, kOutOfMemory.
  VulkanMatrix(const std::shared_ptr<Gpu>& gpu, const PackSource& source, uint64_t most);
  VulkanMatrix(const std::shared_ptr<Gpu>& gpu, const TensorView& weights, DenseMatrix::Storage storage,
               int threads, const Device::Release& release, uint64_t most);

  int64_t rows() const noexcept override { return rows_; }
  int64_t cols() const noexcept override { return cols_; }
  uint64_t bytes() const noexcept override { return bytes_; }

  Storage storage() const noexcept { return storage_; }
  // Weights of one scale, one behind the other; scales of a second-level one.
  int64_t block() const noexcept { return block_; }
  int64_t nested_block() const noexcept { return nested_block_; }
  float nested_offset() const noexcept { return nested_offset_; }
  // Eight codes that begin at a multiple of eight have one row and one scale.
  bool whole_words() const noexcept { return cols_ % 8 == 0 && block_ % 8 == 0; }
  // A step of a tile has one scale, and a half holds each level but for its rounding.
  bool halves() const noexcept { return halves_ && cols_ % kTileDepth == 0 && block_ % kTileDepth == 0; }
  // In units.comp every weight that is not zero is a normal half, once a power of two is taken out of all.
  bool on_units() const noexcept { return on_units_; }
  Address tables() const noexcept { return tables_.address(); }
  const std::vector<Slab>& slabs() const noexcept { return slabs_; }

 private:
  Storage storage_ = Storage::kCodes;
  int64_t rows_ = 0, cols_ = 0, block_ = 1, nested_block_ = 1;
  float nested_offset_ = 0;
  uint64_t bytes_ = 0;
  bool halves_ = false, on_units_ = false;
  GpuMemory tables_;  // 16 levels, 256 of the nested map; for units.comp: the levels times a power of two,
                      // and its inverse
  std::vector<Slab> slabs_;
};

}  // namespace nfloat::vulkan

#endif  // NFLOAT_ENGINE_VULKAN_VULKAN_MATRIX_H_
