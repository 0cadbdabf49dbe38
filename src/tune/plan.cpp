// SPDX-License-Identifier: Apache-2.0
#include "tune/plan.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "tune/random.h"

namespace nfloat {
namespace {

constexpr int64_t kUnpackedRows = 8;  // of a batch without packing
constexpr size_t kOpenPacks = 16;     // that the next row may still go to

}  // namespace

int64_t rows_per_batch(const TrainOptions& options) noexcept {
  if (options.rows_per_batch > 0) return options.rows_per_batch;
  return options.packing ? 1 : kUnpackedRows;
}

TrainPlan::TrainPlan(std::vector<int64_t> lengths, const TrainOptions& options)
    : lengths_(std::move(lengths)),
      shuffle_(options.shuffle),
      packing_(options.packing),
      seed_(options.seed),
      length_(options.length),
      rows_per_batch_(rows_per_batch(options)),
      accumulate_(options.accumulate) {
  const int64_t tokens = std::accumulate(lengths_.begin(), lengths_.end(), int64_t{0});
  if (packing_) {
    most_ = std::min(tokens, rows_per_batch_ * length_);
    if (accumulate_ == 0)
      accumulate_ = std::max<int64_t>(1, options.tokens_per_step / (rows_per_batch_ * length_));
  } else {
    std::vector<int64_t> sorted = lengths_;
    std::sort(sorted.begin(), sorted.end(), std::greater<>());
    for (size_t i = 0; i < sorted.size() && static_cast<int64_t>(i) < rows_per_batch_; ++i)
      most_ += sorted[i];
    if (accumulate_ == 0) accumulate_ = 1;
  }
  if (options.steps >= 0) {
    total_ = options.steps;
    return;
  }
  const auto whole = static_cast<int64_t>(std::floor(options.epochs));
  for (int64_t epoch = 0; epoch < whole; ++epoch) {
    // Without shuffling or packing all epochs have as many steps.
    const auto count = static_cast<int64_t>(steps_of(epoch).size());
    if (!shuffle_ || !packing_) {
      total_ = count * whole;
      break;
    }
    total_ += count;
  }
  const double rest = options.epochs - static_cast<double>(whole);
  if (rest > 0) total_ += static_cast<int64_t>(std::ceil(rest * static_cast<double>(steps_of(whole).size())));
}

std::vector<StepBatches> TrainPlan::steps_of(int64_t epoch) const {
  const std::vector<size_t> order =
      shuffle_ ? shuffled(lengths_.size(), seed_, static_cast<uint64_t>(epoch)) : in_order(lengths_.size());
  // Packs of whole rows that together are at most `length_` tokens.
  std::vector<BatchRows> packs;
  if (packing_) {
    std::vector<int64_t> used;
    for (const size_t row : order) {
      size_t at = packs.size() > kOpenPacks ? packs.size() - kOpenPacks : 0;
      while (at < packs.size() && used[at] + lengths_[row] > length_) ++at;
      if (at == packs.size()) {
        packs.emplace_back();
        used.push_back(0);
      }
      packs[at].push_back(row);
      used[at] += lengths_[row];
    }
  } else {
    for (const size_t row : order) packs.push_back({row});
  }
  std::vector<StepBatches> steps;
  for (size_t i = 0; i < packs.size(); ++i) {
    const auto in_step = static_cast<int64_t>(i) % (rows_per_batch_ * accumulate_);
    if (in_step == 0) steps.emplace_back();
    if (in_step % rows_per_batch_ == 0) steps.back().emplace_back();
    BatchRows& batch = steps.back().back();
    batch.insert(batch.end(), packs[i].begin(), packs[i].end());
  }
  return steps;
}

const StepBatches& TrainPlan::step(int64_t index) {
  if (epoch_ < 0 || index < first_step_) {
    epoch_ = 0;
    first_step_ = 0;
    steps_ = steps_of(0);
  }
  while (index >= first_step_ + static_cast<int64_t>(steps_.size())) {
    first_step_ += static_cast<int64_t>(steps_.size());
    steps_ = steps_of(++epoch_);
  }
  return steps_[static_cast<size_t>(index - first_step_)];
}

double TrainPlan::epoch(int64_t steps) {
  if (steps == 0) return 0;
  step(steps - 1);
  return static_cast<double>(epoch_) +
         static_cast<double>(steps - first_step_) / static_cast<double>(steps_.size());
}

Batch make_batch(std::span<const TrainRow> rows, const BatchRows& chosen, int64_t length) {
  Batch batch;
  for (const size_t index : chosen) {
    const TrainRow& row = rows[index];
    const auto count = static_cast<std::ptrdiff_t>(std::min(static_cast<int64_t>(row.tokens.size()), length));
    batch.documents.push_back({batch.rows(), count, static_cast<int64_t>(index)});
    batch.tokens.insert(batch.tokens.end(), row.tokens.begin(), row.tokens.begin() + count);
    batch.labels.insert(batch.labels.end(), row.labels.begin(), row.labels.begin() + count);
  }
  return batch;
}

}  // namespace nfloat
