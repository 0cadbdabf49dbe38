// SPDX-License-Identifier: Apache-2.0
#include "base/parallel.h"
#include "formats/families.h"
#include "nfloat/gguf.h"

namespace nfloat {
namespace {

// GGUF's blocks: through the bytes that `nfloat convert` writes, so that what is measured is what is had.
struct Kind {
  const char* name;
  const char* summary;
  GgufType type;
};
constexpr Kind kQ40 = {"q4_0", "llama.cpp's Q4_0: 16 even steps, a float16 scale for 32", GgufType::kQ4_0};
constexpr Kind kQ4K = {"q4_k", "llama.cpp's Q4_K: even steps, 6-bit scales and minima under float16 for 256",
                       GgufType::kQ4_K};
constexpr Kind kQ5K = {"q5_k", "llama.cpp's Q5_K: Q4_K with 5 bits", GgufType::kQ5_K};
constexpr Kind kQ6K = {"q6_k", "llama.cpp's Q6_K: 6 bits, 8-bit scales for 16 under float16 for 256",
                       GgufType::kQ6_K};
constexpr Kind kIq4Nl = {"iq4_nl", "llama.cpp's IQ4_NL: an uneven table, a fitted float16 scale for 32",
                         GgufType::kIQ4_NL};
constexpr Kind kIq4Xs = {"iq4_xs", "llama.cpp's IQ4_XS: IQ4_NL's table, 6-bit scales under float16 for 256",
                         GgufType::kIQ4_XS};
constexpr Kind kQ80 = {"q8_0", "llama.cpp's Q8_0: 8 bits, a float16 scale for 32", GgufType::kQ8_0};

class GgufFormat final : public Format {
 public:
  explicit GgufFormat(const Kind& kind)
      : Format(kind.name, kind.summary), type_(kind.type), info_(gguf_type_info(kind.type)) {}

  StoredWeights round_trip(std::span<float> weights, int64_t, int64_t cols, int threads) const override {
    expect_whole_blocks(*this, cols);
    expect_finite(weights);
    const int64_t blocks = static_cast<int64_t>(weights.size()) / info_.block_elements;
    parallel_for(blocks, 16384 / info_.block_elements, threads, [&](int64_t begin, int64_t end) {
      const auto own = weights.subspan(static_cast<size_t>(begin * info_.block_elements),
                                       static_cast<size_t>((end - begin) * info_.block_elements));
      std::vector<std::byte> stored(static_cast<size_t>((end - begin) * info_.block_bytes));
      encode_gguf(type_, own, stored);
      decode_gguf(type_, stored, own);
    });
    return {static_cast<uint64_t>(blocks) * static_cast<uint64_t>(info_.block_bytes), {}};
  }
  double bits_per_weight() const noexcept override {
    return 8.0 * static_cast<double>(info_.block_bytes) / static_cast<double>(info_.block_elements);
  }
  int64_t block_size() const noexcept override { return info_.block_elements; }

 private:
  GgufType type_;
  const GgufTypeInfo& info_;
};

template <const Kind& kKind>
std::unique_ptr<Format> make_gguf_format(std::span<const std::string> parts) {
  expect_no_options(parts);
  return std::make_unique<GgufFormat>(kKind);
}

template <const Kind& kKind>
FormatEntry entry() {
  return {{kKind.name, kKind.summary}, make_gguf_format<kKind>};
}

}  // namespace

std::vector<FormatEntry> gguf_formats() {
  return {entry<kQ40>(),   entry<kQ4K>(),   entry<kQ5K>(), entry<kQ6K>(),
          entry<kIq4Nl>(), entry<kIq4Xs>(), entry<kQ80>()};
}

}  // namespace nfloat
