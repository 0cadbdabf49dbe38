// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_BASE_ASCII_H_
#define NFLOAT_BASE_ASCII_H_

#include <algorithm>
#include <string>
#include <string_view>

namespace nfloat {

// ASCII's letters, whatever the locale; the rest stays.
constexpr char lower(char c) noexcept {
  return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
}

inline std::string in_lower_case(std::string_view text) {
  std::string result(text);
  std::transform(result.begin(), result.end(), result.begin(), lower);
  return result;
}

inline bool equal_ignoring_case(std::string_view a, std::string_view b) noexcept {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](char x, char y) { return lower(x) == lower(y); });
}

}  // namespace nfloat

#endif  // NFLOAT_BASE_ASCII_H_
