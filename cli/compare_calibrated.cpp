// SPDX-License-Identifier: Apache-2.0
#include "compare_calibrated.h"

#include <fmt/format.h>

#include "calibration_text.h"
#include "nfloat/error.h"
#include "signals.h"

namespace nfloat::cli {
namespace {

std::string suffix_of(int level) {
  return fmt::format(":calibrated{}", level == 2 ? "" : std::to_string(level));
}

}  // namespace

CalibratedFormat::CalibratedFormat(std::unique_ptr<Format> base, int level)
    : Format(base->name() + suffix_of(level),
             fmt::format("{}, calibrated at level {}", base->summary(), level)),
      base_(std::move(base)),
      level_(level) {}

Calibration CalibratedFormat::run(const std::string& folder, const std::string& text,
                                  const CalibrationOptions& options) const {
  const CalibrationSubject on = calibration_subject(folder, text, calibration_tokens(level_));
  QuantizeCheckpointOptions settings;
  settings.format = base_->codebook()->name;
  settings.quantize.block_size = block_size();
  settings.quantize.double_quantization = true;
  settings.quantize.scale = ScaleMethod::kSigned;
  CalibrationOptions own = options;
  own.beside = on.beside;
  return calibrate(on.checkpoint, on.config, on.windows, settings, own);
}

Calibration CalibratedFormat::quantize(const std::string& folder, const std::string& text,
                                       int threads) const {
  CalibrationOptions options;
  options.level = level_;
  options.threads = threads;
  options.cancelled = interrupted;
  return run(folder, text, options);
}

double CalibratedFormat::seconds(const std::string& folder, const std::string& text, int threads) const {
  std::optional<double> result;
  CalibrationOptions options;
  options.level = level_;
  options.threads = threads;
  options.estimated = [&](const CalibrationEstimate& estimate) {
    result = estimate.seconds;
    throw Error(ErrorCode::kInterrupted, "only the estimate was wanted");
  };
  try {
    run(folder, text, options);
  } catch (const Error&) {
    if (!result) throw;
  }
  return result.value_or(0);
}

std::unique_ptr<Format> make_compared_format(const std::string& name) {
  for (const int level : {1, 2, 3}) {
    const std::string suffix = suffix_of(level);
    if (!name.ends_with(suffix)) continue;
    std::unique_ptr<Format> base = make_format(name.substr(0, name.size() - suffix.size()));
    const bool code = base->name().starts_with("nf4:") || base->name().starts_with("fp4:");
    if (!code || !base->name().ends_with(":signed:dq"))
      throw Error(ErrorCode::kInvalidArgument,
                  fmt::format("{}: what is calibrated is nf4 or fp4 with signed scales in 8 bits, as "
                              "nf4:64:signed:dq{}",
                              name, suffix));
    return std::make_unique<CalibratedFormat>(std::move(base), level);
  }
  return make_format(name);
}

}  // namespace nfloat::cli
