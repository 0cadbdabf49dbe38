// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_CLI_CALIBRATION_RUN_H_
#define NFLOAT_CLI_CALIBRATION_RUN_H_

#include <cstdint>
#include <optional>
#include <string>

#include "calibration_text.h"
#include "nfloat/calibrate.h"

namespace nfloat::cli {

// A calibration whose finished layers stand in a file beside the output, where the next run with the same
// `key` finds them; with what is shown meanwhile.
class CalibrationRun {
 public:
  // OUTPUT.calibration is opened or made; `fresh`: what is there is thrown away first. Throws Error.
  CalibrationRun(const std::string& output, const std::string& key, const QuantizeCheckpointOptions& quantize,
                 bool fresh, std::optional<CalibrationFile>& file);

  // `options` with what the file and the terminal need; matrices of levels 1 and 2 are in the file then.
  // `shown`: the text, for the line of the estimate. Where nothing is finished the file goes. Throws Error.
  Calibration run(const CalibrationSubject& on, const std::string& shown, CalibrationOptions options);

 private:
  const QuantizeCheckpointOptions& quantize_;
  CalibrationFile& file_;
};

}  // namespace nfloat::cli

#endif  // NFLOAT_CLI_CALIBRATION_RUN_H_
