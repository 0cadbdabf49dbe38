// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_RANKS_HOST_MEMORY_H_
#define NFLOAT_RANKS_HOST_MEMORY_H_

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace nfloat {

// Memory that the ranks of one machine share, through which they exchange bytes in turns, without a call of
// the system. In each turn every member gives at most kCapacity bytes and takes those of all others: what a
// member gave stays until all of them have begun the turn after the next.
class HostMemory {
 public:
  static constexpr size_t kCapacity = size_t{128} << 10;

  // Nothing is shared, of no members.
  HostMemory() noexcept = default;
  // Made by one member, which tells the others its name. Empty where the system gives none.
  static HostMemory make(int members) noexcept;
  // By another member. Empty where there is none of that name, or another: on another machine.
  static HostMemory open(const std::string& name, int members) noexcept;
  HostMemory(HostMemory&& other) noexcept;
  HostMemory& operator=(HostMemory&& other) noexcept;
  ~HostMemory();

  bool empty() const noexcept { return base_ == nullptr; }
  const std::string& name() const noexcept { return name_; }
  // Nobody else opens it from here on; it goes with its last member, however that ends. Done at the end at
  // the latest by the one who made it.
  void forget_name() noexcept;

  // Gives `bytes` in the next turn. All members have given theirs of the turn before.
  void give(int member, std::span<const char> bytes) noexcept;
  // What a member gave in this turn; null as long as it has not.
  const char* given(int member) const noexcept;
  // Sleeps until that member has given in this turn, so long at most; perhaps shorter.
  void wait(int member, std::chrono::microseconds most) const noexcept;

 private:
  struct Place;
  Place& place(int member) const noexcept;
  static HostMemory map(int file, const std::string& name, int members) noexcept;

  std::byte* base_ = nullptr;
  size_t size_ = 0;
  std::string name_;
  bool named_ = false;  // whether it was made here and others may still open it
  uint64_t turn_ = 0;
};

}  // namespace nfloat

#endif  // NFLOAT_RANKS_HOST_MEMORY_H_
