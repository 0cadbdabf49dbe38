// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_TEXT_H_
#define NFLOAT_TEXT_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "nfloat/api.h"

namespace nfloat {

// The text with escapes (\n, \t, \xHH, \u{H}) for everything that could move the cursor of a terminal or
// change its direction of writing: control characters, bidirectional marks, bytes that are not UTF-8.
// At most `most` bytes of it and "...", cut between two characters, escapes whole.
NFLOAT_API std::string printable(std::string_view text, size_t most = std::string_view::npos);

// "1.50 GB", "78.2 MB", "512 B": decimal units, as disks are sold.
NFLOAT_API std::string format_bytes(uint64_t bytes);

// The text as one word of a shell's command line: as it is, or in quotes; control characters as escapes in
// $'...', which bash, zsh and ksh read.
NFLOAT_API std::string shell_word(std::string_view text);

// FNV-1a of 64 bits over the bytes of the text; `before`: of what stands before it. The number never changes.
NFLOAT_API uint64_t text_hash(std::string_view text) noexcept;
NFLOAT_API uint64_t text_hash(std::string_view text, uint64_t before) noexcept;

}  // namespace nfloat

#endif  // NFLOAT_TEXT_H_
