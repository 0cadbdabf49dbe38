// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_EVALUATE_DISTRIBUTION_H_
#define NFLOAT_EVALUATE_DISTRIBUTION_H_

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
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

using VisitRows = std::function<void(TokenRows&)>;
using TokensDone = std::function<void(int64_t tokens)>;

// Visits the rows of all windows in portions of bounded size; done(tokens) after each batch of windows.
using RowSource = std::function<void(const VisitRows& visit, const TokensDone& done)>;

// The rows of what `run` visits: the logits of every input of a batch, its windows counted from its first.
using RunBatch = std::function<void(const WindowBatch& batch, const LogitsVisitor& visitor)>;
void collect_rows(std::span<const WindowBatch> batches, const RunBatch& run, const VisitRows& visit,
                  const TokensDone& done);

// The rows of `model`, run by `runner`, over the windows. All must outlive the result.
RowSource rows_of(const Model& model, SequenceRunner& runner, std::span<const Window> windows);

// As ReferenceDistributions::write and divergence() of a model whose rows these are. `options` are resolved.
void write_reference(const std::string& path, std::string_view identity, int64_t vocabulary,
                     std::span<const Window> windows, const RowSource& rows,
                     const PerplexityOptions& options);
DivergenceResult divergence(const ReferenceDistributions& reference, int64_t vocabulary,
                            std::span<const Window> windows, const RowSource& rows,
                            const PerplexityOptions& options);

// A hash of what is scored: the windows' inputs and targets.
uint64_t windows_hash(std::span<const Window> windows) noexcept;

}  // namespace nfloat

#endif  // NFLOAT_EVALUATE_DISTRIBUTION_H_
