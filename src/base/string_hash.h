// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_BASE_STRING_HASH_H_
#define NFLOAT_BASE_STRING_HASH_H_

#include <cstddef>
#include <functional>
#include <string_view>

namespace nfloat {

// For unordered maps of std::string that are asked with views of text.
struct StringHash {
  using is_transparent = void;
  size_t operator()(std::string_view text) const noexcept { return std::hash<std::string_view>()(text); }
};

}  // namespace nfloat

#endif  // NFLOAT_BASE_STRING_HASH_H_
