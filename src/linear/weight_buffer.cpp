// SPDX-License-Identifier: Apache-2.0
#include "linear/weight_buffer.h"

#include <sys/mman.h>

#include <cstdlib>
#include <mutex>
#include <new>

#include "base/huge_pages.h"

namespace nfloat {
namespace {

constexpr size_t kLine = 64;
constexpr size_t kRegionBytes = size_t{64} << 20;  // address space; memory is taken when it is written
constexpr size_t kSharedFrom = size_t{32} << 10;   // smaller ones come from the heap

std::shared_ptr<std::byte> heap(size_t bytes) {
  void* memory = std::aligned_alloc(kLine, bytes);
  if (memory == nullptr) throw std::bad_alloc();
  return {static_cast<std::byte*>(memory), [](std::byte* p) { std::free(p); }};
}

std::shared_ptr<std::byte> map_region(size_t bytes) {
  const size_t mapped = bytes + kHugePageBytes;
  void* memory =
      mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  const auto address = reinterpret_cast<uintptr_t>(memory);
  const size_t skip = (kHugePageBytes - address % kHugePageBytes) % kHugePageBytes;
  std::byte* begin = static_cast<std::byte*>(memory) + skip;
  advise_huge_pages(begin, bytes);
  return {begin, [memory, mapped](std::byte*) { munmap(memory, mapped); }};
}

// The region that buffers are cut from; held by its buffers alone.
struct Regions {
  std::mutex mutex;
  std::weak_ptr<std::byte> current;
  size_t used = 0;
};

std::shared_ptr<std::byte> cut(size_t bytes) {
  static Regions regions;
  const std::lock_guard lock(regions.mutex);
  std::shared_ptr<std::byte> region = regions.current.lock();
  if (region == nullptr || regions.used + bytes > kRegionBytes) {
    region = map_region(kRegionBytes);
    regions.current = region;
    regions.used = 0;
  }
  std::byte* at = region.get() + regions.used;
  regions.used += bytes;
  return {std::move(region), at};
}

}  // namespace

WeightBuffer::WeightBuffer(size_t bytes) : bytes_(bytes) {
  if (bytes == 0) return;
  const size_t padded = (bytes + kLine - 1) / kLine * kLine;
  if (padded < kSharedFrom) {
    data_ = heap(padded);
  } else if (padded > kRegionBytes / 2) {
    data_ = map_region(padded);
  } else {
    data_ = cut(padded);
  }
}

}  // namespace nfloat
