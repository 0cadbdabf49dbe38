// SPDX-License-Identifier: Apache-2.0
#include "calibrate/estimate.h"

#include <algorithm>
#include <vector>

#include "base/stopwatch.h"
#include "calibrate/inputs.h"
#include "calibrate/products.h"
#include "model/workspace.h"

namespace nfloat {
namespace {

// Seconds of everything for each second of products alone.
constexpr double kBesideProducts = 1.5;
// Operations on a weight beside those that grow with the width: candidates, finalists, new codings.
constexpr double kOnAWeight = 8000;
constexpr double kRest = 120e6;  // bytes: the program, buffers of a chunk of rows, batches of threads

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

double square(double x) noexcept {
  return x * x;
}

// The most that is in memory at a time, the mapped files apart. Numbers are float32 where nothing is said.
double memory_bytes(const CalibrationWork& work) {
  double weights = 0, stored = 0, largest = 0, sums = 0, portions = 0, widest = 0;
  for (const auto& [id, product] : work.products) {
    const auto width = static_cast<double>(product.width);
    weights += product.weights;
    stored += product.stored_bytes;
    largest = std::max(largest, product.largest);
    sums += square(width);
    portions += static_cast<double>(ProductSums::kPortion) * width;
    widest = std::max(widest, width);
  }
  const bool pairs = work.level >= 2;
  const double all_sums = 4 * sums, wide = 4 * square(widest);
  const double decoding = 2 * 4 * largest;  // a matrix of the result, and before it is packed
  // While inputs are seen: the sums of all products of a layer, or those of one product and of its pairs, the
  // rows that wait to be added to them, those and their copies in the kernel's order; the layer.
  const double seen = pairs ? 2 * wide + 5 * 4 * static_cast<double>(ProductSums::kPortion) * widest +
                                  stored + 4 * weights + decoding
                            : all_sums + 2 * 4 * portions + stored;
  // While H is factored: a triangle in double and the factor, or that and its inverse. What waits beside
  // them: H, the other products' sums, or the pairs'.
  const double waiting = (pairs ? 2 * wide : all_sums) + stored;
  const double factored = waiting + 1.5 * wide;
  // While a matrix is coded: weights, target, error and gradient of it, codings; U is there.
  const double coded = waiting + wide + 4.5 * 4 * largest;
  const double judged = 4 * weights + decoding;  // a layer of the result
  const double logits = 2 * 4 * static_cast<double>(work.held_tokens) * static_cast<double>(work.vocabulary);
  // Keys and values of one layer and chunk, of each stream of states.
  const double caches = (pairs ? 5 : 4) * 2 * 4 * static_cast<double>(std::max(kMaxRows, work.longest)) *
                        static_cast<double>(work.attention);
  const double codings =
      kCodingBytes * weights * static_cast<double>(work.keeps_codings ? work.all_layers : 1);
  const double states = work.states_in_file ? 0 : static_cast<double>(work.states_bytes);
  return std::max({seen, factored, coded, judged, logits}) + static_cast<double>(work.head_bytes) + caches +
         codings + states + kRest;
}

}  // namespace

CalibrationEstimate estimate_calibration(const CalibrationWork& work, int threads) {
  const auto tokens = static_cast<double>(work.tokens), held = static_cast<double>(work.held_tokens);
  const auto attention = static_cast<double>(work.attention);
  double weights = 0, hessians = 0, codings = 0;
  for (const auto& [id, product] : work.products) {
    const auto width = static_cast<double>(product.width);
    weights += product.share * product.weights;
    hessians += product.share * tokens * width * width;
    codings += product.weights * (17 * width + kOnAWeight) + 2 * width * width * width;
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
  result.states_bytes = work.states_in_file ? work.states_bytes : 0;
  result.memory_bytes = std::max(static_cast<uint64_t>(memory_bytes(work)), work.distilled_bytes);
  return result;
}

}  // namespace nfloat
