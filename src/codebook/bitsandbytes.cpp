// SPDX-License-Identifier: Apache-2.0
#include "codebook/bitsandbytes.h"

#include <algorithm>
#include <cmath>

#include "nfloat/codebook.h"

namespace nfloat {
namespace {

// torch.linspace(start, end, count) in float32: both halves count from their own end.
std::vector<float> linspace(float start, float end, int count) {
  const float step = (end - start) / static_cast<float>(count - 1);
  std::vector<float> points(static_cast<size_t>(count));
  for (int i = 0; i < count; ++i) {
    points[static_cast<size_t>(i)] =
        i < count / 2 ? start + step * static_cast<float>(i) : end - step * static_cast<float>(count - 1 - i);
  }
  return points;
}

// torch.linspace(0.1, 1, count) as its vectorised loop rounds it: fused multiply-adds, and within whole
// groups of 16 points the distance from the group's 8-lane start is rounded by itself.
std::vector<float> fused_linspace(int count) {
  const float start = 0.1f;
  const float step = (1.0f - start) / static_cast<float>(count - 1);
  const auto point = [&](int j) {
    return j < count / 2 ? std::fma(step, static_cast<float>(j), start)
                         : std::fma(-step, static_cast<float>(count - 1 - j), 1.0f);
  };
  std::vector<float> points(static_cast<size_t>(count));
  const int vectorised = count / 16 * 16;
  for (int i = 0; i < count; ++i) {
    const int lane = i % 8;
    points[static_cast<size_t>(i)] =
        i < vectorised ? point(i - lane) + static_cast<float>(static_cast<float>(lane) * step) : point(i);
  }
  return points;
}

}  // namespace

std::vector<float> bitsandbytes_nf4() {
  const float offset = 0.9677083f;
  std::vector<float> levels = {0.0f};
  const auto side = [&](int points, float sign) {
    const std::vector<float> probabilities = linspace(offset, 0.5f, points);
    for (int i = 0; i + 1 < points; ++i) {
      levels.push_back(sign * static_cast<float>(normal_quantile(
                                  static_cast<double>(probabilities[static_cast<size_t>(i)]))));
    }
  };
  side(9, 1.0f);
  side(8, -1.0f);
  std::sort(levels.begin(), levels.end());
  const float largest = levels.back();
  for (float& level : levels) level /= largest;
  return levels;
}

std::vector<float> bitsandbytes_dynamic_map() {
  std::vector<float> map = {0.0f, 1.0f};
  for (int i = 0; i < 7; ++i) {
    const std::vector<float> bounds = fused_linspace((1 << i) + 1);
    const auto power = static_cast<float>(std::pow(10.0, i - 6));
    for (size_t k = 0; k + 1 < bounds.size(); ++k) {
      const float middle = (bounds[k] + bounds[k + 1]) / 2.0f;
      map.push_back(power * middle);
      map.push_back(-(power * middle));
    }
  }
  std::sort(map.begin(), map.end());
  return map;
}

}  // namespace nfloat
