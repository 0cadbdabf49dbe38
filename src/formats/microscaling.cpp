// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>

#include "base/parallel.h"
#include "formats/families.h"

namespace nfloat {
namespace {

// To the nearest value of a small float with `mantissa` bits whose least exponent is `least` (subnormals
// below), ties to even, saturating at `most`.
float round_small_float(float value, int mantissa, int least, float most) noexcept {
  const float magnitude = std::fabs(value);
  if (magnitude == 0) return 0;
  int exponent;
  std::frexp(magnitude, &exponent);
  const float unit = std::ldexp(1.0f, std::max(exponent - 1, least) - mantissa);
  return std::copysign(std::min(most, std::nearbyint(magnitude / unit) * unit), value);
}

float round_e2m1(float value) noexcept {
  return round_small_float(value, 1, 0, 6.0f);
}
float round_e4m3(float value) noexcept {
  return round_small_float(value, 3, -6, 448.0f);
}

float largest_magnitude(std::span<const float> values) noexcept {
  float largest = 0;
  for (const float value : values) largest = std::max(largest, std::fabs(value));
  return largest;
}

void scale_e2m1(std::span<float> values, float scale) noexcept {
  for (float& value : values) value = scale > 0 ? round_e2m1(value / scale) * scale : 0.0f;
}

double squared_error(std::span<const float> values, float scale) noexcept {
  double sum = 0;
  for (const float value : values) {
    const double error = scale > 0 ? value - round_e2m1(value / scale) * scale : value;
    sum += error * error;
  }
  return sum;
}

// body(block) over blocks of `block` weights.
template <typename Body>
void over_blocks(std::span<float> weights, int64_t block, int threads, Body&& body) {
  const int64_t blocks = static_cast<int64_t>(weights.size()) / block;
  parallel_for(blocks, 16384 / block, threads, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b)
      body(weights.subspan(static_cast<size_t>(b * block), static_cast<size_t>(block)));
  });
}

// OCP microscaling: 32 elements of E2M1 under a power of two, by the specification's floor rule.
class Mxfp4 final : public Format {
 public:
  Mxfp4() : Format("mxfp4", "OCP MXFP4: E2M1 elements, a power of two for 32 of them") {}

  StoredWeights round_trip(std::span<float> weights, int64_t, int64_t cols, int threads) const override {
    expect_whole_blocks(*this, cols);
    expect_finite(weights);
    over_blocks(weights, 32, threads, [](std::span<float> block) {
      const float largest = largest_magnitude(block);
      if (largest == 0) return;
      const int exponent = std::clamp(std::ilogb(largest) - 2, -127, 127);
      scale_e2m1(block, std::ldexp(1.0f, exponent));
    });
    return {weights.size() / 2 + weights.size() / 32, {}};
  }
  double bits_per_weight() const noexcept override { return 4.25; }
  int64_t block_size() const noexcept override { return 32; }
};

// E2M1 elements, an E4M3 scale for 16, a float32 scale for the tensor that brings the largest one to 448.
class Nvfp4 final : public Format {
 public:
  explicit Nvfp4(bool choose_four)
      : Format(choose_four ? "nvfp4-4over6" : "nvfp4",
               choose_four ? "NVFP4, each block's largest weight at 4 or at 6, whichever errs less"
                           : "NVFP4: E2M1 elements, an E4M3 scale for 16 of them, one float32 a tensor"),
        choose_four_(choose_four) {}

  StoredWeights round_trip(std::span<float> weights, int64_t, int64_t cols, int threads) const override {
    expect_whole_blocks(*this, cols);
    expect_finite(weights);
    // A largest weight put at 4 needs scales half again as large.
    const float top = choose_four_ ? 256.0f : 448.0f;
    const float tensor_scale = largest_magnitude(weights) / (6.0f * top);
    if (!(tensor_scale > 0)) return {stored_bytes(weights.size()), {}};
    const auto scale_for = [tensor_scale](float largest, float at) {
      return round_e4m3(largest / at / tensor_scale) * tensor_scale;
    };
    const bool choose = choose_four_;
    over_blocks(weights, 16, threads, [&scale_for, choose](std::span<float> block) {
      const float largest = largest_magnitude(block);
      float scale = scale_for(largest, 6.0f);
      if (choose) {
        const float four = scale_for(largest, 4.0f);
        if (squared_error(block, four) < squared_error(block, scale)) scale = four;
      }
      scale_e2m1(block, scale);
    });
    return {stored_bytes(weights.size()), {}};
  }
  double bits_per_weight() const noexcept override { return 4.5; }
  int64_t block_size() const noexcept override { return 16; }

 private:
  static uint64_t stored_bytes(size_t elements) noexcept { return elements / 2 + elements / 16 + 4; }
  bool choose_four_;
};

template <typename Made, bool... kArguments>
std::unique_ptr<Format> make_microscaling(std::span<const std::string> parts) {
  expect_no_options(parts);
  return std::make_unique<Made>(kArguments...);
}

}  // namespace

std::vector<FormatEntry> microscaling_formats() {
  return {{{"mxfp4", "OCP microscaling, 4 bits"}, make_microscaling<Mxfp4>},
          {{"nvfp4", "NVIDIA's 4-bit float"}, make_microscaling<Nvfp4, false>},
          {{"nvfp4-4over6", "the same with two choices of scale (\"four over six\")"},
           make_microscaling<Nvfp4, true>}};
}

}  // namespace nfloat
