// SPDX-License-Identifier: Apache-2.0
#include "model/kv_cache.h"

#include <cstring>

namespace nfloat {
namespace {

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

int64_t element_bytes(kernels::KvType type) noexcept {
  return type == kernels::KvType::kF32 ? 4 : type == kernels::KvType::kF16 ? 2 : 1;
}

int64_t whole_groups(int64_t positions) noexcept {
  return (positions + kernels::kKeyGroup - 1) / kernels::kKeyGroup * kernels::kKeyGroup;
}

// Keys, values, and for int8 their scales, of one head; every part a multiple of 16 bytes.
int64_t bytes_of_head(kernels::KvType type, int64_t head_dim, int64_t room) noexcept {
  const int64_t scales = type == kernels::KvType::kInt8 ? 2 * room * 4 : 0;
  return 2 * room * head_dim * element_bytes(type) + scales;
}

}  // namespace

uint64_t kv_cache_bytes(const ModelConfig& config, KvCacheType type, int64_t context) noexcept {
  const int64_t head = bytes_of_head(kernel_type(type), config.head_dim, whole_groups(context));
  // The bounds of a configuration allow products beyond 64 bits: say "more than there is" instead.
  uint64_t heads = 0, bytes = 0;
  if (__builtin_mul_overflow(static_cast<uint64_t>(config.layers), static_cast<uint64_t>(config.kv_heads),
                             &heads) ||
      __builtin_mul_overflow(heads, static_cast<uint64_t>(head), &bytes))
    return UINT64_MAX;
  return bytes;
}

KvCache::KvCache(const ModelConfig& config, KvCacheType type, int64_t context)
    : type_(kernel_type(type)),
      layers_(config.layers),
      kv_heads_(config.kv_heads),
      head_dim_(config.head_dim),
      room_(whole_groups(context)),
      head_bytes_(bytes_of_head(type_, head_dim_, room_)),
      buffer_(static_cast<size_t>(layers_ * kv_heads_ * head_bytes_)) {}

std::byte* KvCache::base(int64_t layer, int64_t kv_head) const noexcept {
  return const_cast<std::byte*>(buffer_.data()) + (layer * kv_heads_ + kv_head) * head_bytes_;
}

kernels::KvHead KvCache::head(int64_t layer, int64_t kv_head) noexcept {
  std::byte* keys = base(layer, kv_head);
  std::byte* values = keys + room_ * head_dim_ * element_bytes(type_);
  if (type_ != kernels::KvType::kInt8) return {type_, head_dim_, keys, values, nullptr, nullptr};
  float* scales = reinterpret_cast<float*>(values + room_ * head_dim_);
  return {type_, head_dim_, keys, values, scales, scales + room_};
}

void KvCache::copy_from(const KvCache& other, int64_t positions) noexcept {
  const size_t key_bytes = static_cast<size_t>(whole_groups(positions) * head_dim_ * element_bytes(type_));
  const size_t value_bytes = static_cast<size_t>(positions * head_dim_ * element_bytes(type_));
  KvCache& source = const_cast<KvCache&>(other);
  for (int64_t layer = 0; layer < layers_; ++layer)
    for (int64_t h = 0; h < kv_heads_; ++h) {
      const kernels::KvHead to = head(layer, h), from = source.head(layer, h);
      std::memcpy(to.keys, from.keys, key_bytes);
      std::memcpy(to.values, from.values, value_bytes);
      if (to.key_scales == nullptr) continue;
      std::memcpy(to.key_scales, from.key_scales, static_cast<size_t>(positions) * 4);
      std::memcpy(to.value_scales, from.value_scales, static_cast<size_t>(positions) * 4);
    }
}

}  // namespace nfloat
