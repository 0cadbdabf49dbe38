// SPDX-License-Identifier: Apache-2.0
#include "model/page_pool.h"

#include <utility>

#include "base/fail.h"
#include "model/loader.h"

namespace nfloat {

namespace {

constexpr uint64_t kCheckEveryBytes = uint64_t{64}
                                      << 20;  // reading what the machine has takes 20 microseconds

}  // namespace

PagePool::Page PagePool::take() {
  Page page;
  {
    const std::scoped_lock lock(mutex_);
    const uint64_t wanted = (used_ + 1) * page_bytes_;
    if (budget_bytes_ != 0 && wanted > budget_bytes_)
      fail(ErrorCode::kOutOfMemory, "keys and values take {} KiB, their budget is {} KiB", wanted >> 10,
           budget_bytes_ >> 10);
    if (!idle_.empty()) {
      page = std::move(idle_.back());
      idle_.pop_back();
    } else if (wanted / kCheckEveryBytes != (wanted - page_bytes_) / kCheckEveryBytes) {
      check_available_memory(own_bytes_, "the next part of the keys and values", device_.get());
    }
    idle_.reserve(idle_.size() + static_cast<size_t>(used_) + 1);  // giving back must not fail
    ++used_;
  }
  std::shared_ptr<Page> owner;
  try {
    if (!page) page = device_->page(own_bytes_);
    owner = std::make_shared<Page>(std::move(page));
  } catch (...) {
    const std::scoped_lock lock(mutex_);
    --used_;
    throw;
  }
  std::byte* data = owner->get();  // where this fails, the page is given back
  return {data,
          [pool = shared_from_this(), owner](std::byte*) noexcept { pool->give_back(std::move(*owner)); }};
}

void PagePool::give_back(Page memory) noexcept {
  const std::scoped_lock lock(mutex_);
  idle_.push_back(std::move(memory));
  --used_;
}

uint64_t PagePool::used_bytes() const noexcept {
  const std::scoped_lock lock(mutex_);
  return used_ * page_bytes_;
}

}  // namespace nfloat
