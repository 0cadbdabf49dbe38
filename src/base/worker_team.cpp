// SPDX-License-Identifier: Apache-2.0
#include "base/worker_team.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

namespace nfloat {
namespace {

// Longer than what lies between two parallel loops of a token, shorter than anyone notices on an idle
// machine.
constexpr std::chrono::microseconds kAwake{150};

void relax() noexcept {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Waits for ready() until `limit`; false when it did not come.
template <typename Ready>
bool spin(std::chrono::microseconds limit, Ready&& ready) noexcept {
  const auto end = std::chrono::steady_clock::now() + limit;
  do {
    for (int i = 0; i < 32; ++i) {
      if (ready()) return true;
      relax();
    }
  } while (std::chrono::steady_clock::now() < end);
  return false;
}

thread_local bool inside = false;

class Team {
 public:
  void run(int threads, int shares, void (*body)(void*, int), void* context) noexcept {
    const std::lock_guard turn(turn_);
    grow(threads - 1);
    body_ = body;
    context_ = context;
    shares_ = shares;
    pending_.store(shares, std::memory_order_relaxed);
    const uint64_t job = (state_.load(std::memory_order_relaxed) >> (kThreadBits + kShareBits)) + 1;
    state_.store(
        (job << kThreadBits | static_cast<uint64_t>(threads)) << kShareBits | static_cast<uint64_t>(shares),
        std::memory_order_seq_cst);
    for (size_t i = 0; i < helpers_.size() && i + 1 < static_cast<size_t>(threads); ++i) {
      if (helpers_[i]->asleep.load(std::memory_order_seq_cst) == 0) continue;
      helpers_[i]->asleep.store(0, std::memory_order_seq_cst);
      helpers_[i]->asleep.notify_one();
    }
    inside = true;
    while (work(0)) {
    }
    inside = false;
    const auto done = [this] { return pending_.load(std::memory_order_acquire) == 0; };
    if (spin(limit_, done)) return;
    for (int left = pending_.load(std::memory_order_acquire); left != 0;
         left = pending_.load(std::memory_order_acquire))
      pending_.wait(left, std::memory_order_acquire);
  }

 private:
  struct alignas(64) Helper {
    uint64_t number = 1;  // the caller is 0
    std::atomic<int> asleep{0};
  };

  // Begun lazily; where the system gives no thread, the others do its shares.
  void grow(int helpers) noexcept {
    if (static_cast<size_t>(helpers) <= helpers_.size()) return;
    try {
      while (helpers_.size() < static_cast<size_t>(helpers)) {
        helpers_.push_back(std::make_unique<Helper>());
        Helper* helper = helpers_.back().get();
        helper->number = helpers_.size();
        try {
          std::thread([this, helper] { help(*helper); }).detach();
        } catch (...) {
          helpers_.pop_back();
          throw;
        }
      }
    } catch (const std::exception&) {
      return;
    }
    // More threads than cores: whoever waits awake keeps another from working.
    if (helpers_.size() >= std::thread::hardware_concurrency()) limit_ = std::chrono::microseconds(0);
  }

  static bool has_work(uint64_t state, uint64_t thread) noexcept {
    return (state & kShareMask) != 0 && thread < ((state >> kShareBits) & kThreadMask);
  }

  // Does one share of the current job; false when none is left for this thread. The job's fields are read
  // after a share was taken only: they stay until all taken shares are done.
  bool work(uint64_t thread) noexcept {
    uint64_t state = state_.load(std::memory_order_acquire);
    do {
      if (!has_work(state, thread)) return false;
    } while (!state_.compare_exchange_weak(state, state - 1, std::memory_order_acq_rel,
                                           std::memory_order_acquire));
    body_(context_, shares_ - static_cast<int>(state & kShareMask));
    if (pending_.fetch_sub(1, std::memory_order_acq_rel) == 1) pending_.notify_one();
    return true;
  }

  bool idle(uint64_t thread) const noexcept {
    return !has_work(state_.load(std::memory_order_seq_cst), thread);
  }

  void help(Helper& helper) noexcept {
    inside = true;
    for (;;) {
      while (work(helper.number)) {
      }
      if (spin(limit_.load(), [&] { return !idle(helper.number); })) continue;
      helper.asleep.store(1, std::memory_order_seq_cst);
      if (idle(helper.number)) helper.asleep.wait(1, std::memory_order_seq_cst);
      helper.asleep.store(0, std::memory_order_seq_cst);
    }
  }

  static constexpr int kShareBits = 16, kThreadBits = 16;
  static constexpr uint64_t kShareMask = (uint64_t{1} << kShareBits) - 1;
  static constexpr uint64_t kThreadMask = (uint64_t{1} << kThreadBits) - 1;

  std::mutex turn_;
  std::vector<std::unique_ptr<Helper>> helpers_;
  std::atomic<std::chrono::microseconds> limit_{kAwake};
  void (*body_)(void*, int) = nullptr;
  void* context_ = nullptr;
  int shares_ = 0;
  alignas(64) std::atomic<uint64_t> state_{0};  // the job's number, its threads, shares that nobody has taken
  alignas(64) std::atomic<int> pending_{0};     // shares that are not done
};

}  // namespace

void run_shares(int threads, int shares, void (*body)(void*, int), void* context) noexcept {
  if (threads <= 1 || shares <= 1 || inside) {
    for (int share = 0; share < shares; ++share) body(context, share);
    return;
  }
  // Never destroyed: helpers outlive the last call.
  static Team& team = *new Team;
  team.run(std::min(threads, shares), shares, body, context);
}

}  // namespace nfloat
