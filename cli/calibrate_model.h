// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_CLI_CALIBRATE_MODEL_H_
#define NFLOAT_CLI_CALIBRATE_MODEL_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>

#include "nfloat/calibrate.h"
#include "nfloat/results.h"

namespace nfloat::cli {

// How `quantize` calibrates.
struct CalibrateRequest {
  std::string input, folder;  // as given, resolved
  std::string output;         // the path to be written, behind links
  std::string text;           // file; empty: the general text
  int64_t tokens = 65536;
  int level = 1;
  bool text_alone = false;  // no general text beside it
  bool fast = false, fresh = false;
  int threads = 0;
};

// What calibration found, and what it was done with.
struct CalibratedModel {
  std::map<std::string, QuantizedTensor> tensors;  // of level 3; else in the CalibrationFile
  std::map<std::string, Tensor> norms;             // with other values than the input's
  CalibrationRecord record;
  bool fast = false;

  // Block sizes were chosen for each weight: in words, and the divergence that was predicted of them.
  void chosen(const std::string& sizes, double predicted);
  std::string sentence() const;
  std::string card() const;  // of the output's README.md
};

// The finished layers stand in OUT.calibration meanwhile, which the caller removes when OUT is written:
// `file`. Throws Error, also when the result is worse than what needs no text.
CalibratedModel calibrate_model(const CalibrateRequest& request, const QuantizeCheckpointOptions& settings,
                                std::optional<CalibrationFile>& file);

}  // namespace nfloat::cli

#endif  // NFLOAT_CLI_CALIBRATE_MODEL_H_
