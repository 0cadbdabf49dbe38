// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>

#include "base/float16.h"
#include "base/parallel.h"
#include "formats/families.h"

namespace nfloat {
namespace {

// What GPTQ and AWQ store: groups inside a row, values 0 to 15, a float16 scale and an integer zero point.
class AsymmetricInt4 final : public Format {
 public:
  explicit AsymmetricInt4(int64_t group)
      : Format("int4-asym:" + std::to_string(group),
               "integers 0 to 15, float16 scale and 4-bit zero point for " + std::to_string(group) +
                   " weights of a row"),
        group_(group) {}

  StoredWeights round_trip(std::span<float> weights, int64_t rows, int64_t cols, int threads) const override {
    expect_finite(weights);
    const int64_t groups = (cols + group_ - 1) / group_;
    parallel_for(rows, std::max<int64_t>(1, 16384 / std::max<int64_t>(1, cols)), threads,
                 [&](int64_t begin, int64_t end) {
                   for (int64_t row = begin; row < end; ++row) {
                     const auto values =
                         weights.subspan(static_cast<size_t>(row * cols), static_cast<size_t>(cols));
                     for (int64_t g = 0; g < groups; ++g)
                       code(values.subspan(static_cast<size_t>(g * group_),
                                           static_cast<size_t>(std::min(group_, cols - g * group_))));
                   }
                 });
    const auto scales = static_cast<uint64_t>(rows * groups);
    return {(weights.size() + 1) / 2 + 2 * scales + (scales + 1) / 2, {}};
  }
  double bits_per_weight() const noexcept override { return 4 + 20.0 / static_cast<double>(group_); }
  int64_t block_size() const noexcept override { return group_; }

 private:
  static void code(std::span<float> values) noexcept {
    const auto [least, largest] = std::minmax_element(values.begin(), values.end());
    const float low = std::min(*least, 0.0f), high = std::max(*largest, 0.0f);
    const float scale = f16_to_float(float_to_f16((high - low) / 15.0f));
    const float inverse = scale > 0 && std::isfinite(scale) ? 1.0f / scale : 0.0f;
    const float zero = std::clamp(std::nearbyint(-low * inverse), 0.0f, 15.0f);
    for (float& value : values) {
      const float q = std::clamp(std::nearbyint(value * inverse) + zero, 0.0f, 15.0f);
      value = inverse > 0 ? (q - zero) * scale : 0.0f;
    }
  }

  int64_t group_;
};

std::unique_ptr<Format> make_integer_format(std::span<const std::string> parts) {
  if (parts.size() > 2) expect_no_options(parts.subspan(1));
  return std::make_unique<AsymmetricInt4>(parts.size() > 1 ? parse_block_size(parts[1], 8) : 128);
}

}  // namespace

std::vector<FormatEntry> integer_formats() {
  return {{{"int4-asym[:BLOCK]", "asymmetric integers with zero point, as GPTQ and AWQ store them"},
           make_integer_format}};
}

}  // namespace nfloat
