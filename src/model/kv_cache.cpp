// SPDX-License-Identifier: Apache-2.0
#include "model/kv_cache.h"

#include <utility>

namespace nfloat {
namespace {

constexpr int64_t kPage = kernels::kAttentionBlock;

size_t pages_for(int64_t positions) noexcept {
  return static_cast<size_t>((positions + kPage - 1) / kPage);
}

}  // namespace

kernels::KvType kernel_type(KvCacheType type) noexcept {
  switch (type) {
    case KvCacheType::kF32:
      return kernels::KvType::kF32;
    case KvCacheType::kInt8:
      return kernels::KvType::kInt8;
    case KvCacheType::kF16:
    case KvCacheType::kAuto:
      break;
  }
  return kernels::KvType::kF16;
}

CacheShape cache_shape(const ModelConfig& config, kernels::KvType type) noexcept {
  return {config.layers, config.kv_heads, config.head_dim, type, config.heads};
}

uint64_t kv_cache_bytes(const ModelConfig& config, KvCacheType type, int64_t context) noexcept {
  const auto head = static_cast<uint64_t>(kernels::kv_head_bytes(kernel_type(type), config.head_dim));
  // The bounds of a configuration allow products beyond 64 bits: say "more than there is" instead.
  uint64_t heads = 0, page = 0, bytes = 0;
  if (__builtin_mul_overflow(static_cast<uint64_t>(config.layers), static_cast<uint64_t>(config.kv_heads),
                             &heads) ||
      __builtin_mul_overflow(heads, head, &page) || __builtin_mul_overflow(page, pages_for(context), &bytes))
    return UINT64_MAX;
  return bytes;
}

KvCache::KvCache(KvCacheType type, std::shared_ptr<PagePool> pool)
    : type_(kernel_type(type)), pool_(std::move(pool)) {}

void KvCache::reserve(int64_t begin, int64_t end) {
  pages_.reserve(pages_for(end));
  at_.reserve(pages_for(end));
  for (auto i = static_cast<size_t>(begin / kPage); i < pages_for(end); ++i) {
    if (i < pages_.size() && pages_[i].use_count() == 1) continue;
    PagePool::Page page = pool_->take();
    if (i == pages_.size()) {
      at_.push_back(page.get());
      pages_.push_back(std::move(page));
      continue;
    }
    pool_->copy(page, pages_[i]);
    at_[i] = page.get();
    pages_[i] = std::move(page);
  }
}

void KvCache::truncate(int64_t positions) noexcept {
  if (pages_.size() <= pages_for(positions)) return;
  pages_.resize(pages_for(positions));
  at_.resize(pages_.size());
}

}  // namespace nfloat
