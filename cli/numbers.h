// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_CLI_NUMBERS_H_
#define NFLOAT_CLI_NUMBERS_H_

#include <algorithm>
#include <charconv>
#include <optional>
#include <string_view>
#include <system_error>
#include <vector>

// Numbers inside of options that are more than a number.
namespace nfloat::cli {

// The number that a text is from its first to its last character; nothing where it is none or T has no room
// for it.
template <typename T>
std::optional<T> parse_number(std::string_view text) noexcept {
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size()) return std::nullopt;
  return value;
}

// The parts between commas, at least one.
inline std::vector<std::string_view> split_at_commas(std::string_view text) {
  std::vector<std::string_view> parts;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(',', begin), text.size());
    parts.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return parts;
}

}  // namespace nfloat::cli

#endif  // NFLOAT_CLI_NUMBERS_H_
