// SPDX-License-Identifier: Apache-2.0
#include "nfloat/calibrate.h"

namespace nfloat {
namespace embedded {
extern const std::string_view general_calibration_text;
}

std::string_view general_calibration_text() noexcept {
  return embedded::general_calibration_text;
}

}  // namespace nfloat
