// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_INTERRUPT_H_
#define NFLOAT_INTERRUPT_H_

#include <atomic>

#include "nfloat/api.h"

namespace nfloat {

// While one lives, calls that its thread makes end with kInterrupted a few milliseconds after `stop` became
// true (by any thread, or a signal handler): those over arrays (quantize, dequantize, convert elements, pack,
// products, formats, analysis) and those over texts (encode, decode). What such a call was to write is then
// written in part. Calls with progress or a control of their own look at those only. They nest: the inner one
// counts.
class NFLOAT_API Interruptible {
 public:
  explicit Interruptible(const std::atomic<bool>& stop) noexcept;
  ~Interruptible();
  Interruptible(const Interruptible&) = delete;
  Interruptible& operator=(const Interruptible&) = delete;

 private:
  const std::atomic<bool>* outer_;
};

}  // namespace nfloat

#endif  // NFLOAT_INTERRUPT_H_
