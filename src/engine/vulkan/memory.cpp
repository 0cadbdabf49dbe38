// SPDX-License-Identifier: Apache-2.0
#include "engine/vulkan/memory.h"

#include <algorithm>
#include <cstdlib>
#include <utility>

namespace nfloat::vulkan {

// One allocation of the driver, bound to one buffer, and its holes.
struct Block {
  Place place = Place::kDevice;
  uint64_t bytes = 0;
  uint64_t used = 0;
  uint64_t address = 0;
  std::byte* host = nullptr;
  VkBuffer buffer = VK_NULL_HANDLE;
  VkDeviceMemory memory = VK_NULL_HANDLE;
  std::map<uint64_t, uint64_t> holes;  // where they begin, their bytes; no two touch
  // Nodes for the holes of pieces to come, so that giving back cannot fail.
  std::vector<std::map<uint64_t, uint64_t>::node_type> spare;
};

namespace {

constexpr uint64_t kBlockBytes[] = {uint64_t{64} << 20, uint64_t{4} << 20};  // by place

// Set: each piece is an allocation of its own, of no more words than it needs, so that tests see what is done
// behind its end (tests/vulkan).
bool pieces_stand_alone() noexcept {
  static const bool wanted = std::getenv("NFLOAT_VULKAN_PIECES") != nullptr;
  return wanted;
}

uint64_t whole(uint64_t bytes) noexcept {
  const uint64_t unit = pieces_stand_alone() ? sizeof(uint32_t) : Memory::kAlignment;
  return (std::max<uint64_t>(bytes, 1) + unit - 1) / unit * unit;
}

}  // namespace

Memory::Memory(const DeviceApi& api, VkDevice device, uint32_t device_type, uint32_t host_type) noexcept
    : api_(api), device_(device), types_{device_type, host_type} {}

Memory::~Memory() = default;

VkBufferCreateInfo Memory::buffer_info(uint64_t bytes) noexcept {
  VkBufferCreateInfo info{};
  info.sType = VK_STRUCTURE_TYPE_BUFFER_CREATE_INFO;
  info.size = bytes;
  info.usage = VK_BUFFER_USAGE_STORAGE_BUFFER_BIT | VK_BUFFER_USAGE_SHADER_DEVICE_ADDRESS_BIT;
  return info;
}

Piece Memory::take(uint64_t bytes, Place place) {
  const std::scoped_lock lock(mutex_);
  bytes = whole(bytes);
  const auto piece_of = [&](Block& block, std::map<uint64_t, uint64_t>::iterator hole) {
    std::map<uint64_t, uint64_t> one{{0, 0}};
    block.spare.reserve(block.spare.size() + 2);  // nothing fails once the hole is taken
    block.spare.push_back(one.extract(one.begin()));
    const uint64_t at = hole->first, left = hole->second - bytes;
    auto node = block.holes.extract(hole);
    if (left > 0) {
      node.key() = at + bytes;
      node.mapped() = left;
      block.holes.insert(std::move(node));
    } else {
      block.spare.push_back(std::move(node));
    }
    block.used += bytes;
    return Piece{&block, at, bytes, block.address + at, block.host != nullptr ? block.host + at : nullptr};
  };
  for (const std::unique_ptr<Block>& block : blocks_) {
    if (block->place != place) continue;
    const auto hole = std::find_if(block->holes.begin(), block->holes.end(),
                                   [&](const auto& own) { return own.second >= bytes; });
    if (hole != block->holes.end()) return piece_of(*block, hole);
  }
  const uint64_t usual = pieces_stand_alone() ? 0 : kBlockBytes[static_cast<size_t>(place)];
  std::unique_ptr<Block> made = make_block(bytes > usual / 2 ? bytes : usual, place);
  if (!made && bytes <= usual / 2) made = make_block(bytes, place);
  if (!made) return {};
  try {
    made->holes[0] = made->bytes;
    blocks_.push_back(nullptr);
  } catch (...) {
    destroy(*made);
    throw;
  }
  blocks_.back() = std::move(made);
  return piece_of(*blocks_.back(), blocks_.back()->holes.begin());
}

void Memory::give_back(const Piece& piece) noexcept {
  if (piece.block == nullptr) return;
  const std::scoped_lock lock(mutex_);
  Block& block = *piece.block;
  block.used -= piece.bytes;
  if (block.used == 0) {
    destroy(block);
    std::erase_if(blocks_, [&](const std::unique_ptr<Block>& own) { return own.get() == &block; });
    return;
  }
  auto node = std::move(block.spare.back());
  block.spare.pop_back();
  node.key() = piece.offset;
  node.mapped() = piece.bytes;
  auto own = block.holes.insert(std::move(node)).position;
  if (const auto next = std::next(own);
      next != block.holes.end() && own->first + own->second == next->first) {
    own->second += next->second;
    block.holes.erase(next);
  }
  if (own == block.holes.begin()) return;
  if (const auto before = std::prev(own); before->first + before->second == own->first) {
    before->second += own->second;
    block.holes.erase(own);
  }
}

uint64_t Memory::bytes() const noexcept {
  const std::scoped_lock lock(mutex_);
  uint64_t total = 0;
  for (const std::unique_ptr<Block>& block : blocks_)
    if (block->place == Place::kDevice) total += block->bytes;
  return total;
}

std::unique_ptr<Block> Memory::make_block(uint64_t bytes, Place place) noexcept {
  auto block = std::unique_ptr<Block>(new (std::nothrow) Block);
  if (!block) return nullptr;
  block->place = place;
  block->bytes = bytes;
  const VkBufferCreateInfo buffer = buffer_info(bytes);
  if (api_.CreateBuffer(device_, &buffer, nullptr, &block->buffer) != VK_SUCCESS) return nullptr;
  VkMemoryRequirements needs{};
  api_.GetBufferMemoryRequirements(device_, block->buffer, &needs);
  VkMemoryAllocateFlagsInfo flags{};
  flags.sType = VK_STRUCTURE_TYPE_MEMORY_ALLOCATE_FLAGS_INFO;
  flags.flags = VK_MEMORY_ALLOCATE_DEVICE_ADDRESS_BIT;
  VkMemoryAllocateInfo memory{};
  memory.sType = VK_STRUCTURE_TYPE_MEMORY_ALLOCATE_INFO;
  memory.pNext = &flags;
  memory.allocationSize = needs.size;
  memory.memoryTypeIndex = types_[static_cast<size_t>(place)];
  VkBufferDeviceAddressInfo address{};
  address.sType = VK_STRUCTURE_TYPE_BUFFER_DEVICE_ADDRESS_INFO;
  address.buffer = block->buffer;
  void* host = nullptr;
  if (api_.AllocateMemory(device_, &memory, nullptr, &block->memory) != VK_SUCCESS ||
      api_.BindBufferMemory(device_, block->buffer, block->memory, 0) != VK_SUCCESS ||
      (place == Place::kHost &&
       api_.MapMemory(device_, block->memory, 0, VK_WHOLE_SIZE, 0, &host) != VK_SUCCESS)) {
    destroy(*block);
    return nullptr;
  }
  block->host = static_cast<std::byte*>(host);
  block->address = api_.GetBufferDeviceAddress(device_, &address);
  return block;
}

void Memory::destroy(Block& block) noexcept {
  api_.DestroyBuffer(device_, block.buffer, nullptr);
  api_.FreeMemory(device_, block.memory, nullptr);
}

}  // namespace nfloat::vulkan
