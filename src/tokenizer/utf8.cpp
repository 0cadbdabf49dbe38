// SPDX-License-Identifier: Apache-2.0
#include "tokenizer/utf8.h"

#include <utf8proc.h>

#include "base/interruption.h"

namespace nfloat {
namespace {

utf8proc_category_t category(char32_t value) noexcept {
  return utf8proc_category(static_cast<utf8proc_int32_t>(value));
}

bool between(utf8proc_category_t value, utf8proc_category_t low, utf8proc_category_t high) noexcept {
  return value >= low && value <= high;
}

}  // namespace

Utf8Char next_char(std::string_view text, size_t at) noexcept {
  const auto byte = [&](size_t index) { return static_cast<uint8_t>(text[index]); };
  const uint8_t lead = byte(at);
  if (lead < 0x80) return {lead, 1, Utf8Char::kValid};
  if (lead < 0xC2 || lead > 0xF4) return {kReplacementChar, 1, Utf8Char::kInvalid};
  const uint32_t length = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  // The second byte's range excludes overlong forms, surrogates and values above U+10FFFF.
  uint8_t low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
  uint8_t high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
  char32_t value = lead & (0x7Fu >> length);
  for (uint32_t i = 1; i < length; ++i) {
    if (at + i >= text.size()) return {kReplacementChar, i, Utf8Char::kIncomplete};
    const uint8_t next = byte(at + i);
    if (next < low || next > high) return {kReplacementChar, i, Utf8Char::kInvalid};
    value = value << 6 | (next & 0x3Fu);
    low = 0x80;
    high = 0xBF;
  }
  return {value, length, Utf8Char::kValid};
}

void append_utf8(std::string& out, char32_t value) {
  const auto push = [&](char32_t byte) { out.push_back(static_cast<char>(byte)); };
  if (value < 0x80) {
    push(value);
  } else if (value < 0x800) {
    push(0xC0 | value >> 6);
    push(0x80 | (value & 0x3F));
  } else if (value < 0x10000) {
    push(0xE0 | value >> 12);
    push(0x80 | (value >> 6 & 0x3F));
    push(0x80 | (value & 0x3F));
  } else {
    push(0xF0 | value >> 18);
    push(0x80 | (value >> 12 & 0x3F));
    push(0x80 | (value >> 6 & 0x3F));
    push(0x80 | (value & 0x3F));
  }
}

bool is_valid_utf8(std::string_view text) {
  Looks looks;
  for (size_t at = 0; at < text.size();) {
    looks.step();
    const Utf8Char next = next_char(text, at);
    if (next.kind != Utf8Char::kValid) return false;
    at += next.bytes;
  }
  return true;
}

std::string repair_utf8(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  size_t copied = 0;
  Looks looks;
  for (size_t at = 0; at < text.size();) {
    looks.step();
    const Utf8Char next = next_char(text, at);
    if (next.kind != Utf8Char::kValid) {
      out.append(text, copied, at - copied);
      append_utf8(out, kReplacementChar);
      copied = at + next.bytes;
    }
    at += next.bytes;
  }
  out.append(text, copied, text.size() - copied);
  return out;
}

bool is_white_space(char32_t value) noexcept {
  if (value < 0x80) return value == ' ' || (value >= 0x9 && value <= 0xD);
  return value == 0x85 || between(category(value), UTF8PROC_CATEGORY_ZS, UTF8PROC_CATEGORY_ZP);
}

bool is_numeric(char32_t value) noexcept {
  if (value < 0x80) return value >= '0' && value <= '9';
  return between(category(value), UTF8PROC_CATEGORY_ND, UTF8PROC_CATEGORY_NO);
}

bool is_punctuation(char32_t value) noexcept {
  if (value < 0x80)
    return (value >= 0x21 && value <= 0x2F) || (value >= 0x3A && value <= 0x40) ||
           (value >= 0x5B && value <= 0x60) || (value >= 0x7B && value <= 0x7E);
  return between(category(value), UTF8PROC_CATEGORY_PC, UTF8PROC_CATEGORY_PO);
}

bool is_word(char32_t value) noexcept {
  const utf8proc_category_t kind = category(value);
  if (between(kind, UTF8PROC_CATEGORY_LU, UTF8PROC_CATEGORY_NL) || kind == UTF8PROC_CATEGORY_PC) return true;
  // Circled and squared letters are alphabetic; the two join controls count as well.
  return (value >= 0x24B6 && value <= 0x24E9) || (value >= 0x1F130 && value <= 0x1F149) ||
         (value >= 0x1F150 && value <= 0x1F169) || (value >= 0x1F170 && value <= 0x1F189) ||
         value == 0x200C || value == 0x200D;
}

bool is_mark(char32_t value) noexcept {
  return between(category(value), UTF8PROC_CATEGORY_MN, UTF8PROC_CATEGORY_ME);
}

bool is_nonspacing_mark(char32_t value) noexcept {
  return category(value) == UTF8PROC_CATEGORY_MN;
}

bool is_control(char32_t value) noexcept {
  return between(category(value), UTF8PROC_CATEGORY_CC, UTF8PROC_CATEGORY_CO);
}

}  // namespace nfloat
