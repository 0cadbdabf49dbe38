// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>
#include <cmath>

#include "base/float16.h"
#include "base/parallel.h"
#include "formats/families.h"

namespace nfloat {
namespace {

// The values of GGUF's 4-bit blocks, found as llama.cpp's reference quantizers find them (no importance
// matrix), kept here as floats instead of bytes.
constexpr int kBlock = 32, kSuperBlock = 256;

float half(float value) noexcept {
  return f16_to_float(float_to_f16(value));
}

float farthest(const float* x, int count) noexcept {
  return *std::max_element(x, x + count, [](float a, float b) { return std::fabs(a) < std::fabs(b); });
}

// Q4_0: sixteen steps from -8 to 7, the weight of the largest magnitude at -8.
void code_q4_0(float* x) noexcept {
  const float scale = farthest(x, kBlock) / -8.0f;
  const float inverse = scale != 0 ? 1.0f / scale : 0.0f;
  const float stored = half(scale);
  for (int i = 0; i < kBlock; ++i)
    x[i] = (std::clamp(std::floor(x[i] * inverse + 8.5f), 0.0f, 15.0f) - 8.0f) * stored;
}

// Q8_0: -127 to 127.
void code_q8_0(float* x) noexcept {
  const float scale = std::fabs(farthest(x, kBlock)) / 127.0f;
  const float inverse = scale != 0 ? 1.0f / scale : 0.0f;
  const float stored = half(scale);
  for (int i = 0; i < kBlock; ++i) x[i] = std::round(x[i] * inverse) * stored;
}

// IQ4_NL: the table of the format, a polynomial fitted to a normal distribution; it has no zero.
constexpr std::array<float, 16> kNonLinear = {-127, -104, -83, -65, -49, -35, -22, -10,
                                              1,    13,   25,  38,  53,  69,  89,  113};

float nearest_non_linear(float y) noexcept {
  const auto above = std::lower_bound(kNonLinear.begin(), kNonLinear.end(), y);
  if (above == kNonLinear.begin()) return kNonLinear.front();
  if (above == kNonLinear.end()) return kNonLinear.back();
  return y - above[-1] < *above - y ? above[-1] : *above;
}

// The scale with the least error weighted by x^2, among 15 that put the farthest weight near -127.
void code_iq4_nl(float* x) noexcept {
  const float extreme = farthest(x, kBlock);
  if (std::fabs(extreme) < 1e-15f) {
    std::fill(x, x + kBlock, 0.0f);
    return;
  }
  float scale = 0, best = -1;
  for (int attempt = -8; attempt <= 7; ++attempt) {  // -8: the plain fit with the extreme at +127
    const float inverse =
        attempt == -8 ? -kNonLinear[0] / extreme : (static_cast<float>(attempt) + kNonLinear[0]) / extreme;
    float sum_qx = 0, sum_qq = 0;
    for (int i = 0; i < kBlock; ++i) {
      const float q = nearest_non_linear(inverse * x[i]), weight = x[i] * x[i];
      sum_qx += weight * q * x[i];
      sum_qq += weight * q * q;
    }
    if (sum_qq > 0 && sum_qx * sum_qx > best * sum_qq) {
      scale = sum_qx / sum_qq;
      best = scale * sum_qx;
    }
  }
  const float stored = half(scale);
  const float inverse = scale != 0 ? 1.0f / scale : 0.0f;
  for (int i = 0; i < kBlock; ++i) x[i] = nearest_non_linear(inverse * x[i]) * stored;
}

struct ScaleAndMinimum {
  float scale = 0, minimum = 0;  // value = code * scale - minimum, neither negative
};

// Weighted least squares over 21 guesses of the step, the minimum no larger than zero.
ScaleAndMinimum fit_q4_k(const float* x) noexcept {
  float squares = 0;
  for (int i = 0; i < kBlock; ++i) squares += x[i] * x[i];
  const float average = std::sqrt(squares / kBlock);
  float weights[kBlock], sum_w = 0, sum_x = 0;
  for (int i = 0; i < kBlock; ++i) {
    weights[i] = average + std::fabs(x[i]);
    sum_w += weights[i];
    sum_x += weights[i] * x[i];
  }
  const auto [least, most] = std::minmax_element(x, x + kBlock);
  const float low = std::min(*least, 0.0f), high = *most;
  if (high == low) return {0, -low};
  const auto code = [](float y) { return std::clamp(std::nearbyint(y), 0.0f, 15.0f); };
  const auto error = [&](float inverse, float scale, float offset) {
    float sum = 0;
    for (int i = 0; i < kBlock; ++i) {
      const float difference = scale * code(inverse * (x[i] - low)) + offset - x[i];
      sum += weights[i] * difference * difference;
    }
    return sum;
  };
  float scale = (high - low) / 15.0f, offset = low;
  float best = error(15.0f / (high - low), scale, offset);
  for (int step = 0; step <= 20; ++step) {
    const float inverse = (-1.0f + 0.1f * static_cast<float>(step) + 15.0f) / (high - low);
    float sum_l = 0, sum_ll = 0, sum_xl = 0;
    for (int i = 0; i < kBlock; ++i) {
      const float l = code(inverse * (x[i] - low));
      sum_l += weights[i] * l;
      sum_ll += weights[i] * l * l;
      sum_xl += weights[i] * l * x[i];
    }
    const float determinant = sum_w * sum_ll - sum_l * sum_l;
    if (!(determinant > 0)) continue;
    float own_scale = (sum_w * sum_xl - sum_x * sum_l) / determinant;
    float own_offset = (sum_ll * sum_x - sum_l * sum_xl) / determinant;
    if (own_offset > 0) {
      own_offset = 0;
      own_scale = sum_xl / sum_ll;
    }
    const float own = error(inverse, own_scale, own_offset);
    if (own < best) {
      best = own;
      scale = own_scale;
      offset = own_offset;
    }
  }
  return {scale, -offset};
}

// Q4_K: eight blocks with a 6-bit scale and a 6-bit minimum each, under two float16.
void code_q4_k(float* x) noexcept {
  constexpr int kBlocks = kSuperBlock / kBlock;
  ScaleAndMinimum fits[kBlocks];
  float largest_scale = 0, largest_minimum = 0;
  for (int b = 0; b < kBlocks; ++b) {
    fits[b] = fit_q4_k(x + b * kBlock);
    largest_scale = std::max(largest_scale, fits[b].scale);
    largest_minimum = std::max(largest_minimum, fits[b].minimum);
  }
  const auto six_bits = [](float value, float largest) {
    return largest > 0 ? std::min(63.0f, std::nearbyint(63.0f / largest * value)) : 0.0f;
  };
  const float d = half(largest_scale / 63.0f), m = half(largest_minimum / 63.0f);
  for (int b = 0; b < kBlocks; ++b) {
    const float scale = d * six_bits(fits[b].scale, largest_scale);
    const float minimum = m * six_bits(fits[b].minimum, largest_minimum);
    for (int i = b * kBlock; i < (b + 1) * kBlock; ++i) {
      const float code =
          scale != 0 ? std::clamp(std::nearbyint((x[i] + minimum) / scale), 0.0f, 15.0f) : 0.0f;
      x[i] = code * scale - minimum;
    }
  }
}

struct Kind {
  const char* name;
  const char* summary;
  int64_t block;
  uint64_t bytes;  // a block
  void (*code)(float*) noexcept;
};
constexpr Kind kQ40 = {"q4_0", "llama.cpp's Q4_0: 16 even steps, a float16 scale for 32", kBlock, 18,
                       code_q4_0};
constexpr Kind kQ4K = {"q4_k", "llama.cpp's Q4_K: even steps, 6-bit scales and minima under float16 for 256",
                       kSuperBlock, 144, code_q4_k};
constexpr Kind kIq4Nl = {"iq4_nl", "llama.cpp's IQ4_NL: an uneven table, a fitted float16 scale for 32",
                         kBlock, 18, code_iq4_nl};
constexpr Kind kQ80 = {"q8_0", "llama.cpp's Q8_0: 8 bits, a float16 scale for 32", kBlock, 34, code_q8_0};

class GgufFormat final : public Format {
 public:
  explicit GgufFormat(const Kind& kind) : Format(kind.name, kind.summary), kind_(kind) {}

  StoredWeights round_trip(std::span<float> weights, int64_t, int64_t cols, int threads) const override {
    expect_whole_blocks(*this, cols);
    expect_finite(weights);
    const int64_t blocks = static_cast<int64_t>(weights.size()) / kind_.block;
    parallel_for(blocks, 16384 / kind_.block, threads, [&](int64_t begin, int64_t end) {
      for (int64_t b = begin; b < end; ++b) kind_.code(weights.data() + b * kind_.block);
    });
    return {static_cast<uint64_t>(blocks) * kind_.bytes, {}};
  }
  double bits_per_weight() const noexcept override {
    return 8.0 * static_cast<double>(kind_.bytes) / static_cast<double>(kind_.block);
  }
  int64_t block_size() const noexcept override { return kind_.block; }

 private:
  const Kind& kind_;
};

template <const Kind& kKind>
std::unique_ptr<Format> make(std::span<const std::string> parts) {
  expect_no_options(parts);
  return std::make_unique<GgufFormat>(kKind);
}

}  // namespace

std::vector<FormatEntry> gguf_formats() {
  return {{{kQ40.name, kQ40.summary}, make<kQ40>},
          {{kQ4K.name, kQ4K.summary}, make<kQ4K>},
          {{kIq4Nl.name, kIq4Nl.summary}, make<kIq4Nl>},
          {{kQ80.name, kQ80.summary}, make<kQ80>}};
}

}  // namespace nfloat
