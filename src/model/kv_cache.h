// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_MODEL_KV_CACHE_H_
#define NFLOAT_MODEL_KV_CACHE_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "kernels/attention.h"
#include "model/page_pool.h"
#include "nfloat/model.h"

namespace nfloat {

// `type` is not kAuto.
kernels::KvType kernel_type(KvCacheType type) noexcept;

// Bytes of a page: kAttentionBlock positions of all layers and heads.
int64_t kv_page_bytes(const ModelConfig& config, kernels::KvType type) noexcept;

// Keys and values of one sequence, all layers, in pages of a pool. A copy has the same past: it shares the
// pages, and what either writes into a shared one goes into a page of its own.
class KvCache {
 public:
  KvCache(const ModelConfig& config, KvCacheType type, std::shared_ptr<PagePool> pool);

  // Makes room to write the positions [begin, end), which no other cache sees. Throws kOutOfMemory; what the
  // cache holds stays as it is.
  void reserve(int64_t begin, int64_t end);
  // Gives back the pages that hold none of the first `positions`.
  void truncate(int64_t positions) noexcept;
  kernels::KvHead head(int64_t layer, int64_t kv_head) const noexcept;

 private:
  kernels::KvType type_;
  int64_t kv_heads_;
  int64_t head_dim_;
  std::shared_ptr<PagePool> pool_;
  std::vector<PagePool::Page> pages_;
  std::vector<std::byte*> at_;  // where each page is
};

}  // namespace nfloat

#endif  // NFLOAT_MODEL_KV_CACHE_H_
