// SPDX-License-Identifier: Apache-2.0
#include "nfloat/version.h"

#define NFLOAT_TEXT_OF(number) #number
#define NFLOAT_DOTTED(major, minor, patch) \
  NFLOAT_TEXT_OF(major) "." NFLOAT_TEXT_OF(minor) "." NFLOAT_TEXT_OF(patch)

namespace nfloat {

std::string_view version() noexcept {
  return NFLOAT_DOTTED(NFLOAT_VERSION_MAJOR, NFLOAT_VERSION_MINOR, NFLOAT_VERSION_PATCH);
}

}  // namespace nfloat
