// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_TUNE_PREFERENCE_H_
#define NFLOAT_TUNE_PREFERENCE_H_

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "nfloat/train.h"
#include "tune/batch.h"
#include "tune/pass.h"
#include "tune/plan.h"

namespace nfloat {

// The answer of a pair, as the model sees it: log p of its tokens together and how many they are; the same
// log p by the model without its adapter.
struct AnswerScore {
  double log_p = 0;
  int64_t tokens = 0;
  double reference = 0;
};

// The loss of one pair and its derivatives by the two log p.
struct PairLoss {
  double loss = 0;
  double margin = 0;  // of the rewards
  double by_chosen = 0, by_rejected = 0;
};

// DPO (Rafailov et al. 2023): h = beta ((c - c_ref) - (r - r_ref)) of sums of log p,
// loss = -(1 - smoothing) log sigmoid(h) - smoothing log sigmoid(-h); the margin is h.
PairLoss dpo_loss(const AnswerScore& chosen, const AnswerScore& rejected, double beta, double smoothing);

// ORPO (Hong et al. 2024): with means of log p over the tokens, h = log odds(c) - log odds(r),
// log odds(x) = x - log(1 - exp x), loss = -c - beta log sigmoid(h); the margin is beta (c - r). A mean that
// is nearer to 0 than float32 tells probabilities apart counts as -2^-24.
PairLoss orpo_loss(const AnswerScore& chosen, const AnswerScore& rejected, double beta);

// A run's pairs: rows 2 k and 2 k + 1 of the data are the chosen and the rejected answer to one prompt.
class Preferences {
 public:
  // Throws kInvalidArgument naming the pair: an odd number of rows, an answer of which nothing is left in
  // `options.length` tokens; options that are out of range.
  Preferences(std::span<const TrainRow> rows, const TrainOptions& options);

  // Tokens of both answers of each pair with their prompts; options whose rows are as long.
  static std::vector<int64_t> lengths(std::span<const TrainRow> rows, int64_t length);
  static TrainOptions plan_options(const TrainOptions& options);

  // The chosen pairs of a step, so that their mean loss is that of the step: adds its gradient to the
  // adapter's; adds to `counts` its tokens and rows. `step`: from 0 on, of dropout. Throws kNotFinite naming
  // pair and layer.
  TrainPreference gradients(Pass& pass, const StepBatches& pairs, uint64_t step, TrainStep& counts);
  // Of other pairs: their mean. `most`: tokens of a batch, at least those of the longest pair.
  // The reference of DPO is computed the first time and kept until other pairs are evaluated.
  TrainPreference evaluate(Pass& pass, std::span<const TrainRow> rows, bool with_adapter, int64_t most);

  // log p of every row by the model without its adapter, which DPO needs; made before the first step.
  // `progress`: called with pairs done and all pairs.
  void make_reference(Pass& pass, int64_t most,
                      const std::function<void(int64_t, int64_t)>& progress = nullptr);
  bool needs_reference() const noexcept {
    return options_.objective == TrainObjective::kDpo && reference_.empty();
  }
  const std::vector<double>& reference() const noexcept { return reference_; }
  // Throws kMalformedFile for another number of them.
  void set_reference(std::vector<double> reference);

 private:
  PairLoss loss(const AnswerScore& chosen, const AnswerScore& rejected) const;
  std::span<const TrainRow> rows_;
  TrainOptions options_;
  const std::vector<double>& reference_of(Pass& pass, std::span<const TrainRow> rows, int64_t most);

  std::vector<double> reference_;  // by row
  // Of the pairs that were evaluated last, and a hash of their tokens.
  std::vector<double> evaluated_;
  uint64_t evaluated_pairs_ = 0;
};

}  // namespace nfloat

#endif  // NFLOAT_TUNE_PREFERENCE_H_
