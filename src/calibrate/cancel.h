// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_CALIBRATE_CANCEL_H_
#define NFLOAT_CALIBRATE_CANCEL_H_

#include <atomic>
#include <functional>

#include "base/fail.h"
#include "engine/linear_id.h"

namespace nfloat {

using CancelQuestion = std::function<bool()>;

// The question that Cancel asks on this thread while this lives.
class CancelScope {
 public:
  explicit CancelScope(const CancelQuestion& question) noexcept : before_(current()) {
    current() = question ? &question : nullptr;
  }
  CancelScope(const CancelScope&) = delete;
  CancelScope& operator=(const CancelScope&) = delete;
  ~CancelScope() { current() = before_; }

  static const CancelQuestion*& current() noexcept {
    thread_local const CancelQuestion* question = nullptr;
    return question;
  }

 private:
  const CancelQuestion* const before_;
};

// Whether the work is to end: asked in loops of more than a fraction of a second. The bodies of parallel
// loops see asked() and return, leaving theirs undone; whoever began the loop calls expect_none() behind it.
class Cancel {
 public:
  Cancel() noexcept : question_(CancelScope::current()) {}

  // From any thread.
  bool asked() const noexcept {
    if (question_ != nullptr && !seen_ && (*question_)()) seen_ = true;
    return seen_;
  }
  // Throws kInterrupted.
  void expect_none() const {
    if (asked()) fail(ErrorCode::kInterrupted, "the calibration was cancelled");
  }

 private:
  const CancelQuestion* const question_;
  mutable std::atomic<bool> seen_ = false;
};

// Asks before every product of a layer. `seeing`: who sees the products, or null.
class CancelObserver : public LinearObserver {
 public:
  explicit CancelObserver(LinearObserver* seeing) noexcept : seeing_(seeing) {}
  void input(const LinearId& id, const ActivationRows& x) override {
    cancel_.expect_none();
    if (seeing_ != nullptr) seeing_->input(id, x);
  }
  void output(const LinearId& id, const ActivationRows& x, float* y, int64_t y_stride) override {
    if (seeing_ != nullptr) seeing_->output(id, x, y, y_stride);
  }

 private:
  LinearObserver* const seeing_;
  const Cancel cancel_;
};

}  // namespace nfloat

#endif  // NFLOAT_CALIBRATE_CANCEL_H_
