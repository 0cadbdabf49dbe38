// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_TUNE_RANDOM_H_
#define NFLOAT_TUNE_RANDOM_H_

#include <cstddef>
#include <cstdint>
#include <numeric>
#include <utility>
#include <vector>

// Random numbers by their place, not by their turn: neither threads nor a resumed run can change them.
namespace nfloat {

enum class RandomUse : uint64_t { kStart = 1, kOrder = 2, kDropout = 3 };

// SplitMix64's finalizer (Steele, Lea, Flood 2014) over a running sum.
inline uint64_t mixed(uint64_t x) noexcept {
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}
inline uint64_t random_bits(uint64_t seed, RandomUse use, uint64_t first, uint64_t second) noexcept {
  return mixed(mixed(mixed(mixed(seed) ^ static_cast<uint64_t>(use)) ^ first) ^ second);
}
// In [0, 1), multiples of 2^-53.
inline double uniform(uint64_t seed, RandomUse use, uint64_t first, uint64_t second) noexcept {
  return static_cast<double>(random_bits(seed, use, first, second) >> 11) * 0x1p-53;
}

// The numbers from 0 on, ascending; and in the order of one turn through the data (Fisher and Yates).
inline std::vector<size_t> in_order(size_t count) {
  std::vector<size_t> order(count);
  std::iota(order.begin(), order.end(), size_t{0});
  return order;
}
inline std::vector<size_t> shuffled(size_t count, uint64_t seed, uint64_t turn) {
  std::vector<size_t> order = in_order(count);
  for (size_t i = count; i > 1; --i)
    std::swap(order[i - 1], order[random_bits(seed, RandomUse::kOrder, turn, i) % i]);
  return order;
}

}  // namespace nfloat

#endif  // NFLOAT_TUNE_RANDOM_H_
