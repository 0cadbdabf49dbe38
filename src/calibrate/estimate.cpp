// SPDX-License-Identifier: Apache-2.0
#include "calibrate/estimate.h"

#include <algorithm>
#include <vector>

#include "base/stopwatch.h"
#include "calibrate/products.h"

namespace nfloat {
namespace {

// Seconds of everything for each second of products alone.
constexpr double kBesideProducts = 1.5;
// Operations on a weight beside those that grow with the width: candidates, finalists, new codings.
constexpr double kOnAWeight = 8000;

double operations_a_second(int threads) {
  constexpr int64_t kSize = 384;
  const std::vector<float> a(kSize * kSize, 1.0f);
  std::vector<float> y(a.size());
  double best = 0;
  for (int pass = 0; pass < 4; ++pass) {
    const Stopwatch watch;
    product_with_transpose(a, kSize, a, kSize, kSize, y, threads);
    best = std::max(best, 2.0 * kSize * kSize * kSize / std::max(watch.seconds(), 1e-9));
  }
  return best;
}

}  // namespace

CalibrationEstimate estimate_calibration(const CalibrationWork& work, int threads) {
  const auto tokens = static_cast<double>(work.tokens), held = static_cast<double>(work.held_tokens);
  const auto attention = static_cast<double>(work.attention);
  double weights = 0, hessians = 0, codings = 0;
  int64_t widest = 0;
  double widths = 0;
  for (const auto& [role, product] : work.products) {
    const auto width = static_cast<double>(product.width);
    weights += product.weights;
    hessians += tokens * width * width;
    codings += product.weights * (17 * width + kOnAWeight) + 2 * width * width * width;
    widest = std::max(widest, product.width);
    widths += width * width;
  }
  const double forward = 2 * tokens * weights + 4 * work.pairs * attention;
  const double held_forward = 2 * held * weights + 4 * work.held_pairs * attention;
  // Level 2 runs the parts of a layer before each product once more, for both models.
  const double passes = work.level >= 2 ? 5 : 1, sums = work.level >= 2 ? 3 : 1;
  CalibrationEstimate result;
  result.operations =
      static_cast<double>(work.layers) * (passes * forward + 3 * held_forward + sums * hessians + codings) +
      6 * held * static_cast<double>(work.hidden) * static_cast<double>(work.vocabulary);
  // A forward pass of the original, one of the quantized model and its backward pass with all gradients.
  result.operations += 8 * static_cast<double>(work.distilled_tokens) *
                       (weights * static_cast<double>(work.all_layers) +
                        static_cast<double>(work.hidden) * static_cast<double>(work.vocabulary));
  result.seconds = kBesideProducts * result.operations / operations_a_second(threads);
  const auto wide = static_cast<double>(widest), hidden = static_cast<double>(work.hidden);
  const double states = (work.level >= 2 ? 3 * tokens : tokens) * hidden + 3 * held * hidden;
  const double kept = work.level >= 2 ? 1.5 * tokens * wide : 0;
  const double squares = work.level >= 2 ? 12 * wide * wide : 2 * widths + 6 * wide * wide;
  const double logits = 2 * held * static_cast<double>(work.vocabulary);
  const double layer = 3 * weights;
  result.memory_bytes = static_cast<uint64_t>(4 * (states + kept + squares + logits + layer) +
                                              .52 * weights * static_cast<double>(work.layers) + 64e6);
  result.memory_bytes = std::max(result.memory_bytes, work.distilled_bytes);
  return result;
}

}  // namespace nfloat
