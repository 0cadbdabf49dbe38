// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_CLI_QUANTIZE_LIMITS_H_
#define NFLOAT_CLI_QUANTIZE_LIMITS_H_

#include <string>
#include <vector>

#include "calibrate_model.h"
#include "nfloat/budget.h"

namespace nfloat::cli {

// What the quantized model may be: at most one of them is set.
struct QuantizeLimits {
  std::string budget;  // bytes of its files
  double bits = 0;     // a weight of the matrices
  double divergence = 0;
  std::vector<int64_t> block_sizes = {};  // to choose from; empty: the usual ones

  bool any() const { return !budget.empty() || bits > 0 || divergence > 0; }
};

// A block size for each weight, chosen again where what calibration leaves is not what was predicted.
class BlockSizeSearch {
 public:
  // Measures what each weight costs. Throws as measure_sensitivity, and UsageError.
  BlockSizeSearch(const CalibrateRequest& request, const QuantizeCheckpointOptions& settings,
                  const QuantizeLimits& limits);

  const BlockSizes& sizes() const noexcept { return sizes_; }
  double predicted() const noexcept { return sizes_.divergence * share_; }
  // Whether a calibration with these sizes that diverges by `kl` is what was asked for; else there are other
  // sizes. Throws Error when none were found.
  bool met(double kl);
  // "9 weights in blocks of 128, ...": of a sentence or a table.
  std::string in_words() const;

 private:
  void choose();

  const QuantizeCheckpointOptions settings_;
  const Checkpoint checkpoint_;
  QuantizationLimit limit_;
  std::vector<WeightSensitivity> weights_;
  double share_ = 1;  // that calibration leaves of the divergence of signed scales
  BlockSizes sizes_;
  int rounds_ = 0;
};

}  // namespace nfloat::cli

#endif  // NFLOAT_CLI_QUANTIZE_LIMITS_H_
