// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_CLI_CONVERT_CALIBRATED_H_
#define NFLOAT_CLI_CONVERT_CALIBRATED_H_

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "nfloat/calibrate.h"
#include "nfloat/imatrix.h"

namespace nfloat::cli {

// How `convert` calibrates.
struct ConvertCalibration {
  std::string text;    // file; empty: the general text
  int64_t tokens = 0;  // 0: as quantize
  int level = 0;       // 0: 1
  bool fast = false;
  bool fresh = false;  // does not go on with what a run before has found

  bool any() const { return !text.empty() || tokens > 0 || level > 0 || fast; }
};

// The matrices of the plain model in `folder` in llama.cpp's blocks, which stand in OUTPUT.calibration then:
// `file`, which the caller removes when the output is written. Returns what was done, a sentence. Throws
// Error, also when the result is worse than what needs no text.
std::string calibrate_blocks(const std::string& folder, const std::string& output, GgufType type,
                             const ConvertCalibration& calibration, int threads,
                             std::optional<CalibrationFile>& file);

// How large the inputs of the model's matrices are on the text. Throws Error.
std::shared_ptr<const ImportanceMatrix> importance_of_text(const std::string& folder,
                                                           const ConvertCalibration& calibration,
                                                           int threads);

}  // namespace nfloat::cli

#endif  // NFLOAT_CLI_CONVERT_CALIBRATED_H_
