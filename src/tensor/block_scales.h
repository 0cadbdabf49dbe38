// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_TENSOR_BLOCK_SCALES_H_
#define NFLOAT_TENSOR_BLOCK_SCALES_H_

#include <cstddef>
#include <cstdint>
#include <cstring>

// How a 4-bit matrix of the bitsandbytes layout is read, whoever holds its parts.
namespace nfloat {

// The code of an element: the even ones are in the high nibbles.
inline int code_at(const uint8_t* codes, int64_t element) noexcept {
  const uint8_t pair = codes[element / 2];
  return element % 2 == 0 ? pair >> 4 : pair & 15;
}

// Of a mapped file, where it need not be aligned.
inline float float_at(const void* floats, int64_t index) noexcept {
  float value;
  std::memcpy(&value, static_cast<const std::byte*>(floats) + index * 4, sizeof value);
  return value;
}

// The scales of blocks, borrowed: in float32, or in 8 bits.
class BlockScales {
 public:
  // One float32 a block.
  explicit BlockScales(const void* scales) noexcept : scales_(scales) {}
  // One code a block, a map of 256 floats, one float for `block` codes, and what is added. The first code is
  // the one of index `first` there.
  BlockScales(const void* codes, const void* map, const void* absmax, float offset, int64_t block,
              int64_t first = 0) noexcept
      : codes_(static_cast<const uint8_t*>(codes)),
        map_(map),
        absmax_(absmax),
        offset_(offset),
        block_(block),
        first_(first) {}

  // In bitsandbytes' order: map value times second-level scale, then the offset, each rounded to float32.
  float operator[](int64_t block) const noexcept {
    if (codes_ == nullptr) return float_at(scales_, block);
    return float_at(map_, codes_[block]) * float_at(absmax_, (first_ + block) / block_) + offset_;
  }

 private:
  const void* scales_ = nullptr;
  const uint8_t* codes_ = nullptr;  // null: `scales_` are meant
  const void* map_ = nullptr;
  const void* absmax_ = nullptr;
  float offset_ = 0;
  int64_t block_ = 1;
  int64_t first_ = 0;
};

}  // namespace nfloat

#endif  // NFLOAT_TENSOR_BLOCK_SCALES_H_
