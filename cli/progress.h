// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_CLI_PROGRESS_H_
#define NFLOAT_CLI_PROGRESS_H_

#include <chrono>
#include <cstdint>
#include <string>

#include "nfloat/text.h"
#include "signals.h"

namespace nfloat::cli {

// A line on standard error that is redrawn a few times a second; nothing at all when standard error is not a
// terminal. Done before any other output: finish() clears it.
class ProgressBar {
 public:
  // `label` says what is going on ("quantize"), `unit` what `done` counts ("GB" shows bytes as gigabytes).
  ProgressBar(std::string label, std::string unit);
  ~ProgressBar() { finish(); }
  // `note` stands behind the bar: "12/291 tensors".
  void update(uint64_t done, uint64_t total, const std::string& note);
  void finish();

 private:
  using Clock = std::chrono::steady_clock;
  std::string label_, unit_;
  bool terminal_;
  bool drawn_ = false;
  Clock::time_point start_, last_;
};

}  // namespace nfloat::cli

#endif  // NFLOAT_CLI_PROGRESS_H_
