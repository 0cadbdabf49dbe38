// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_CALIBRATE_SOFT_CODING_H_
#define NFLOAT_CALIBRATE_SOFT_CODING_H_

#include <cstdint>
#include <span>
#include <vector>

#include "calibrate/block_work.h"
#include "nfloat/quantize.h"

namespace nfloat {

// The step sizes of one step of Adam.
struct AdamStep {
  static constexpr double kBeta1 = .9, kBeta2 = .98;

  float rate = 0;             // of numbers that are compared with levels
  float rate_of_rest = 0;     // of scales' factors and gains
  float first = 1, root = 1;  // 1 - beta1^t and sqrt(1 - beta2^t)
};

// A number with its two moments.
struct Moments {
  float m = 0, v = 0;
};
// What Adam subtracts, for a rate of 1.
float adam_change(Moments& moments, float gradient, const AdamStep& step) noexcept;

// A double-quantized matrix whose codes and scales follow gradients: of each weight a number stands for its
// level, of each block one for a factor of its scale; the weight is the nearest level times the nearest scale
// that the file can hold. Gradients pass both roundings unchanged.
class SoftCoding {
 public:
  SoftCoding(const QuantizedTensor& start);

  int64_t size() const noexcept { return start_.elements(); }
  void decode(std::span<float> weights, int threads) const;
  // One step by the gradients of the weights.
  void step(std::span<const float> gradients, const AdamStep& step, int threads);
  QuantizedTensor tensor() const;

  static uint64_t bytes_a_weight() noexcept { return 3 * sizeof(float); }

 private:
  int place(float value) const noexcept;
  int scale_code(int64_t block) const noexcept;
  float scale_at(int64_t block, int code) const noexcept;

  const QuantizedTensor start_;
  const Levels levels_;
  const std::vector<float>& map_;
  std::vector<float> values_;
  std::vector<Moments> value_moments_;
  std::vector<float> factors_;  // minus one
  std::vector<Moments> factor_moments_;
  std::vector<float> scales_;  // at the start
};

}  // namespace nfloat

#endif  // NFLOAT_CALIBRATE_SOFT_CODING_H_
