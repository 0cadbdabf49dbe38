// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_BASE_INTERRUPTION_H_
#define NFLOAT_BASE_INTERRUPTION_H_

#include <atomic>
#include <cstdint>

#include "nfloat/interrupt.h"

namespace nfloat {

// What ends the work of this thread (nfloat/interrupt.h); null: nothing does.
const std::atomic<bool>* interruption() noexcept;

// Throws kInterrupted when this thread's work is to end. For what is no parallel_for, which looks itself.
void end_if_interrupted();

// The same at every 1024th step of a loop whose steps are short.
class Looks {
 public:
  void step() {
    if (++steps_ % 1024 == 0) end_if_interrupted();
  }

 private:
  uint32_t steps_ = 0;
};

// Within it nothing ends this thread's work: a body of a parallel loop, which must not throw.
class Uninterrupted {
 public:
  Uninterrupted() noexcept;
  ~Uninterrupted();
  Uninterrupted(const Uninterrupted&) = delete;
  Uninterrupted& operator=(const Uninterrupted&) = delete;

 private:
  const std::atomic<bool>* outer_;
};

}  // namespace nfloat

#endif  // NFLOAT_BASE_INTERRUPTION_H_
