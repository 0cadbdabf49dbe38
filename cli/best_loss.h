// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_CLI_BEST_LOSS_H_
#define NFLOAT_CLI_BEST_LOSS_H_

#include <cmath>
#include <cstdint>
#include <limits>
#include <span>
#include <string>

#include "nfloat/train.h"

namespace nfloat::cli {

// The least loss on rows that are not trained on, of all parts of a run that is interrupted and resumed.
struct BestLoss {
  double loss = std::numeric_limits<double>::infinity();
  int64_t step = 0;    // after which it was measured
  int64_t others = 0;  // evaluations since

  bool known() const noexcept { return std::isfinite(loss); }
  // Takes in the next evaluation; true for a new least one.
  bool add(int64_t after, double next) noexcept;
  // As text, for a checkpoint, with which rows are evaluated.
  std::string note(std::span<const TrainRow> rows) const;
  // What note() made of the same rows; of others, or of an empty text, nothing is known. Throws
  // kMalformedFile naming `source`.
  static BestLoss of_note(const std::string& note, std::span<const TrainRow> rows, const std::string& source);
};

}  // namespace nfloat::cli

#endif  // NFLOAT_CLI_BEST_LOSS_H_
