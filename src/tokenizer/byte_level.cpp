// SPDX-License-Identifier: Apache-2.0
#include "tokenizer/byte_level.h"

#include <cstdint>

#include "tokenizer/utf8.h"

namespace nfloat {
namespace {

constexpr size_t kAlphabetEnd = 256 + 68;

std::array<char32_t, 256> make_alphabet() {
  std::array<char32_t, 256> alphabet{};
  char32_t next = 256;
  for (char32_t byte = 0; byte < 256; ++byte) {
    const bool printable =
        (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || (byte >= 0xAE && byte <= 0xFF);
    alphabet[byte] = printable ? byte : next++;
  }
  return alphabet;
}

std::array<int16_t, kAlphabetEnd> make_inverse() {
  std::array<int16_t, kAlphabetEnd> inverse{};
  inverse.fill(-1);
  for (size_t byte = 0; byte < 256; ++byte) inverse[byte_alphabet()[byte]] = static_cast<int16_t>(byte);
  return inverse;
}

}  // namespace

const std::array<char32_t, 256>& byte_alphabet() {
  static const std::array<char32_t, 256> alphabet = make_alphabet();
  return alphabet;
}

std::string to_byte_level(std::string_view bytes) {
  std::string text;
  text.reserve(bytes.size() + bytes.size() / 2);
  for (const char byte : bytes) append_utf8(text, byte_alphabet()[static_cast<uint8_t>(byte)]);
  return text;
}

bool append_bytes_of(std::string_view text, std::string& bytes) {
  static const std::array<int16_t, kAlphabetEnd> inverse = make_inverse();
  const size_t before = bytes.size();
  for (size_t at = 0; at < text.size();) {
    const Utf8Char next = next_char(text, at);
    if (next.value >= kAlphabetEnd || inverse[next.value] < 0) {
      bytes.resize(before);
      return false;
    }
    bytes.push_back(static_cast<char>(inverse[next.value]));
    at += next.bytes;
  }
  return true;
}

}  // namespace nfloat
