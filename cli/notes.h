// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_CLI_NOTES_H_
#define NFLOAT_CLI_NOTES_H_

#include <fmt/format.h>

#include <atomic>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "nfloat/text.h"

// What is said beside results: on standard error, safe for a terminal.
namespace nfloat::cli {

// --quiet, which every command has: no notes, no progress.
bool& quiet() noexcept;

// Whether the line on the terminal is a progress bar; what is said clears it first.
std::atomic<bool>& progress_shown() noexcept;

// Standard error where it can be written to; that it cannot changes no result.
void say(std::string_view text) noexcept;

// A note for the person who looks on; nothing with --quiet.
template <typename... Args>
void note(fmt::format_string<Args...> format, Args&&... args) {
  if (!quiet()) say(fmt::format(format, std::forward<Args>(args)...));
}

// A warning: results are there, and not what they seem to be. With --quiet too.
void warn(std::string_view text);

// A message: printable, on one line, at most `most` bytes, the middle left out of a longer one.
std::string one_line(std::string_view text, size_t most = 1000);

// "1 format", "3 formats".
std::string count_of(int64_t count, std::string_view noun);

// Text that a model made, to standard output at once: as it is, or where that is a terminal with all but line
// breaks and tabs printable, so that no answer moves its cursor.
void write_answer(std::string_view text);

// `, did you mean "X"?` for the name in `known` that `wrong` is a few letters away from; empty without one.
std::string did_you_mean(std::string_view wrong, const std::vector<std::string>& known);

// Writes a result to `path` (nfloat/files.h) and says so.
void write_result_file(const std::string& path, std::string_view text);

}  // namespace nfloat::cli

#endif  // NFLOAT_CLI_NOTES_H_
