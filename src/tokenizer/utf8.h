// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_TOKENIZER_UTF8_H_
#define NFLOAT_TOKENIZER_UTF8_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace nfloat {

inline constexpr char32_t kReplacementChar = 0xFFFD;

struct Utf8Char {
  char32_t value;  // U+FFFD where the bytes are not a character
  uint32_t bytes;  // of the character, or of the maximal part of one that is broken off
  enum Kind : uint8_t { kValid, kInvalid, kIncomplete } kind;  // incomplete: the text ends inside it
};

// The character that begins at text[at]; `at` is inside the text.
Utf8Char next_char(std::string_view text, size_t at) noexcept;

void append_utf8(std::string& out, char32_t value);
bool is_valid_utf8(std::string_view text);
// Every broken part replaced by one U+FFFD (Unicode's "substitution of maximal subparts").
std::string repair_utf8(std::string_view text);

// Properties as Rust's char and the Unicode database define them.
bool is_white_space(char32_t value) noexcept;
bool is_numeric(char32_t value) noexcept;      // categories Nd, Nl, No
bool is_punctuation(char32_t value) noexcept;  // ASCII punctuation and categories P*
bool is_word(char32_t value) noexcept;         // \w: letters, marks, decimal digits, connectors, joiners
bool is_mark(char32_t value) noexcept;         // categories M*
bool is_nonspacing_mark(char32_t value) noexcept;
bool is_control(char32_t value) noexcept;  // categories C* but unassigned ones

}  // namespace nfloat

#endif  // NFLOAT_TOKENIZER_UTF8_H_
