// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_VERSION_H_
#define NFLOAT_VERSION_H_

#include <string_view>

#include "nfloat/api.h"

// The version of these headers. Before 1.0, programs built against another minor version must be compiled
// again; from 1.0 on, another major version.
#define NFLOAT_VERSION_MAJOR 0
#define NFLOAT_VERSION_MINOR 1
#define NFLOAT_VERSION_PATCH 0

namespace nfloat {

// The version of the library that is linked, as "0.1.0".
NFLOAT_API std::string_view version() noexcept;

}  // namespace nfloat

#endif  // NFLOAT_VERSION_H_
