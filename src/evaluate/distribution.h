// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_EVALUATE_DISTRIBUTION_H_
#define NFLOAT_EVALUATE_DISTRIBUTION_H_

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "evaluate/scoring.h"
#include "nfloat/evaluate.h"

namespace nfloat {

// One token's distribution as logits up to a constant, and what was already taken from it.
struct ReferenceToken {
  std::span<const float> logits;
  double loss = 0;  // of the right token
  int32_t top = 0;
};

// D(p || q) of two softmax distributions given by logits up to constants, in double.
double kl_divergence(std::span<const float> p, std::span<const float> q) noexcept;

// The model's logits of consecutive tokens that count, in the order of the text.
struct TokenRows {
  int64_t first = 0;  // number of the first one
  std::vector<float> logits;
  std::vector<int32_t> targets;
  std::span<const float> row(size_t i) const noexcept {
    const size_t width = logits.size() / targets.size();
    return std::span<const float>(logits).subspan(i * width, width);
  }
};

// Runs `model`, by `runner`, over the windows and hands the rows on in portions of bounded size.
// `done(tokens)` after each batch.
void visit_rows(const Model& model, SequenceRunner& runner, std::span<const Window> windows,
                const std::function<void(TokenRows&)>& visit, const std::function<void(int64_t)>& done);

// A hash of what is scored: the windows' inputs and targets.
uint64_t windows_hash(std::span<const Window> windows) noexcept;

}  // namespace nfloat

#endif  // NFLOAT_EVALUATE_DISTRIBUTION_H_
