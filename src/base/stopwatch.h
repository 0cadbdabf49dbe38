// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_BASE_STOPWATCH_H_
#define NFLOAT_BASE_STOPWATCH_H_

#include <chrono>

namespace nfloat {

// Begins with its object.
class Stopwatch {
 public:
  double seconds() const noexcept { return std::chrono::duration<double>(Clock::now() - start_).count(); }

 private:
  using Clock = std::chrono::steady_clock;
  Clock::time_point start_ = Clock::now();
};

}  // namespace nfloat

#endif  // NFLOAT_BASE_STOPWATCH_H_
