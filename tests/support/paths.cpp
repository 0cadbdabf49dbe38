// SPDX-License-Identifier: Apache-2.0
#include "support/paths.h"

namespace nfloat::testing {

std::string source_path(std::string_view inside) {
  return std::string(NFLOAT_SOURCE_DIR).append(inside);
}

std::string shared_path(std::string_view inside) {
  return std::string(NFLOAT_SOURCE_DIR "/../shared").append(inside);
}

}  // namespace nfloat::testing
