// SPDX-License-Identifier: Apache-2.0
#include "cuda/why_none.h"

namespace nfloat::gpu {

std::string why_none(const DriverReport& report) {
  if (report.driver == 0) return "no driver of NVIDIA was found";
  // A runtime works with every driver of its own major version.
  if (report.driver / 1000 < report.runtime / 1000)
    return "the driver of NVIDIA is for CUDA " + std::to_string(report.driver / 1000) + "." +
           std::to_string(report.driver % 1000 / 10) + ", and one for CUDA " +
           std::to_string(report.runtime / 1000) + " or later is needed";
  if (!report.failure.empty()) return "the driver of NVIDIA fails: " + report.failure;
  if (report.old.empty()) return "the driver of NVIDIA finds no card";
  std::string cards;
  for (const std::string& card : report.old) cards += (cards.empty() ? "" : ", ") + card;
  return "no card is of compute capability 8.0 or later: " + cards;
}

}  // namespace nfloat::gpu
