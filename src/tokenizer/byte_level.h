// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_TOKENIZER_BYTE_LEVEL_H_
#define NFLOAT_TOKENIZER_BYTE_LEVEL_H_

#include <array>
#include <string>
#include <string_view>

namespace nfloat {

// GPT-2's alphabet: 256 printable characters, one a byte. Printable ASCII and Latin-1 bytes stand for
// themselves, the other 68 are U+0100 and up in order (a space is U+0120, "Ġ").
const std::array<char32_t, 256>& byte_alphabet();

// The alphabet's characters of these bytes, as UTF-8.
std::string to_byte_level(std::string_view bytes);

// Appends the bytes that `text` spells; false, with nothing appended, when a character is not of the
// alphabet.
bool append_bytes_of(std::string_view text, std::string& bytes);

}  // namespace nfloat

#endif  // NFLOAT_TOKENIZER_BYTE_LEVEL_H_
