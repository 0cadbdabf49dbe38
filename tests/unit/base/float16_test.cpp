// SPDX-License-Identifier: Apache-2.0
#include "base/float16.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace nfloat {
namespace {

// The 16-bit value nearest to `value` by search among the two neighbours in the format, ties to even.
template <typename Widen>
uint16_t nearest_by_search(float value, uint16_t infinity, Widen widen) {
  const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  const double magnitude = std::fabs(static_cast<double>(value));
  uint16_t low = 0, high = infinity;
  while (high - low > 1) {
    const auto middle = static_cast<uint16_t>((low + high) / 2);
    (static_cast<double>(widen(middle)) <= magnitude ? low : high) = middle;
  }
  const double below = widen(low);
  // Infinity stands where the next finite value would be.
  const double above =
      high == infinity ? below + (below - widen(static_cast<uint16_t>(low - 1))) : widen(high);
  const double to_low = magnitude - below, to_high = above - magnitude;
  const bool up = to_high < to_low || (to_high == to_low && (low & 1) != 0);
  return static_cast<uint16_t>(sign | (up ? high : low));
}

TEST(Float16, RoundTripsEveryPattern) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const auto half = static_cast<uint16_t>(bits);
    if (std::isnan(f16_to_float(half))) {
      EXPECT_TRUE(std::isnan(f16_to_float(float_to_f16(f16_to_float(half)))));
    } else {
      EXPECT_EQ(float_to_f16(f16_to_float(half)), half);
    }
    if (!std::isnan(bf16_to_float(half))) {
      EXPECT_EQ(float_to_bf16(bf16_to_float(half)), half);
    }
  }
}

TEST(Float16, RoundsToNearestEven) {
  for (uint32_t pattern = 0; pattern < 0x7f800000u; pattern += 4093) {
    for (uint32_t bits : {pattern, pattern | 0x80000000u}) {
      const float value = std::bit_cast<float>(bits);
      EXPECT_EQ(float_to_f16(value), nearest_by_search(value, 0x7c00, f16_to_float)) << value;
      EXPECT_EQ(float_to_bf16(value), nearest_by_search(value, 0x7f80, bf16_to_float)) << value;
    }
  }
  for (uint32_t half = 0; half < 0x7bff; ++half) {  // midpoints of neighbours and one ulp either side
    const float a = f16_to_float(static_cast<uint16_t>(half)),
                b = f16_to_float(static_cast<uint16_t>(half + 1));
    const float middle = (a + b) / 2;
    for (float value : {std::nextafter(middle, 0.0f), middle, std::nextafter(middle, 1e9f)}) {
      EXPECT_EQ(float_to_f16(value), nearest_by_search(value, 0x7c00, f16_to_float)) << value;
    }
  }
}

TEST(Float16, KeepsNaNAndInfinity) {
  const float infinity = std::numeric_limits<float>::infinity();
  EXPECT_EQ(float_to_f16(infinity), 0x7c00);
  EXPECT_EQ(float_to_bf16(-infinity), 0xff80);
  EXPECT_EQ(float_to_f16(65519.996f), 0x7bff);
  EXPECT_EQ(float_to_f16(65520.0f), 0x7c00);
  for (uint32_t bits : {0x7f800001u, 0x7fc00000u, 0xff800001u, 0x7fffffffu}) {
    EXPECT_TRUE(std::isnan(f16_to_float(float_to_f16(std::bit_cast<float>(bits)))));
    EXPECT_TRUE(std::isnan(bf16_to_float(float_to_bf16(std::bit_cast<float>(bits)))));
  }
}

}  // namespace
}  // namespace nfloat
