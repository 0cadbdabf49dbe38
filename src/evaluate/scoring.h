// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_EVALUATE_SCORING_H_
#define NFLOAT_EVALUATE_SCORING_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "evaluate/windows.h"
#include "model/sequence_pass.h"
#include "nfloat/evaluate.h"

namespace nfloat {

// Mean and variance of losses as they come.
class LossMean {
 public:
  void add(double loss) noexcept {
    ++count_;
    sum_ += loss;
    squares_ += loss * loss;
  }
  double perplexity() const noexcept { return std::exp(sum_ / static_cast<double>(count_)); }
  int64_t count() const noexcept { return count_; }
  PerplexityResult result(size_t windows) const noexcept;

 private:
  int64_t count_ = 0;
  double sum_ = 0;
  double squares_ = 0;
};

// The options with the model's own values where nothing is said. Throws kInvalidArgument for the context.
PerplexityOptions resolved(const Model& model, PerplexityOptions options);

int64_t tokens_to_score(std::span<const Window> windows) noexcept;

SessionOptions session_options(const PerplexityOptions& options);

// Visits the logits of every input of `windows`; `entry` counts from the first of them.
void visit_windows(SequenceRunner& runner, std::span<const Window> windows, const LogitsVisitor& visitor);

// Windows that go through a model together.
using WindowBatch = std::span<const Window>;

inline constexpr size_t kBatchTokens = 512;

// In order; each of at most `tokens` inputs, or of one window.
std::vector<WindowBatch> cut_batches(std::span<const Window> windows, size_t tokens = kBatchTokens);

// Of kBatchTokens; where layers are streamed, as large as there is room for their hidden states.
std::vector<WindowBatch> cut_batches(const Model& model, std::span<const Window> windows);

}  // namespace nfloat

#endif  // NFLOAT_EVALUATE_SCORING_H_
