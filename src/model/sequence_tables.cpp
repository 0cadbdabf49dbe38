// SPDX-License-Identifier: Apache-2.0
#include "model/sequence_tables.h"

#include <algorithm>

#include "model/kv_cache.h"

namespace nfloat {
namespace {

// Two lengths that give the same have the same angles. Only dynamic scaling follows every length; LongRoPE
// asks whether it exceeds the original context.
int64_t table_length(const ModelConfig& config, const RopeConfig& rope, int64_t length) noexcept {
  const bool follows = rope.scaling == RopeScaling::kDynamic || rope.scaling == RopeScaling::kLongRope;
  if (follows && length <= rope.original_context) return rope.original_context;
  if (rope.scaling == RopeScaling::kDynamic) return length;
  return std::max(config.context, length);
}

}  // namespace

std::shared_ptr<RopeTable> SequenceTables::rope(const ModelConfig& config, LayerRope which, int64_t length) {
  bool wanted = false;
  for (int64_t layer = 0; layer < config.layers; ++layer)
    wanted = wanted || config.layer(layer).rope == which;
  if (!wanted) return nullptr;
  const RopeConfig& rope = which == LayerRope::kMain ? config.rope : config.local_rope;
  const int64_t own = table_length(config, rope, length);
  const std::scoped_lock lock(mutex_);
  std::shared_ptr<RopeTable>& table = ropes_[{which, own}];
  if (!table)
    table = std::make_shared<RopeTable>(rope, config.rotary_dim > 0 ? config.rotary_dim : config.head_dim,
                                        own, device_);
  return table;
}

std::shared_ptr<PagePool> SequenceTables::pages(const ModelConfig& config, kernels::KvType type) {
  const std::scoped_lock lock(mutex_);
  std::shared_ptr<PagePool>& pool = pages_[type];
  if (!pool) pool = own_pages(config, type);
  return pool;
}

std::shared_ptr<PagePool> SequenceTables::own_pages(const ModelConfig& config, kernels::KvType type) const {
  return std::make_shared<PagePool>(cache_shape(config, type), budget_bytes_, device_);
}

}  // namespace nfloat
