// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_TUNE_PLAN_H_
#define NFLOAT_TUNE_PLAN_H_

#include <cstdint>
#include <span>
#include <vector>

#include "nfloat/train.h"
#include "tune/batch.h"

namespace nfloat {

// Rows of a batch: what the options say, or what follows from the others.
int64_t rows_per_batch(const TrainOptions& options) noexcept;

using BatchRows = std::vector<size_t>;       // rows of the data that go through the model together
using StepBatches = std::vector<BatchRows>;  // whose gradients one step sums

// Which rows each step takes. It follows from the lengths of the rows and the options alone, so that a
// resumed run needs the number of the step and nothing else.
class TrainPlan {
 public:
  // `lengths`: of the rows, at most options.length each, at least one row.
  TrainPlan(std::vector<int64_t> lengths, const TrainOptions& options);

  int64_t total_steps() const noexcept { return total_; }
  int64_t most_batch_tokens() const noexcept { return most_; }
  // Batches of a step, from 0 on. Steps are asked for in ascending order, or from an earlier one again.
  const StepBatches& step(int64_t index);
  double epoch(int64_t steps);  // data seen after so many steps

 private:
  std::vector<StepBatches> steps_of(int64_t epoch) const;

  std::vector<int64_t> lengths_;
  bool shuffle_, packing_;
  uint64_t seed_;
  int64_t length_, rows_per_batch_, accumulate_;
  int64_t total_ = 0, most_ = 0;
  int64_t epoch_ = -1, first_step_ = 0;  // of steps_
  std::vector<StepBatches> steps_;
};

Batch make_batch(std::span<const TrainRow> rows, const BatchRows& chosen, int64_t length);

}  // namespace nfloat

#endif  // NFLOAT_TUNE_PLAN_H_
