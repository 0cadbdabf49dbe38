// SPDX-License-Identifier: Apache-2.0
#include "ranks/host_memory.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/futex.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <climits>
#include <cstring>
#include <new>
#include <random>
#include <utility>

namespace nfloat {

// Of one member. Turns alternate between two buffers.
struct HostMemory::Place {
  alignas(64) std::atomic<uint64_t> turn;  // that it has given in, from 1 on
  std::atomic<uint32_t> word;              // its low half, on which others sleep
  std::atomic<uint32_t> sleepers;
  alignas(64) char bytes[2][kCapacity];
};
static_assert(std::atomic<uint64_t>::is_always_lock_free && std::atomic<uint32_t>::is_always_lock_free &&
                  sizeof(std::atomic<uint32_t>) == sizeof(uint32_t),
              "processes share it, and the system looks at it");

namespace {

long futex(std::atomic<uint32_t>& word, int what, uint32_t value, const timespec* most) noexcept {
  return ::syscall(SYS_futex, &word, what, value, most, nullptr, 0);
}

}  // namespace

HostMemory::Place& HostMemory::place(int member) const noexcept {
  return reinterpret_cast<Place*>(base_)[member];
}

HostMemory HostMemory::map(int file, const std::string& name, int members) noexcept {
  HostMemory memory;
  const size_t size = sizeof(Place) * static_cast<size_t>(members);
  void* const base = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  if (base == MAP_FAILED) return memory;
  memory.base_ = static_cast<std::byte*>(base);
  memory.size_ = size;
  memory.name_ = name;
  return memory;
}

HostMemory HostMemory::make(int members) noexcept {
  HostMemory memory;
  try {
    std::random_device random;  // a name that no other machine has
    const std::string name =
        fmt::format("/nfloat-ranks-{:08x}{:08x}{:08x}{:08x}", random(), random(), random(), random());
    const int file = ::shm_open(name.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (file < 0) return memory;
    // All of its pages now: where there are too few the first use would end the process.
    const auto size = static_cast<off_t>(sizeof(Place) * static_cast<size_t>(members));
    if (::posix_fallocate(file, 0, size) == 0) memory = map(file, name, members);
    ::close(file);
    memory.named_ = !memory.empty();
    if (!memory.named_) ::shm_unlink(name.c_str());
    // New pages are zeros: nobody has given anything.
  } catch (const std::exception&) {
  }
  return memory;
}

HostMemory HostMemory::open(const std::string& name, int members) noexcept {
  HostMemory memory;
  const int file = ::shm_open(name.c_str(), O_RDWR | O_CLOEXEC, 0);
  if (file < 0) return memory;
  struct stat info {};
  if (::fstat(file, &info) == 0 &&
      info.st_size == static_cast<off_t>(sizeof(Place) * static_cast<size_t>(members)))
    memory = map(file, name, members);
  ::close(file);
  return memory;
}

HostMemory::HostMemory(HostMemory&& other) noexcept {
  *this = std::move(other);
}

HostMemory& HostMemory::operator=(HostMemory&& other) noexcept {
  std::swap(base_, other.base_);
  std::swap(size_, other.size_);
  std::swap(name_, other.name_);
  std::swap(named_, other.named_);
  std::swap(turn_, other.turn_);
  return *this;
}

HostMemory::~HostMemory() {
  if (named_) forget_name();
  if (base_ != nullptr) ::munmap(base_, size_);
}

void HostMemory::forget_name() noexcept {
  ::shm_unlink(name_.c_str());
  named_ = false;
}

void HostMemory::give(int member, std::span<const char> bytes) noexcept {
  Place& own = place(member);
  ++turn_;
  if (!bytes.empty()) std::memcpy(own.bytes[turn_ % 2], bytes.data(), bytes.size());
  own.turn.store(turn_, std::memory_order_release);
  own.word.store(static_cast<uint32_t>(turn_));
  if (own.sleepers.load() > 0) futex(own.word, FUTEX_WAKE, INT_MAX, nullptr);
}

const char* HostMemory::given(int member) const noexcept {
  const Place& other = place(member);
  return other.turn.load(std::memory_order_acquire) >= turn_ ? other.bytes[turn_ % 2] : nullptr;
}

void HostMemory::wait(int member, std::chrono::microseconds most) const noexcept {
  Place& other = place(member);
  const timespec time{0, static_cast<long>(std::min<int64_t>(most.count(), 999'999) * 1000)};
  ++other.sleepers;
  // Either it sees this sleeper, or this one its word: both orders are sequentially consistent.
  const uint32_t seen = other.word.load();
  if (given(member) == nullptr && static_cast<int32_t>(seen - static_cast<uint32_t>(turn_)) < 0)
    if (futex(other.word, FUTEX_WAIT, seen, &time) != 0 && errno != EAGAIN && errno != EINTR &&
        errno != ETIMEDOUT)
      ::usleep(100);  // a system that has none, or allows none
  --other.sleepers;
}

}  // namespace nfloat
