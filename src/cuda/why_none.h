// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_CUDA_WHY_NONE_H_
#define NFLOAT_CUDA_WHY_NONE_H_

#include <string>
#include <vector>

namespace nfloat::gpu {

// What CUDA's runtime says where it has no card for the engine. Versions as it numbers them: 12040 is 12.4.
struct DriverReport {
  int driver = 0;                // the newest CUDA that the driver knows; 0: there is no driver
  int runtime = 0;               // that the engine was built with
  std::string failure;           // of looking for cards, other than that there is none; empty: none
  std::vector<std::string> old;  // cards of too low a compute capability: "Tesla V100 (7.0)"
};

// Why there is no card, as the end of a sentence.
std::string why_none(const DriverReport& report);

}  // namespace nfloat::gpu

#endif  // NFLOAT_CUDA_WHY_NONE_H_
