// SPDX-License-Identifier: Apache-2.0
// A 4-bit matrix on a device, in the byte order of the file, and how kernels read it.
#ifndef NFLOAT_CUDA_NF4_H_
#define NFLOAT_CUDA_NF4_H_

#include "cuda/warp.h"

namespace nfloat::gpu {
inline namespace NFLOAT_MACHINE {

inline constexpr int kNestedShift = 8;  // 256 scales share a second-level absmax

// [rows, columns] codes, two a byte, the earlier in the high nibble, and one scale for 2^block_shift
// consecutive codes: float32 in `scales`, or, where `nested` is not null, map[nested[i]] * nested_absmax[i /
// 256] + offset. Device pointers; codes on 16 bytes. Kernels for products need columns divisible by 64 and
// blocks of 64 or a larger power of two; in conversions rows * columns is the number of elements, any.
struct Nf4 {
  const uint8_t* codes;
  const float* scales;
  const uint8_t* nested;
  const float* nested_absmax;
  const float* map;     // 256 levels of the second code
  const float* offset;  // one float
  const float* levels;  // 16, by code
  int64_t rows, columns;
  int block_shift;

  int64_t elements() const { return rows * columns; }
};

// The scale of one block; the product is rounded before the sum, as on the CPU.
NFLOAT_DEVICE float scale_of(const Nf4& w, int64_t block) {
  if (w.nested == nullptr) return load_cached(w.scales + block);
  const float level = load_cached(w.map + load_cached(w.nested + block));
  return add_rounded(multiply_rounded(level, load_cached(w.nested_absmax + (block >> kNestedShift))),
                     load_cached(w.offset));
}

// A scale on its way: read early, worked out later, so that the read of the second code's level does not wait
// for the read of its index.
struct RawScale {
  float value;  // the scale, or the second-level absmax
  uint32_t index;
};
NFLOAT_DEVICE RawScale raw_scale_of(const Nf4& w, int64_t block) {
  if (w.nested == nullptr) return {load_cached(w.scales + block), 0};
  return {load_cached(w.nested_absmax + (block >> kNestedShift)), load_cached(w.nested + block)};
}
// `map`: the 256 levels, in shared memory; null for float scales.
NFLOAT_DEVICE float scale_from(const RawScale& raw, const float* map, float offset) {
  if (map == nullptr) return raw.value;
  return add_rounded(multiply_rounded(map[raw.index], raw.value), offset);
}

// Both levels of every byte, the earlier one first, in kCopies copies side by side, so that lanes which look
// up unlike bytes seldom meet in a bank of shared memory. Entry: bf16 pairs (one word) or float pairs.
template <int kCopies>
struct PairTable {
  static_assert(kCopies % 4 == 0);
  alignas(16) uint32_t pairs[256 * kCopies];

  NFLOAT_DEVICE void fill(const float* levels) {
    for (int i = thread(); i < 64 * kCopies; i += threads()) {
      const int byte = i / (kCopies / 4);
      const uint32_t pair = pack_bf16(load_cached(levels + (byte >> 4)), load_cached(levels + (byte & 15)));
      reinterpret_cast<uint4*>(pairs)[i] = uint4{pair, pair, pair, pair};
    }
  }
  // The pair of byte `index` of a word; `place` is place_of(lane).
  NFLOAT_DEVICE uint32_t of(uint32_t word, int index, uint32_t place) const {
    constexpr int kShift = kCopies == 4 ? 4 : kCopies == 8 ? 5 : kCopies == 16 ? 6 : 7;  // bytes of an entry
    const int shift = 8 * index - kShift;
    const uint32_t moved = shift < 0 ? word << -shift : word >> shift;
    return *reinterpret_cast<const uint32_t*>(reinterpret_cast<const char*>(pairs) +
                                              ((moved & (255u << kShift)) | place));
  }
  static NFLOAT_DEVICE uint32_t place_of(int lane) { return static_cast<uint32_t>(lane % kCopies) * 4; }
};

template <int kCopies>
struct FloatPairTable {
  alignas(16) float2 pairs[256 * kCopies];

  NFLOAT_DEVICE void fill(const float* levels) {
    for (int i = thread(); i < 256 * kCopies; i += threads()) {
      const int byte = i / kCopies;
      pairs[i] = float2{load_cached(levels + (byte >> 4)), load_cached(levels + (byte & 15))};
    }
  }
  NFLOAT_DEVICE float2 at(uint32_t byte, int lane) const {
    return pairs[byte * kCopies + static_cast<uint32_t>(lane % kCopies)];
  }
};

NFLOAT_DEVICE float bf16_value(uint32_t low_half) {
  return bits_to_float(low_half << 16);
}

}  // namespace NFLOAT_MACHINE
}  // namespace nfloat::gpu

#endif  // NFLOAT_CUDA_NF4_H_
