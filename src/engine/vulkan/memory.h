// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_ENGINE_VULKAN_MEMORY_H_
#define NFLOAT_ENGINE_VULKAN_MEMORY_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "engine/vulkan/api.h"

namespace nfloat::vulkan {

// Where memory is: on the card, or in the host's, where both can reach it.
enum class Place : uint8_t { kDevice, kHost };

struct Block;

// Part of a block; its address and, on the host, where the program sees it. Aligned to kAlignment.
struct Piece {
  Block* block = nullptr;
  uint64_t offset = 0, bytes = 0;
  uint64_t address = 0;
  std::byte* host = nullptr;
};

// Cuts large allocations of the driver, which allows a few thousand, into pieces. For use by any number of
// threads.
class Memory {
 public:
  static constexpr uint64_t kAlignment = 256;

  Memory(const DeviceApi& api, VkDevice device, uint32_t device_type, uint32_t host_type) noexcept;
  ~Memory();

  // Of every buffer.
  static VkBufferCreateInfo buffer_info(uint64_t bytes) noexcept;

  // A piece of at least `bytes`, its block null where the driver refuses.
  Piece take(uint64_t bytes, Place place);
  void give_back(const Piece& piece) noexcept;
  uint64_t bytes() const noexcept;  // of the driver's allocations on the device

 private:
  std::unique_ptr<Block> make_block(uint64_t bytes, Place place) noexcept;
  void destroy(Block& block) noexcept;

  const DeviceApi& api_;
  const VkDevice device_;
  const uint32_t types_[2];
  mutable std::mutex mutex_;
  std::vector<std::unique_ptr<Block>> blocks_;
};

}  // namespace nfloat::vulkan

#endif  // NFLOAT_ENGINE_VULKAN_MEMORY_H_
