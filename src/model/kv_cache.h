// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_MODEL_KV_CACHE_H_
#define NFLOAT_MODEL_KV_CACHE_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "engine/layer_engine.h"
#include "kernels/attention.h"
#include "model/page_pool.h"
#include "nfloat/model.h"

namespace nfloat {

// `type` is not kAuto.
kernels::KvType kernel_type(KvCacheType type) noexcept;

// What decides the size of a page.
CacheShape cache_shape(const ModelConfig& config, kernels::KvType type) noexcept;

// Keys and values of one sequence, all layers, in pages of a pool. A copy has the same past: it shares the
// pages, and what either writes into a shared one goes into a page of its own.
class KvCache {
 public:
  KvCache(KvCacheType type, std::shared_ptr<PagePool> pool);

  // Makes room to write the positions [begin, end), which no other cache sees. Throws kOutOfMemory; what the
  // cache holds stays as it is.
  void reserve(int64_t begin, int64_t end);
  // Gives back the pages that hold none of the first `positions`.
  void truncate(int64_t positions) noexcept;
  // Valid until pages are reserved or given back.
  CacheView view() const noexcept { return {type_, at_.data()}; }

 private:
  kernels::KvType type_;
  std::shared_ptr<PagePool> pool_;
  std::vector<PagePool::Page> pages_;
  std::vector<std::byte*> at_;  // where each page is
};

}  // namespace nfloat

#endif  // NFLOAT_MODEL_KV_CACHE_H_
