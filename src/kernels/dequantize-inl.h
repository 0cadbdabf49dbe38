// SPDX-License-Identifier: Apache-2.0
// Compiled once per target. Includer defines NFLOAT_TARGET_NAMESPACE.
#include "kernels/quantize.h"
#include "kernels/ranks-inl.h"

namespace nfloat::kernels::NFLOAT_TARGET_NAMESPACE {

// How one output type is written: the 16 products level * scale of a block are rounded once, and every code
// looks its product up. kStep values take kStep / 2 bytes of codes.
template <typename Element>
struct Decoder {
  static constexpr int kStep = 32;
  using Output = uint16_t;
  using Table = HalfTable;
  static Table products(const F32x16& levels, const F32x16& scale) noexcept {
    return half_table(multiply(levels, scale), Element{});
  }
  template <bool kStream>
  static void step(const uint8_t* codes, const Table& table, Output* to) noexcept {
    decode_halves<kStream>(codes, table, to);
  }
};

template <>
struct Decoder<float> {
  static constexpr int kStep = 16;
  using Output = float;
  using Table = F32x16;
  static Table products(const F32x16& levels, const F32x16& scale) noexcept {
    return multiply(levels, scale);
  }
  template <bool kStream>
  static void step(const uint8_t* codes, const Table& table, Output* to) noexcept {
    const F32x16 values = lookup16(table, expand_codes(codes));
    if constexpr (kStream) {
      stream16(to, values);
    } else {
      store16(to, values);
    }
  }
};

// At most kStep values; the first is the low nibble when `odd`.
template <typename Element>
static inline void decode_part(const uint8_t* codes, bool odd, int64_t count,
                               const typename Decoder<Element>::Table& table,
                               typename Decoder<Element>::Output* to) noexcept {
  using Kind = Decoder<Element>;
  uint8_t bytes[Kind::kStep / 2] = {};
  typename Kind::Output values[Kind::kStep];
  std::memcpy(bytes, codes, static_cast<size_t>((count + (odd ? 1 : 0) + 1) / 2));
  Kind::template step<false>(bytes, table, values);
  std::memcpy(to, values + (odd ? 1 : 0), static_cast<size_t>(count) * sizeof(*to));
}

// How far ahead codes are asked for when the output passes the caches.
inline constexpr int64_t kCodesAheadBytes = 2048;

template <typename Element, bool kStream>
static void decode_blocks_of(const DecodeArgs& args) noexcept {
  using Kind = Decoder<Element>;
  typename Kind::Output* output = static_cast<typename Kind::Output*>(args.output);
  const F32x16 levels = load16(args.table->levels);
  for (int64_t begin = 0, index = 0; begin < args.elements; begin += args.block_size, ++index) {
    const int64_t left = args.elements - begin;
    int64_t count = left < args.block_size ? left : args.block_size;
    const typename Kind::Table table = Kind::products(levels, splat16(args.scales[index]));
    const uint8_t* from = args.codes + begin / 2;
    if constexpr (kStream)
      for (int64_t i = 0; i < count / 2; i += 64) __builtin_prefetch(from + kCodesAheadBytes + i);
    typename Kind::Output* to = output + begin;
    if (begin % 2 != 0) {
      decode_part<Element>(from, true, 1, table, to);
      ++from, ++to, --count;
    }
    for (; count >= Kind::kStep; count -= Kind::kStep, from += Kind::kStep / 2, to += Kind::kStep)
      Kind::template step<kStream>(from, table, to);
    if (count > 0) decode_part<Element>(from, false, count, table, to);
  }
  if constexpr (kStream) stream_fence();
}

template <typename Element>
static void decode_as(const DecodeArgs& args) noexcept {
  // Streaming stores want whole cache lines.
  const bool aligned =
      args.block_size % Decoder<Element>::kStep == 0 && reinterpret_cast<uintptr_t>(args.output) % 64 == 0;
  if (args.stream && aligned) {
    decode_blocks_of<Element, true>(args);
  } else {
    decode_blocks_of<Element, false>(args);
  }
}

static void decode(const DecodeArgs& args) noexcept {
  switch (args.type) {
    case ElementType::kF16:
      return decode_as<F16>(args);
    case ElementType::kBF16:
      return decode_as<Bf16>(args);
    default:
      return decode_as<float>(args);
  }
}

}  // namespace nfloat::kernels::NFLOAT_TARGET_NAMESPACE
