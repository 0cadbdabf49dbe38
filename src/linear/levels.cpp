// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>

#include "base/float16.h"
#include "linear/state.h"

namespace nfloat {

int64_t activation_block(int64_t group) noexcept {
  int64_t block = kMostActivationBlock;
  while (group % block != 0) block /= 2;
  return block;
}

kernels::LevelTables make_level_tables(std::span<const float> levels) noexcept {
  kernels::LevelTables tables{};
  float largest = 0;
  for (size_t i = 0; i < 16; ++i) {
    tables.f32[i] = levels[std::min(i, levels.size() - 1)];
    tables.bf16[i] = tables.bf16[i + 16] = float_to_bf16(tables.f32[i]);
    largest = std::max(largest, std::fabs(tables.f32[i]));
  }
  // The step: of those that keep the largest level within 127, the one with the least squared error over the
  // levels, small ones counting more, since heavy-tailed blocks use them most.
  double best = HUGE_VAL;
  double step = 1;
  for (int i = 0; largest > 0 && i <= 2048; ++i) {
    const double candidate = largest / (127.49 - i * (127.49 - 96.0) / 2048);
    double loss = 0;
    for (const float level : tables.f32) {
      const double error = level - std::nearbyint(level / candidate) * candidate;
      loss += error * error / (0.05 * double{largest} * largest + double{level} * level);
    }
    if (loss < best) {
      best = loss;
      step = candidate;
    }
  }
  tables.u8_scale = static_cast<float>(step);
  for (size_t i = 0; i < 64; ++i) {
    const double whole = std::nearbyint(tables.f32[i % 16] / step);
    tables.u8[i] = static_cast<uint8_t>(128 + (std::isnan(whole) ? 0 : std::clamp(whole, -127.0, 127.0)));
  }
  return tables;
}

}  // namespace nfloat
