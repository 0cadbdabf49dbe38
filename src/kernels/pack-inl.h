// SPDX-License-Identifier: Apache-2.0
// Weights, scales and activations into the order of the products (gemm.h). Compiled once per target; includer
// defines NFLOAT_TARGET_NAMESPACE.
#include <cstring>

#include "base/float16.h"
#include "kernels/gemm.h"
#include "kernels/simd/dot.h"
#include "kernels/unroll.h"

namespace nfloat::kernels::NFLOAT_TARGET_NAMESPACE {

inline constexpr int kPackAheadBytes = 1024;  // of each row, asked for while it is packed

static void nested_scales(const NestedArgs& a) noexcept {
  // Second-level blocks counted from that of the first row, so that 32 bits are enough.
  const int64_t base = a.first_block[0] >> a.absmax_shift;
  int32_t first[kPanelRows];
  for (int r = 0; r < kPanelRows; ++r)
    first[r] = static_cast<int32_t>(a.first_block[r] - (base << a.absmax_shift));
  const F32x16 offset = splat16(a.offset);
  for (int64_t begin = 0; begin < a.groups; begin += kMapGroups) {
    const int64_t end = begin + kMapGroups < a.groups ? begin + kMapGroups : a.groups;
    map_scales(*a.map, a.codes + begin * kPanelRows, static_cast<int>(end - begin),
               a.scales + begin * kPanelRows);
    for (int64_t g = begin; g < end; ++g) {
      float* scales = a.scales + g * kPanelRows;
      const F32x16 absmax = gather_shifted(a.absmax + base, first, static_cast<int32_t>(g), a.absmax_shift);
      store16(scales, add(multiply(load16(scales), absmax), offset));
    }
  }
}

// Turns a square of 16 by 16 words: four rounds of zips, each of which doubles how many words of a column are
// together.
static inline void transpose_words(Bytes64 (&square)[16]) noexcept {
  Bytes64 other[16];
  const auto round = [](const Bytes64(&from)[16], Bytes64(&to)[16]) {
    NFLOAT_UNROLL
    for (int i = 0; i < 8; ++i) {
      to[2 * i] = zip_low_words(from[i], from[i + 8]);
      to[2 * i + 1] = zip_high_words(from[i], from[i + 8]);
    }
  };
  round(square, other);
  round(other, square);
  round(square, other);
  round(other, square);
}

// What is turned: words as they are, words of codes, pairs or single halves of 16-bit floats, single bytes.
struct WordOrder {
  static Bytes64 of_row(const Bytes64& row) noexcept { return row; }
  static Bytes64 of_column(const Bytes64& column) noexcept { return column; }
};
struct CodeOrder {
  static Bytes64 of_row(const Bytes64& row) noexcept { return row; }
  static Bytes64 of_column(const Bytes64& column) noexcept { return pack_nibbles(column); }
};
struct PairOrder {
  static Bytes64 of_row(const Bytes64& row) noexcept { return order_pairs(row); }
  static Bytes64 of_column(const Bytes64& column) noexcept { return column; }
};
struct HalfOrder {
  static Bytes64 of_row(const Bytes64& row) noexcept { return row; }
  static Bytes64 of_column(const Bytes64& column) noexcept { return part_halves(column); }
};
struct ByteOrder {
  static Bytes64 of_row(const Bytes64& row) noexcept { return row; }
  static Bytes64 of_column(const Bytes64& column) noexcept { return part_bytes(column); }
};

// Words i of the sixteen rows to bytes 64 i of the output.
template <typename Order>
static void turn_words(const uint8_t* const* rows, int64_t words, uint8_t* output) noexcept {
  constexpr int64_t kSquare = 16;  // words in 64 bytes of a row
  constexpr int64_t kColumnBytes = kPanelRows * sizeof(uint32_t);
  Bytes64 square[kSquare];
  int64_t first = 0;
  for (; first + kSquare <= words; first += kSquare) {
    NFLOAT_UNROLL
    for (int r = 0; r < kPanelRows; ++r) {
      prefetch_far(rows[r] + 4 * first + kPackAheadBytes);
      square[r] = Order::of_row(load_bytes(rows[r] + 4 * first));
    }
    transpose_words(square);
    NFLOAT_UNROLL
    for (int i = 0; i < kSquare; ++i)
      stream_bytes(output + (first + i) * kColumnBytes, Order::of_column(square[i]));
  }
  if (first < words) {
    for (int r = 0; r < kPanelRows; ++r) {
      uint8_t rest[kColumnBytes] = {};
      std::memcpy(rest, rows[r] + 4 * first, static_cast<size_t>(words - first) * sizeof(uint32_t));
      square[r] = Order::of_row(load_bytes(rest));
    }
    transpose_words(square);
    for (int64_t i = first; i < words; ++i)
      store_bytes(output + i * kColumnBytes, Order::of_column(square[i - first]));
  }
  stream_fence();
}

static void x_f32(const float* x, int64_t k, int64_t m, float* output) noexcept {
  const int64_t whole = k / kOctet;
  for (int64_t i = 0; i < whole; ++i)
    std::memcpy(output + i * m * kOctet, x + i * kOctet, kOctet * sizeof(float));
  if (whole * kOctet == k) return;
  for (int64_t j = 0; j < kOctet; ++j)
    output[whole * m * kOctet + j] = whole * kOctet + j < k ? x[whole * kOctet + j] : 0.0f;
}

static void x_bf16(const float* x, int64_t k, int64_t m, uint16_t* output) noexcept {
  constexpr int kColumn[kOctet] = {0, 2, 4, 6, 1, 3, 5, 7};
  constexpr int64_t kPart = 64;  // rounded at once, in vectors
  for (int64_t begin = 0; begin < k; begin += kPart) {
    float part[kPart] = {};
    const float* from = x + begin;
    if (k - begin < kPart) {
      std::memcpy(part, from, static_cast<size_t>(k - begin) * sizeof(float));
      from = part;
    }
    uint16_t rounded[kPart];
    for (int64_t i = 0; i < kPart; ++i) rounded[i] = float_to_bf16(from[i]);
    for (int64_t i = 0; i < kPart && begin + i < k; i += kOctet) {
      uint16_t pairs[kOctet];
      for (int64_t j = 0; j < kOctet; ++j) pairs[j] = rounded[i + kColumn[j]];
      std::memcpy(output + (begin + i) * m, pairs, sizeof pairs);
    }
  }
}

// Whole numbers of -127..127, as int8_t or as words in the order of gemm.h. A block that holds NaN or an
// infinity is zeros with that for its scale, so that what is computed from it is NaN; one whose largest
// magnitude has no finite inverse is zeros too.
template <typename Whole>
static void x_whole(const float* x, int64_t k, int64_t m, int64_t block, Whole* output, float* scales,
                    int32_t* offsets) noexcept {
  constexpr int kWordColumn[kOctet] = {0, 2, 1, 3, 4, 6, 5, 7};
  constexpr int64_t kPart = 64;
  constexpr int32_t kInfinity = 0x7f800000;
  for (int64_t begin = 0; begin < k; begin += block) {
    const int64_t count = k - begin < block ? k - begin : block;
    int32_t bits = 0;  // of the largest magnitude: floats are ordered as their bits, NaN above infinity
    for (int64_t i = 0; i < count; ++i) {
      int32_t magnitude;
      std::memcpy(&magnitude, x + begin + i, sizeof magnitude);
      magnitude &= 0x7fffffff;
      bits = magnitude > bits ? magnitude : bits;
    }
    float largest;
    std::memcpy(&largest, &bits, sizeof largest);
    const bool zeros = bits >= kInfinity || largest < kSmallestMost;
    const float inverse = zeros ? 0.0f : 127.0f / largest;
    const int64_t counting = zeros ? 0 : count;
    int32_t sum = 0, products = 0;
    for (int64_t first = 0; first < block; first += kPart) {
      const int64_t part = block - first < kPart ? block - first : kPart;
      const int64_t inside = counting - first < part ? counting - first : part;
      int8_t rounded[kPart] = {};
      for (int64_t i = 0; i < inside; ++i) {
        const float scaled = x[begin + first + i] * inverse;
        const int32_t q = static_cast<int32_t>(scaled + (scaled < 0 ? -0.5f : 0.5f));
        sum += q;
        rounded[i] = static_cast<int8_t>(q);
      }
      for (int64_t i = 0; i < part; i += 2) products += rounded[i] * rounded[i + 1];
      for (int64_t i = 0; i < part; i += kOctet) {
        Whole octet[kOctet];
        for (int64_t j = 0; j < kOctet; ++j)
          octet[j] = rounded[i + (sizeof(Whole) == 1 ? j : int64_t{kWordColumn[j]})];
        std::memcpy(output + (begin + first + i) * m, octet, sizeof octet);
      }
    }
    *scales = largest / 127.0f;
    *offsets = sizeof(Whole) == 1 ? -128 * sum : -products;
    scales += m;
    offsets += m;
  }
}

}  // namespace nfloat::kernels::NFLOAT_TARGET_NAMESPACE
