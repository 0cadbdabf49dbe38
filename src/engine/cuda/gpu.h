// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_ENGINE_CUDA_GPU_H_
#define NFLOAT_ENGINE_CUDA_GPU_H_

#include <sys/types.h>

#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "cuda/card.h"

namespace nfloat::cuda {

// A card with its name. For use by any number of threads of the process that opened it: a driver's state does
// not come along with fork(). In a child, what can fail throws kUnsupported, and nothing is given back.
class Gpu {
 public:
  Gpu(std::shared_ptr<gpu::Card> card, std::string name);

  const std::string& name() const noexcept { return name_; }  // "cuda:0"
  const std::string& model() const noexcept { return card_->model(); }
  bool own_process() const noexcept;
  // The card, for what may fail.
  gpu::Card& card() const {
    expect_own_process();
    return *card_;
  }
  void expect_own_process() const;
  uint64_t free_bytes() const noexcept { return own_process() ? card_->free_bytes() : 0; }

  uint64_t total_bytes() const noexcept { return card_->total_bytes(); }
  std::string graphs() const { return own_process() ? card_->graphs() : ""; }

  // Throw kOutOfMemory with the numbers.
  void* take(uint64_t bytes) const;
  void* take_host(uint64_t bytes) const;
  void give_back(void* memory) const noexcept;
  void give_back_host(void* memory) const noexcept;

  // Waits for all that is queued. Throws kIo when the card has failed.
  void wait() const;

 private:
  const std::shared_ptr<gpu::Card> card_;
  const std::string name_;
  const pid_t process_;
};

// Memory of a card, or of the host for its copies, with an owner.
template <bool kHost>
class Memory {
 public:
  Memory() = default;
  Memory(std::shared_ptr<const Gpu> gpu, uint64_t bytes)
      : gpu_(std::move(gpu)), bytes_(bytes), at_(kHost ? gpu_->take_host(bytes) : gpu_->take(bytes)) {}
  Memory(Memory&& other) noexcept { *this = std::move(other); }
  Memory& operator=(Memory&& other) noexcept {
    std::swap(gpu_, other.gpu_);
    std::swap(bytes_, other.bytes_);
    std::swap(at_, other.at_);
    return *this;
  }
  ~Memory() {
    if (at_ == nullptr) return;
    if (kHost) {
      gpu_->give_back_host(at_);
    } else {
      gpu_->give_back(at_);
    }
  }

  uint64_t bytes() const noexcept { return bytes_; }
  template <typename T = std::byte>
  T* as(uint64_t first_byte = 0) const noexcept {
    return reinterpret_cast<T*>(static_cast<std::byte*>(at_) + first_byte);
  }

 private:
  std::shared_ptr<const Gpu> gpu_;
  uint64_t bytes_ = 0;
  void* at_ = nullptr;
};
using CardMemory = Memory<false>;
using HostMemory = Memory<true>;

// Small arguments that steps read on the card: bytes that the host writes once, kept until all that is queued
// is done. What was placed lately is not copied again: the layers of a pass ask for the same.
class Params {
 public:
  explicit Params(std::shared_ptr<const Gpu> gpu) : gpu_(std::move(gpu)) {}

  // Where the bytes will lie on the card when the next step runs, on 16 bytes.
  const std::byte* place(std::span<const std::byte> bytes);
  // All that was queued is done.
  void reset() noexcept;

 private:
  static constexpr uint64_t kChunkBytes = 65536;
  static constexpr size_t kLately = 8;
  struct Chunk {
    HostMemory host;
    CardMemory card;
    uint64_t used = 0;
  };
  struct Placed {
    std::span<const std::byte> bytes;  // in a chunk's host memory
    const std::byte* card = nullptr;
  };
  const std::shared_ptr<const Gpu> gpu_;
  std::vector<Chunk> chunks_;
  size_t chunk_ = 0;
  Placed lately_[kLately];
  size_t next_ = 0;  // of them
};

}  // namespace nfloat::cuda

#endif  // NFLOAT_ENGINE_CUDA_GPU_H_
