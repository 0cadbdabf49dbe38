// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_BASE_CHECKSUM_H_
#define NFLOAT_BASE_CHECKSUM_H_

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <span>
#include <string>

#include "base/fnv.h"

namespace nfloat {

// Finds damage of large contents faster than disks give them, no protection against whoever means harm.
// FNV-1a over words of 64 bits, turned after each so that no change stays in the highest bits: any change
// within one word changes the sum. What it gives is kept in files.
class Checksum {
 public:
  // All pieces but the last are multiples of 8 bytes; what is left over counts as filled up with zeros.
  void add(std::span<const std::byte> bytes) noexcept {
    for (size_t at = 0; at < bytes.size(); at += 8) {
      uint64_t word = 0;
      std::memcpy(&word, bytes.data() + at, std::min<size_t>(8, bytes.size() - at));
      sum_ = std::rotl(fnv_step(sum_, word), 32);
    }
  }
  uint64_t value() const noexcept { return sum_ ^ sum_ >> 32; }

 private:
  uint64_t sum_ = kFnvStart;
};

// Of a file's bytes. Throws kIo naming it; kInterrupted once `cancelled`, which may be empty, says so.
uint64_t checksum_of_file(const std::string& path, const std::function<bool()>& cancelled = nullptr);

}  // namespace nfloat

#endif  // NFLOAT_BASE_CHECKSUM_H_
