// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_GENERATE_LOOKUP_H_
#define NFLOAT_GENERATE_LOOKUP_H_

#include <algorithm>
#include <cstdint>
#include <span>

namespace nfloat {

// What followed the last place where `tokens` has its last few tokens before: at most `most` tokens of it.
// The longest of 4 to 2 last tokens that are found count.
inline std::span<const int32_t> look_up(std::span<const int32_t> tokens, size_t most) noexcept {
  for (size_t length = 4; length >= 2; --length) {
    if (tokens.size() <= length) continue;
    const std::span<const int32_t> last = tokens.last(length);
    for (size_t at = tokens.size() - length; at-- > 0;) {
      const std::span<const int32_t> here = tokens.subspan(at, length);
      if (!std::equal(here.begin(), here.end(), last.begin())) continue;
      return tokens.subspan(at + length, std::min(most, tokens.size() - at - length));
    }
  }
  return {};
}

}  // namespace nfloat

#endif  // NFLOAT_GENERATE_LOOKUP_H_
