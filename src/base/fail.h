// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_BASE_FAIL_H_
#define NFLOAT_BASE_FAIL_H_

#include <fmt/format.h>

#include <utility>

#include "nfloat/error.h"

namespace nfloat {

// Throws Error with a formatted sentence.
template <typename... Args>
[[noreturn]] void fail(ErrorCode code, fmt::format_string<Args...> format, Args&&... args) {
  throw Error(code, fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace nfloat

#endif  // NFLOAT_BASE_FAIL_H_
