// SPDX-License-Identifier: Apache-2.0
#include "base/interruption.h"

#include <utility>

#include "base/fail.h"

namespace nfloat {
namespace {

thread_local const std::atomic<bool>* current_stop = nullptr;

}  // namespace

Interruptible::Interruptible(const std::atomic<bool>& stop) noexcept
    : outer_(std::exchange(current_stop, &stop)) {}
Interruptible::~Interruptible() {
  current_stop = outer_;
}

Uninterrupted::Uninterrupted() noexcept : outer_(std::exchange(current_stop, nullptr)) {}
Uninterrupted::~Uninterrupted() {
  current_stop = outer_;
}

const std::atomic<bool>* interruption() noexcept {
  return current_stop;
}

void end_if_interrupted() {
  if (current_stop != nullptr && current_stop->load(std::memory_order_relaxed))
    fail(ErrorCode::kInterrupted, "the call was cancelled");
}

}  // namespace nfloat
