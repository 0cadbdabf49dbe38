// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_BASE_FNV_H_
#define NFLOAT_BASE_FNV_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

namespace nfloat {

// FNV-1a of 64 bits: finds damage and tells texts apart, no protection against whoever means harm. What it
// gives is kept in files.
inline constexpr uint64_t kFnvStart = 0xcbf29ce484222325u;

// Takes in the next byte, or word.
constexpr uint64_t fnv_step(uint64_t hash, uint64_t next) noexcept {
  return (hash ^ next) * 0x100000001b3u;
}

constexpr uint64_t fnv(std::string_view text, uint64_t hash = kFnvStart) noexcept {
  for (const char c : text) hash = fnv_step(hash, static_cast<uint8_t>(c));
  return hash;
}

inline uint64_t fnv(std::span<const std::byte> bytes, uint64_t hash = kFnvStart) noexcept {
  for (const std::byte byte : bytes) hash = fnv_step(hash, static_cast<uint64_t>(byte));
  return hash;
}

}  // namespace nfloat

#endif  // NFLOAT_BASE_FNV_H_
