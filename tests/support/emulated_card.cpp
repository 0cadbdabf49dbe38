// SPDX-License-Identifier: Apache-2.0
#include "support/emulated_card.h"

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "cuda/launches.h"
#include "engine/cuda/open.h"

namespace nfloat::testing {
namespace {

std::atomic<uint64_t> graphs_run = 0;

class EmulatedCard final : public gpu::Launches {
 public:
  // Two multiprocessors: blocks take several parts of a matrix.
  EmulatedCard(uint64_t memory, std::string recording_fault)
      : Launches(2, true), total_(memory), left_(memory), recording_fault_(std::move(recording_fault)) {}

  const std::string& model() const noexcept override { return model_; }
  uint64_t free_bytes() const noexcept override {
    const std::scoped_lock lock(mutex_);
    return left_;
  }
  uint64_t total_bytes() const noexcept override { return total_; }
  void* allocate(uint64_t bytes) noexcept override {
    const std::scoped_lock lock(mutex_);
    void* const memory = bytes <= left_ ? gpu::allocate_exactly(bytes) : nullptr;
    if (memory == nullptr) return nullptr;
    std::memset(memory, 0xff, bytes);  // NaN
    left_ -= bytes;
    sizes_[memory] = bytes;
    return memory;
  }
  void release(void* memory) noexcept override {
    finish();
    const std::scoped_lock lock(mutex_);
    left_ += sizes_[memory];
    gpu::give_back(memory, sizes_[memory]);
    sizes_.erase(memory);
  }
  void* allocate_host(uint64_t bytes) noexcept override {
    void* const memory = std::malloc(bytes);
    if (memory != nullptr) std::memset(memory, 0xff, bytes);
    return memory;
  }
  void release_host(void* memory) noexcept override {
    finish();
    std::free(memory);
  }
  void upload(void* to, const void* from, uint64_t bytes) override {
    finish();
    std::memcpy(to, from, bytes);
  }
  std::string wait() override {
    finish();
    const std::scoped_lock lock(mutex_);
    return gpu::machine().fault;
  }

 private:
  // What was recorded, whatever its like was asked for later.
  class Recorded final : public gpu::Graph {
   public:
    explicit Recorded(std::span<const gpu::Command> commands) : commands_(commands.begin(), commands.end()) {}
    const std::vector<gpu::Command>& commands() const noexcept { return commands_; }

   private:
    std::vector<gpu::Command> commands_;
  };

  // Nothing runs before somebody waits.
  void run(const gpu::Command& command) override {
    const std::scoped_lock lock(mutex_);
    queued_.push_back(command);
  }
  std::unique_ptr<gpu::Graph> record(std::span<const gpu::Command> commands, std::string& failure) override {
    if (!recording_fault_.empty()) {
      failure = recording_fault_;
      return nullptr;
    }
    // Branches may run in any order: here the last one is the first.
    std::vector<gpu::Command> order;
    for (size_t i = 0; i < commands.size();) {
      const std::span<const gpu::Command> branches =
          commands.subspan(i, gpu::side_by_side(commands.subspan(i), commands.size()));
      order.insert(order.end(), branches.rbegin(), branches.rend());
      i += branches.size();
    }
    return std::make_unique<Recorded>(order);
  }
  void run(gpu::Graph& graph) override {
    ++graphs_run;
    for (const gpu::Command& command : static_cast<Recorded&>(graph).commands()) run(command);
  }
  void finish() noexcept {
    queue_.flush();
    const std::scoped_lock lock(mutex_);
    for (; !queued_.empty(); queued_.pop_front()) launch_command(queued_.front());
  }
  void begin(const gpu::CopyCommand& c) const override {
    for (uint64_t row = 0; row < c.rows; ++row)
      std::memcpy(static_cast<std::byte*>(c.to) + row * c.to_stride,
                  static_cast<const std::byte*>(c.from) + row * c.from_stride, c.bytes);
  }
  void begin(const gpu::ZeroCommand& c) const override { std::memset(c.memory, 0, c.bytes); }

  const std::string model_ = "a card that this processor emulates";
  static inline std::mutex mutex_;  // of the machine, too
  const uint64_t total_;
  uint64_t left_;
  const std::string recording_fault_;
  std::map<void*, uint64_t> sizes_;
  std::deque<gpu::Command> queued_;
};

const bool kAdded = (add_device(emulated_device()), true);

}  // namespace

uint64_t emulated_graphs() {
  return graphs_run;
}

std::shared_ptr<Device> emulated_device(uint64_t memory, const std::string& name,
                                        const std::string& recording_fault) {
  return cuda::device_on(std::make_shared<EmulatedCard>(memory, recording_fault), name);
}

}  // namespace nfloat::testing
