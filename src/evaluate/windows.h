// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_EVALUATE_WINDOWS_H_
#define NFLOAT_EVALUATE_WINDOWS_H_

#include <cstdint>
#include <span>
#include <vector>

#include "nfloat/evaluate.h"

namespace nfloat {

// One pass of the model from an empty past: the logits of input[i] are scored against targets[i] for i >=
// first.
struct Window {
  std::vector<int32_t> input;
  std::vector<int32_t> targets;  // as many as inputs, or fewer by the last
  int64_t first = 0;

  int64_t scored() const noexcept { return static_cast<int64_t>(targets.size()) - first; }
};

// The windows of a text. `options.context` is resolved (not 0). Throws as perplexity() does.
std::vector<Window> cut_windows(std::span<const int32_t> tokens, const PerplexityOptions& options);

// One window a sequence.
std::vector<Window> sequence_windows(std::span<const std::vector<int32_t>> sequences);

}  // namespace nfloat

#endif  // NFLOAT_EVALUATE_WINDOWS_H_
