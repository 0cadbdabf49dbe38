// SPDX-License-Identifier: Apache-2.0
#include "tune/preference.h"

#include <algorithm>
#include <cmath>

#include "base/fail.h"
#include "base/fnv.h"

namespace nfloat {
namespace {

// log sigmoid(x), and sigmoid(x), without overflow.
double log_sigmoid(double x) noexcept {
  return x >= 0 ? -std::log1p(std::exp(-x)) : x - std::log1p(std::exp(x));
}
double sigmoid(double x) noexcept {
  return x >= 0 ? 1 / (1 + std::exp(-x)) : std::exp(x) / (1 + std::exp(x));
}

int64_t cut(const TrainRow& row, int64_t length) noexcept {
  return std::min(static_cast<int64_t>(row.tokens.size()), length);
}

int64_t targets(const TrainRow& row, int64_t length) noexcept {
  int64_t count = 0;
  for (int64_t t = 1; t < cut(row, length); ++t) count += row.labels[static_cast<size_t>(t)] != kIgnoredLabel;
  return count;
}

void check_pairs(std::span<const TrainRow> rows, int64_t length) {
  if (rows.size() % 2 != 0)
    fail(ErrorCode::kInvalidArgument, "{} rows are no pairs of chosen and rejected answers", rows.size());
  for (size_t i = 0; i < rows.size(); ++i)
    if (targets(rows[i], length) == 0)
      fail(ErrorCode::kInvalidArgument,
           "pair {} of the data: nothing of the {} answer is in its first {} tokens", i / 2 + 1,
           i % 2 == 0 ? "chosen" : "rejected", length);
}

// Both answers of each pair, one behind the other; what documents are of is the number of the pair.
Batch pair_batch(std::span<const TrainRow> rows, const BatchRows& pairs, int64_t length) {
  BatchRows both;
  for (const size_t pair : pairs) {
    both.push_back(2 * pair);
    both.push_back(2 * pair + 1);
  }
  Batch batch = make_batch(rows, both, length);
  for (Document& document : batch.documents) document.source /= 2;
  return batch;
}

// What is shown of an answer: the sum of its log p, or with ORPO their mean.
double shown(const AnswerScore& answer, TrainObjective objective) noexcept {
  return objective == TrainObjective::kDpo ? answer.log_p : answer.log_p / static_cast<double>(answer.tokens);
}

// Adds what one pair came to.
void add(TrainPreference& sums, const PairLoss& pair, double chosen, double rejected) noexcept {
  ++sums.pairs;
  sums.loss += pair.loss;
  sums.margin += pair.margin;
  sums.accuracy += pair.margin > 0 ? 1 : 0;
  sums.chosen += chosen;
  sums.rejected += rejected;
}

// Makes means of sums.
void divide(TrainPreference& sums) noexcept {
  const auto count = static_cast<double>(std::max<int64_t>(1, sums.pairs));
  for (double* value : {&sums.loss, &sums.margin, &sums.accuracy, &sums.chosen, &sums.rejected})
    *value /= count;
}

// Calls body with the pairs of one batch after another, in their order: of at most `most` tokens together,
// one pair at least.
template <typename Body>
void in_batches(std::span<const TrainRow> rows, int64_t length, int64_t most, Body&& body) {
  const size_t count = rows.size() / 2;
  for (size_t first = 0; first < count;) {
    BatchRows pairs;
    int64_t tokens = 0;
    for (; first < count; ++first) {
      const int64_t own = cut(rows[2 * first], length) + cut(rows[2 * first + 1], length);
      if (!pairs.empty() && tokens + own > most) break;
      pairs.push_back(first);
      tokens += own;
    }
    body(pairs);
  }
}

}  // namespace

PairLoss dpo_loss(const AnswerScore& chosen, const AnswerScore& rejected, double beta, double smoothing) {
  PairLoss result;
  const double h = beta * ((chosen.log_p - chosen.reference) - (rejected.log_p - rejected.reference));
  result.margin = h;
  result.loss = -(1 - smoothing) * log_sigmoid(h) - smoothing * log_sigmoid(-h);
  result.by_chosen = beta * (smoothing * sigmoid(h) - (1 - smoothing) * sigmoid(-h));
  result.by_rejected = -result.by_chosen;
  return result;
}

PairLoss orpo_loss(const AnswerScore& chosen, const AnswerScore& rejected, double beta) {
  constexpr double kNearest = -0x1p-24;
  const auto chosen_tokens = static_cast<double>(chosen.tokens);
  const auto rejected_tokens = static_cast<double>(rejected.tokens);
  const double c = std::min(chosen.log_p / chosen_tokens, kNearest);
  const double r = std::min(rejected.log_p / rejected_tokens, kNearest);
  // d log odds(x) / dx = 1 / (1 - exp x)
  const double chosen_rest = -std::expm1(c), rejected_rest = -std::expm1(r);
  const double h = (c - std::log(chosen_rest)) - (r - std::log(rejected_rest));
  PairLoss result;
  result.margin = beta * (c - r);
  result.loss = -c - beta * log_sigmoid(h);
  result.by_chosen = (-1 - beta * sigmoid(-h) / chosen_rest) / chosen_tokens;
  result.by_rejected = beta * sigmoid(-h) / rejected_rest / rejected_tokens;
  return result;
}

Preferences::Preferences(std::span<const TrainRow> rows, const TrainOptions& options)
    : rows_(rows), options_(options) {
  if (!(options.beta > 0) || !std::isfinite(options.beta))
    fail(ErrorCode::kInvalidArgument, "training: beta is not positive");
  if (!(options.label_smoothing >= 0 && options.label_smoothing < 0.5))
    fail(ErrorCode::kInvalidArgument, "training: label smoothing is not in [0, 0.5)");
  check_pairs(rows, options.length);
}

std::vector<int64_t> Preferences::lengths(std::span<const TrainRow> rows, int64_t length) {
  std::vector<int64_t> result;
  for (size_t i = 0; i + 1 < rows.size(); i += 2)
    result.push_back(cut(rows[i], length) + cut(rows[i + 1], length));
  return result;
}

TrainOptions Preferences::plan_options(const TrainOptions& options) {
  TrainOptions result = options;
  result.length = 2 * options.length;
  return result;
}

PairLoss Preferences::loss(const AnswerScore& chosen, const AnswerScore& rejected) const {
  return options_.objective == TrainObjective::kDpo
             ? dpo_loss(chosen, rejected, options_.beta, options_.label_smoothing)
             : orpo_loss(chosen, rejected, options_.beta);
}

TrainPreference Preferences::gradients(Pass& pass, const StepBatches& batches, uint64_t step,
                                       TrainStep& counts) {
  TrainPreference result;
  size_t pairs = 0;
  for (const BatchRows& batch : batches) pairs += batch.size();
  const double share = 1.0 / static_cast<double>(pairs);
  for (size_t i = 0; i < batches.size(); ++i) {
    const Batch batch = pair_batch(rows_, batches[i], options_.length);
    counts.tokens += batch.targets();
    counts.rows += batch.rows();
    const auto weigh = [&](std::span<const double> losses, std::span<double> weights) {
      for (size_t k = 0; k < batches[i].size(); ++k) {
        AnswerScore both[2];
        for (size_t side = 0; side < 2; ++side) {
          const size_t row = 2 * batches[i][k] + side;
          both[side] = {.log_p = -losses[2 * k + side],
                        .tokens = targets(rows_[row], options_.length),
                        .reference = reference_.empty() ? 0 : reference_[row]};
        }
        // DPO learns nothing from answers that are the same; dropout must not make it seem so.
        const bool same = options_.objective == TrainObjective::kDpo &&
                          rows_[2 * batches[i][k]].tokens == rows_[2 * batches[i][k] + 1].tokens;
        if (same) both[1] = both[0];
        PairLoss pair = loss(both[0], both[1]);
        if (same) pair.by_chosen = pair.by_rejected = 0;
        // By -log p, whose gradients the pass adds.
        weights[2 * k] = -share * pair.by_chosen;
        weights[2 * k + 1] = -share * pair.by_rejected;
        add(result, pair, shown(both[0], options_.objective), shown(both[1], options_.objective));
      }
    };
    pass.document_gradients(batch, weigh, {.active = true, .step = step, .batch = i});
  }
  divide(result);
  return result;
}

TrainPreference Preferences::evaluate(Pass& pass, std::span<const TrainRow> rows, bool with_adapter,
                                      int64_t most) {
  const int64_t length = options_.length;
  check_pairs(rows, length);
  TrainPreference result;
  const bool dpo = options_.objective == TrainObjective::kDpo;
  const std::vector<double> none;
  const std::vector<double>& reference = dpo ? reference_of(pass, rows, most) : none;
  in_batches(rows, length, most, [&](const BatchRows& pairs) {
    std::vector<double> losses;
    if (with_adapter || !dpo) losses = pass.document_losses(pair_batch(rows, pairs, length), with_adapter);
    for (size_t k = 0; k < pairs.size(); ++k) {
      AnswerScore both[2];
      for (size_t side = 0; side < 2; ++side) {
        const size_t row = 2 * pairs[k] + side;
        const double known = dpo ? reference[row] : 0;
        both[side] = {.log_p = losses.empty() ? known : -losses[2 * k + side],
                      .tokens = targets(rows[row], length),
                      .reference = known};
      }
      add(result, loss(both[0], both[1]), shown(both[0], options_.objective),
          shown(both[1], options_.objective));
    }
  });
  divide(result);
  return result;
}

const std::vector<double>& Preferences::reference_of(Pass& pass, std::span<const TrainRow> rows,
                                                     int64_t most) {
  uint64_t hash = kFnvStart;
  for (const TrainRow& row : rows)
    for (const std::vector<int32_t>* list : {&row.tokens, &row.labels})
      hash = fnv_step(fnv(std::as_bytes(std::span(*list)), hash), list->size());
  if (evaluated_.size() == rows.size() && evaluated_pairs_ == hash) return evaluated_;
  std::vector<double> reference;
  in_batches(rows, options_.length, most, [&](const BatchRows& pairs) {
    for (const double loss : pass.document_losses(pair_batch(rows, pairs, options_.length), false))
      reference.push_back(-loss);
  });
  evaluated_ = std::move(reference);
  evaluated_pairs_ = hash;
  return evaluated_;
}

void Preferences::make_reference(Pass& pass, int64_t most,
                                 const std::function<void(int64_t, int64_t)>& progress) {
  std::vector<double> reference;
  in_batches(rows_, options_.length, most, [&](const BatchRows& pairs) {
    const Batch batch = pair_batch(rows_, pairs, options_.length);
    for (const double loss : pass.document_losses(batch, false)) reference.push_back(-loss);
    if (progress)
      progress(static_cast<int64_t>(reference.size() / 2), static_cast<int64_t>(rows_.size() / 2));
  });
  reference_ = std::move(reference);
}

void Preferences::set_reference(std::vector<double> reference) {
  if (reference.size() != rows_.size())
    fail(ErrorCode::kMalformedFile, "{} log-probabilities of the reference for {} rows", reference.size(),
         rows_.size());
  reference_ = std::move(reference);
}

}  // namespace nfloat
