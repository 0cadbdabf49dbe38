// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_SERVER_STALL_WATCH_H_
#define NFLOAT_SERVER_STALL_WATCH_H_

#include <cstdint>
#include <optional>

namespace nfloat {

// Sees steps of an engine that do not end. Times in seconds of one clock.
class StallWatch {
 public:
  explicit StallWatch(double limit) noexcept : limit_(limit) {}

  // How long the step at work has taken, if that is too long. `began`: of that step; none runs without.
  std::optional<double> stalled(double now, std::optional<double> began) const noexcept {
    return began && now - *began > limit_ ? std::optional(now - *began) : std::nullopt;
  }
  // Asked again and again; each step that takes too long is counted once.
  void look(double now, std::optional<double> began) noexcept {
    if (!stalled(now, began) || counted_ == began) return;
    counted_ = began;
    ++count_;
  }
  uint64_t count() const noexcept { return count_; }

 private:
  double limit_;
  std::optional<double> counted_;  // when that step began
  uint64_t count_ = 0;
};

}  // namespace nfloat

#endif  // NFLOAT_SERVER_STALL_WATCH_H_
