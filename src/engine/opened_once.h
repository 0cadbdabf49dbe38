// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_ENGINE_OPENED_ONCE_H_
#define NFLOAT_ENGINE_OPENED_ONCE_H_

#include <sys/types.h>
#include <unistd.h>

#include <atomic>
#include <mutex>

namespace nfloat {

// The devices of a driver, opened when they are first asked for and never closed: drivers end their own
// threads while the program ends. A static object. What another thread was opening when this process was
// forked is never there: then an empty T is given.
template <typename T>
class OpenedOnce {
 public:
  const T& get(T (*open)()) {
    static const T* const none = new T;
    const T* all = opened_.load(std::memory_order_acquire);
    if (all != nullptr) return *all;
    pid_t nobody = 0;
    if (!opener_.compare_exchange_strong(nobody, ::getpid()) && nobody != ::getpid()) return *none;
    const std::scoped_lock lock(opening_);
    all = opened_.load(std::memory_order_acquire);
    if (all == nullptr) opened_.store(all = new T(open()), std::memory_order_release);
    return *all;
  }

 private:
  std::atomic<pid_t> opener_{0};
  std::atomic<const T*> opened_{nullptr};
  std::mutex opening_;
};

}  // namespace nfloat

#endif  // NFLOAT_ENGINE_OPENED_ONCE_H_
