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

// Calls body(batch of windows) until all are done. Windows that go through the model together hold about 512
// tokens; where layers are streamed, as many as their hidden states have room for.
void over_batches(const Model& model, std::span<const Window> windows,
                  const std::function<void(std::span<const Window>)>& body);

}  // namespace nfloat

#endif  // NFLOAT_EVALUATE_SCORING_H_
