// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/fail.h"
#include "base/float16.h"
#include "gguf/encode_k.h"
#include "gguf/tables.h"
#include "nfloat/gguf.h"

namespace nfloat {
namespace {

constexpr int kBlock = 32;

// The element of the largest magnitude, the first of equals, with its sign.
float farthest(const float* x) noexcept {
  float largest = 0, value = 0;
  for (int i = 0; i < kBlock; ++i) {
    const float magnitude = std::fabs(x[i]);
    if (magnitude > largest) {
      largest = magnitude;
      value = x[i];
    }
  }
  return value;
}

void put_half(uint8_t* to, float value) noexcept {
  const uint16_t bits = float_to_f16(value);
  std::memcpy(to, &bits, 2);
}

// The whole part; 0 of what is no number, and of what a block whose scale is 0 in float16 gives.
int32_t whole_of(float y) noexcept {
  return std::fabs(y) < 65536.0f ? static_cast<int32_t>(y) : 0;
}

void q8_0(const float* x, const float*, uint8_t* b) noexcept {
  float largest = 0;
  for (int i = 0; i < kBlock; ++i) largest = std::max(largest, std::fabs(x[i]));
  const float scale = largest / 127.0f;
  const float inverse = scale != 0 ? 1.0f / scale : 0.0f;
  put_half(b, scale);
  for (int i = 0; i < kBlock; ++i) {
    // Half away from zero, as roundf: the cast cuts off what is behind the point.
    const float y = x[i] * inverse;
    const float whole = static_cast<float>(whole_of(y));
    const float rest = y - whole;
    const float step = rest >= 0.5f ? 1.0f : rest <= -0.5f ? -1.0f : 0.0f;
    b[2 + i] = static_cast<uint8_t>(static_cast<int8_t>(static_cast<int32_t>(whole + step)));
  }
}

// The scale of least squares for the codes of one of 24 guesses, the best of them.
float weighted_q4_0_scale(const float* x, const float* importance) noexcept {
  const float extreme = farthest(x);
  float scale = extreme / -8.0f, best = 0;
  if (extreme == 0) return 0;
  for (int guess = -12; guess <= 12; ++guess) {
    if (guess == 0) continue;
    // The farthest weight 6.8 to 9 steps out on the side of -8, 6 to 8.2 on the other.
    const float inverse =
        (guess < 0 ? -8 - .2f * static_cast<float>(guess + 6) : 7 + .2f * static_cast<float>(guess - 6)) /
        extreme;
    float sum_qx = 0, sum_qq = 0;
    for (int i = 0; i < kBlock; ++i) {
      const auto code = static_cast<float>(std::clamp(whole_of(x[i] * inverse + 8.5f), 0, 15) - 8);
      sum_qx += importance[i] * code * x[i];
      sum_qq += importance[i] * code * code;
    }
    if (sum_qq > 0 && sum_qx * sum_qx > best * sum_qq) {
      scale = sum_qx / sum_qq;
      best = scale * sum_qx;
    }
  }
  return scale;
}

// Sixteen steps from -8 to 7, the weight of the largest magnitude at -8.
void q4_0(const float* x, const float* importance, uint8_t* b) noexcept {
  const float scale = importance != nullptr ? weighted_q4_0_scale(x, importance) : farthest(x) / -8.0f;
  const float inverse = scale != 0 ? 1.0f / scale : 0.0f;
  put_half(b, scale);
  int32_t codes[kBlock];
  for (int i = 0; i < kBlock; ++i) codes[i] = std::clamp(whole_of(x[i] * inverse + 8.5f), 0, 15);
  for (int i = 0; i < kBlock / 2; ++i) b[2 + i] = static_cast<uint8_t>(codes[i] | codes[i + kBlock / 2] << 4);
}

int nearest_level(float y) noexcept {
  const auto above = std::lower_bound(kIq4NlLevels.begin(), kIq4NlLevels.end(), y);
  const auto index = static_cast<int>(above - kIq4NlLevels.begin());
  if (index == 0) return 0;
  if (index == 16) return 15;
  return y - above[-1] < *above - y ? index - 1 : index;
}

// The scale with the least error, weighted by x^2 unless importance says otherwise, among 15 that put the
// farthest weight near the ends of the table.
void iq4_nl(const float* x, const float* importance, uint8_t* b) noexcept {
  const float extreme = farthest(x);
  float scale = 0;
  if (std::fabs(extreme) >= 1e-15f) {
    float best = -1;
    for (int attempt = -8; attempt <= 7; ++attempt) {  // -8: a plain fit with the extreme at +127
      const float inverse = attempt == -8 ? -kIq4NlLevels[0] / extreme
                                          : (static_cast<float>(attempt) + kIq4NlLevels[0]) / extreme;
      float sum_qx = 0, sum_qq = 0;
      for (int i = 0; i < kBlock; ++i) {
        const float level = kIq4NlLevels[static_cast<size_t>(nearest_level(inverse * x[i]))];
        const float weight = importance != nullptr ? importance[i] : x[i] * x[i];
        sum_qx += weight * level * x[i];
        sum_qq += weight * level * level;
      }
      if (sum_qq > 0 && sum_qx * sum_qx > best * sum_qq) {
        scale = sum_qx / sum_qq;
        best = scale * sum_qx;
      }
    }
  }
  put_half(b, scale);
  const float inverse = scale != 0 ? 1.0f / scale : 0.0f;
  for (int i = 0; i < kBlock / 2; ++i)
    b[2 + i] =
        static_cast<uint8_t>(nearest_level(inverse * x[i]) | nearest_level(inverse * x[i + kBlock / 2]) << 4);
}

using BlockEncoder = void (*)(const float*, const float*, uint8_t*) noexcept;

BlockEncoder encoder_of(GgufType type) noexcept {
  switch (type) {
    case GgufType::kQ8_0:
      return q8_0;
    case GgufType::kQ4_0:
      return q4_0;
    case GgufType::kQ4_K:
      return encode_q4_k;
    case GgufType::kQ5_K:
      return encode_q5_k;
    case GgufType::kQ6_K:
      return encode_q6_k;
    case GgufType::kIQ4_XS:
      return encode_iq4_xs;
    default:
      return iq4_nl;
  }
}

}  // namespace

void encode_gguf(GgufType type, std::span<const float> weights, std::span<std::byte> output,
                 std::span<const float> importance) {
  const GgufTypeInfo& info = gguf_type_info(type);
  const auto block_elements = static_cast<size_t>(info.block_elements);
  const auto block_bytes = static_cast<size_t>(info.block_bytes);
  if (!is_encodable(type))
    fail(ErrorCode::kInvalidArgument, "encoding {}: {} written", info.name, kGgufWritten);
  if (weights.size() % block_elements != 0 || weights.size() / block_elements * block_bytes != output.size())
    fail(ErrorCode::kInvalidArgument, "encoding {}: {} elements found for {} bytes", info.name,
         weights.size(), output.size());
  if (const DType* plain = plain_dtype(type)) {
    convert_elements({DType::kF32, Shape({static_cast<int64_t>(weights.size())}), std::as_bytes(weights)},
                     *plain, output);
    return;
  }
  if (!importance.empty() &&
      (importance.size() % block_elements != 0 || weights.size() % importance.size() != 0))
    fail(ErrorCode::kInvalidArgument, "encoding {}: {} importances for {} elements", info.name,
         importance.size(), weights.size());
  const BlockEncoder encode = encoder_of(type);
  auto* to = reinterpret_cast<uint8_t*>(output.data());
  for (size_t at = 0; at < weights.size(); at += block_elements, to += block_bytes)
    encode(weights.data() + at, importance.empty() ? nullptr : importance.data() + at % importance.size(),
           to);
}

}  // namespace nfloat
