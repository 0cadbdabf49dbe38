// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_BASE_COUNTED_H_
#define NFLOAT_BASE_COUNTED_H_

#include <fmt/format.h>

#include <cstdint>
#include <string>
#include <string_view>

namespace nfloat {

// "1 tensor", "2 tensors".
inline std::string counted(uint64_t count, std::string_view noun) {
  return fmt::format("{} {}{}", count, noun, count == 1 ? "" : "s");
}

}  // namespace nfloat

#endif  // NFLOAT_BASE_COUNTED_H_
