// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <cstdint>

#include "base/fnv.h"
#include "nfloat/text.h"

namespace nfloat {
namespace {

// A character at the beginning of `text`: its code point and bytes; 0 bytes where it is not UTF-8.
struct Character {
  uint32_t code = 0;
  size_t bytes = 0;
};

Character first_character(std::string_view text) noexcept {
  const auto lead = static_cast<uint8_t>(text[0]);
  if (lead < 0x80) return {lead, 1};
  const size_t bytes = lead >= 0xf0 && lead < 0xf5   ? 4
                       : lead >= 0xe0 && lead < 0xf0 ? 3
                       : lead >= 0xc2 && lead < 0xe0 ? 2
                                                     : 0;
  if (bytes == 0 || text.size() < bytes) return {};
  uint32_t code = lead & (0x7fu >> bytes);
  for (size_t i = 1; i < bytes; ++i) {
    const auto next = static_cast<uint8_t>(text[i]);
    if ((next & 0xc0) != 0x80) return {};
    code = code << 6 | (next & 0x3f);
  }
  const uint32_t least = bytes == 4 ? 0x10000 : bytes == 3 ? 0x800 : 0x80;
  if (code < least || code > 0x10ffff || (code >= 0xd800 && code < 0xe000)) return {};
  return {code, bytes};
}

// Controls, and what turns, joins or hides the text around it.
bool is_safe(uint32_t code) noexcept {
  return code >= 0x20 && (code < 0x7f || code >= 0xa0) && code != 0x061c && code != 0x200e &&
         code != 0x200f && !(code >= 0x2028 && code <= 0x202e) && !(code >= 0x2066 && code <= 0x2069) &&
         code != 0xfeff;
}

}  // namespace

std::string printable(std::string_view text, size_t most) {
  std::string safe;
  while (!text.empty()) {
    const size_t whole = safe.size();
    const Character character = first_character(text);
    if (character.bytes == 0)
      safe += fmt::format("\\x{:02x}", static_cast<uint8_t>(text[0]));
    else if (is_safe(character.code))
      safe += text.substr(0, character.bytes);
    else if (character.code == '\n')
      safe += "\\n";
    else if (character.code == '\t')
      safe += "\\t";
    else if (character.code < 0x80)
      safe += fmt::format("\\x{:02x}", character.code);
    else
      safe += fmt::format("\\u{{{:x}}}", character.code);
    if (safe.size() > most) return safe.substr(0, whole) + "...";
    text.remove_prefix(std::max<size_t>(1, character.bytes));
  }
  return safe;
}

std::string shell_word(std::string_view text) {
  const auto plain = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           std::string_view("_-./:,+@%=").find(c) != std::string_view::npos;
  };
  if (!text.empty() && std::all_of(text.begin(), text.end(), plain)) return std::string(text);
  std::string word;
  if (printable(text) == text) {
    for (const char c : text) word += c == '\'' ? std::string("'\\''") : std::string(1, c);
    return "'" + word + "'";
  }
  for (const char c : text)
    word += plain(c) || c == ' ' ? std::string(1, c) : fmt::format("\\x{:02x}", static_cast<uint8_t>(c));
  return "$'" + word + "'";
}

std::string format_bytes(uint64_t bytes) {
  const auto value = static_cast<double>(bytes);
  if (bytes >= 1'000'000'000) return fmt::format("{:.2f} GB", value / 1e9);
  if (bytes >= 1'000'000) return fmt::format("{:.2f} MB", value / 1e6);
  if (bytes >= 1'000) return fmt::format("{:.1f} kB", value / 1e3);
  return fmt::format("{} B", bytes);
}

uint64_t text_hash(std::string_view text) noexcept {
  return fnv(text);
}

uint64_t text_hash(std::string_view text, uint64_t before) noexcept {
  return fnv(text, before);
}

}  // namespace nfloat
