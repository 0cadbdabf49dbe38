// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_VERSION_H_
#define NFLOAT_VERSION_H_

// The version of these headers, for C and C++. Before 1.0, programs built against another minor version must
// be compiled again; from 1.0 on, another major version.
#define NFLOAT_VERSION_MAJOR 0
#define NFLOAT_VERSION_MINOR 1
#define NFLOAT_VERSION_PATCH 0
#define NFLOAT_VERSION_STRING "0.1.0"

// Of nfloat/nfloat.h: grows when a program compiled before would break.
#define NFLOAT_ABI_VERSION 1

#if defined(__cplusplus) && __cplusplus >= 202002L
#include <string_view>

#include "nfloat/api.h"

namespace nfloat {

// The version of the library that is linked, as "0.1.0".
NFLOAT_API std::string_view version() noexcept;

}  // namespace nfloat
#endif

#endif  // NFLOAT_VERSION_H_
