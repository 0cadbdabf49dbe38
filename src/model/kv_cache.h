// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_MODEL_KV_CACHE_H_
#define NFLOAT_MODEL_KV_CACHE_H_

#include <cstdint>

#include "kernels/attention.h"
#include "nfloat/model.h"
#include "nfloat/tensor.h"

namespace nfloat {

// Keys and values of one sequence, all layers, room for `context` positions made at once.
class KvCache {
 public:
  KvCache(const ModelConfig& config, KvCacheType type, int64_t context);

  kernels::KvHead head(int64_t layer, int64_t kv_head) noexcept;
  // Copies the first `positions` of a cache of the same shape.
  void copy_from(const KvCache& other, int64_t positions) noexcept;

 private:
  std::byte* base(int64_t layer, int64_t kv_head) const noexcept;

  kernels::KvType type_;
  int64_t layers_;
  int64_t kv_heads_;
  int64_t head_dim_;
  int64_t room_;  // positions, whole groups
  int64_t head_bytes_;
  Buffer buffer_;
};

}  // namespace nfloat

#endif  // NFLOAT_MODEL_KV_CACHE_H_
