// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_CLI_COMPARE_CALIBRATED_H_
#define NFLOAT_CLI_COMPARE_CALIBRATED_H_

#include <memory>
#include <string>

#include "nfloat/calibrate.h"
#include "nfloat/formats.h"

namespace nfloat::cli {

// A format whose codes and scales a calibration chooses, as `quantize --calibrate` does.
class CalibratedFormat : public Format {
 public:
  CalibratedFormat(std::unique_ptr<Format> base, int level);
  int level() const noexcept { return level_; }
  // The model's matrices in it, and of level 3 the norms. `text`: a file, or empty for the general text.
  // Throws as calibrate().
  Calibration quantize(const std::string& folder, const std::string& text, int threads) const;
  // About how many seconds that takes on this machine. Throws likewise.
  double seconds(const std::string& folder, const std::string& text, int threads) const;

  // What calibration does not take.
  StoredWeights round_trip(std::span<float> weights, int64_t rows, int64_t cols, int threads) const override {
    return base_->round_trip(weights, rows, cols, threads);
  }
  double bits_per_weight() const noexcept override { return base_->bits_per_weight(); }
  int64_t block_size() const noexcept override { return base_->block_size(); }
  const Codebook* codebook() const noexcept override { return base_->codebook(); }
  bool separable() const noexcept override { return false; }
  std::optional<PackedFormat> packed() const override { return base_->packed(); }

 private:
  Calibration run(const std::string& folder, const std::string& text,
                  const CalibrationOptions& options) const;

  const std::unique_ptr<Format> base_;
  const int level_;
};

// make_format, and "nf4:64:signed:dq:calibrated" (level 2), ":calibrated1" or ":calibrated3"
// behind the same.
std::unique_ptr<Format> make_compared_format(const std::string& name);

}  // namespace nfloat::cli

#endif  // NFLOAT_CLI_COMPARE_CALIBRATED_H_
