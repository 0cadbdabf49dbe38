// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_MODEL_PAGE_POOL_H_
#define NFLOAT_MODEL_PAGE_POOL_H_

#include <cstdint>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "engine/device.h"

namespace nfloat {

// Pages of equal size, for the keys and values of sessions of one model. A page that is no longer used
// comes back and is given out again. For use by any number of threads.
class PagePool : public std::enable_shared_from_this<PagePool> {
 public:
  // A page, shared by the sequences that have the same past; the last owner gives it back.
  using Page = std::shared_ptr<std::byte>;

  // `budget_bytes`: 0 for what the machine has. Of several ranks `page_bytes` and the budget are those of all
  // together, so that they agree on what there is room for, and `own_bytes` are what this one keeps of a
  // page.
  PagePool(size_t page_bytes, uint64_t budget_bytes, std::shared_ptr<Device> device,
           size_t own_bytes) noexcept
      : page_bytes_(page_bytes),
        own_bytes_(own_bytes),
        budget_bytes_(budget_bytes),
        device_(std::move(device)) {}
  PagePool(size_t page_bytes, uint64_t budget_bytes,
           std::shared_ptr<Device> device = default_device()) noexcept
      : PagePool(page_bytes, budget_bytes, std::move(device), page_bytes) {}
  PagePool(const CacheShape& shape, uint64_t budget_bytes, const std::shared_ptr<Device>& device) noexcept
      : PagePool(static_cast<size_t>(device->page_bytes(shape)), budget_bytes, device,
                 static_cast<size_t>(device->own_page_bytes(shape))) {}

  // What is in it is not specified. Throws kOutOfMemory with the numbers.
  Page take();
  void copy(const Page& to, const Page& from) { device_->copy_page(to.get(), from.get(), own_bytes_); }

  size_t page_bytes() const noexcept { return page_bytes_; }
  uint64_t used_bytes() const noexcept;  // of pages that have an owner

 private:
  void give_back(Page memory) noexcept;

  const size_t page_bytes_, own_bytes_;
  const uint64_t budget_bytes_;
  const std::shared_ptr<Device> device_;
  mutable std::mutex mutex_;
  std::vector<Page> idle_;
  uint64_t used_ = 0;  // pages
};

}  // namespace nfloat

#endif  // NFLOAT_MODEL_PAGE_POOL_H_
