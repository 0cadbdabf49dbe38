// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_FORMATS_FAMILIES_H_
#define NFLOAT_FORMATS_FAMILIES_H_

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "nfloat/formats.h"

// Each family of formats stands in one file and tells here what it has: a new format is a class and a row in
// its family's list.
namespace nfloat {

struct FormatEntry {
  FormatInfo info;
  // Makes the format from the parts between the colons, the first being its own name. Throws
  // kInvalidArgument.
  std::unique_ptr<Format> (*make)(std::span<const std::string> parts);
};

std::vector<FormatEntry> codebook_formats();
std::vector<FormatEntry> integer_formats();
std::vector<FormatEntry> gguf_formats();
std::vector<FormatEntry> microscaling_formats();

// A name cut at its colons.
std::vector<std::string> format_parts(std::string_view name);
// The number behind a colon. Throws kInvalidArgument unless it is an integer from `least` on.
int64_t parse_block_size(const std::string& part, int64_t least);
// Throws kInvalidArgument when anything follows the name.
void expect_no_options(std::span<const std::string> parts);
// Throws kInvalidArgument when rows of `cols` weights do not divide into blocks, naming the format.
void expect_whole_blocks(const Format& format, int64_t cols);
// Throws kNotFinite naming the index of the first NaN or infinity.
void expect_finite(std::span<const float> weights);

}  // namespace nfloat

#endif  // NFLOAT_FORMATS_FAMILIES_H_
