// SPDX-License-Identifier: Apache-2.0
#include "support/emulated_card.h"

#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>
#include <string>
#include <utility>

#include "cuda/launches.h"
#include "engine/cuda/open.h"

namespace nfloat::testing {
namespace {

class EmulatedCard final : public gpu::Launches {
 public:
  // Two multiprocessors: blocks take several parts of a matrix.
  explicit EmulatedCard(uint64_t memory) : Launches(2, true), total_(memory), left_(memory) {}

  const std::string& model() const noexcept override { return model_; }
  uint64_t free_bytes() const noexcept override {
    const std::scoped_lock lock(mutex_);
    return left_;
  }
  uint64_t total_bytes() const noexcept override { return total_; }
  void* allocate(uint64_t bytes) noexcept override {
    const std::scoped_lock lock(mutex_);
    void* const memory = bytes <= left_ ? std::malloc(bytes) : nullptr;
    if (memory == nullptr) return nullptr;
    std::memset(memory, 0xff, bytes);  // NaN
    left_ -= bytes;
    sizes_[memory] = bytes;
    return memory;
  }
  void release(void* memory) noexcept override {
    const std::scoped_lock lock(mutex_);
    run();
    left_ += sizes_[memory];
    sizes_.erase(memory);
    std::free(memory);
  }
  void* allocate_host(uint64_t bytes) noexcept override {
    void* const memory = std::malloc(bytes);
    if (memory != nullptr) std::memset(memory, 0xff, bytes);
    return memory;
  }
  void release_host(void* memory) noexcept override {
    const std::scoped_lock lock(mutex_);
    run();
    std::free(memory);
  }
  void copy_to_card(void* to, const void* from, uint64_t bytes, uint64_t rows, uint64_t to_stride,
                    uint64_t from_stride) override {
    queue([=] {
      for (uint64_t row = 0; row < rows; ++row)
        std::memcpy(static_cast<std::byte*>(to) + row * to_stride,
                    static_cast<const std::byte*>(from) + row * from_stride, bytes);
    });
  }
  void copy_to_host(void* to, const void* from, uint64_t bytes, uint64_t rows, uint64_t to_stride,
                    uint64_t from_stride) override {
    copy_to_card(to, from, bytes, rows, to_stride, from_stride);
  }
  void copy_on_card(void* to, const void* from, uint64_t bytes) override {
    queue([=] { std::memcpy(to, from, bytes); });
  }
  void zero(void* memory, uint64_t bytes) override {
    queue([=] { std::memset(memory, 0, bytes); });
  }
  void upload(void* to, const void* from, uint64_t bytes) override {
    const std::scoped_lock lock(mutex_);
    run();
    std::memcpy(to, from, bytes);
  }
  std::string wait() override {
    const std::scoped_lock lock(mutex_);
    run();
    return gpu::machine().fault;
  }

 protected:
  void queue(std::function<void()> work) override {
    const std::scoped_lock lock(mutex_);
    queued_.push_back(std::move(work));
  }

 private:
  void run() noexcept {
    for (; !queued_.empty(); queued_.pop_front()) queued_.front()();
  }

  const std::string model_ = "a card that this processor emulates";
  static inline std::mutex mutex_;  // of the machine, too
  const uint64_t total_;
  uint64_t left_;
  std::map<void*, uint64_t> sizes_;
  std::deque<std::function<void()>> queued_;
};

const bool kAdded = (add_device(emulated_device()), true);

}  // namespace

std::shared_ptr<Device> emulated_device(uint64_t memory) {
  return cuda::device_on(std::make_shared<EmulatedCard>(memory), "cuda:emulated");
}

}  // namespace nfloat::testing
