// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <charconv>
#include <cmath>

#include "base/fail.h"
#include "formats/families.h"

namespace nfloat {
namespace {

const std::vector<FormatEntry>& entries() {
  static const std::vector<FormatEntry> list = [] {
    std::vector<FormatEntry> all;
    for (const auto family : {codebook_formats, integer_formats, gguf_formats, microscaling_formats})
      for (FormatEntry& entry : family()) all.push_back(std::move(entry));
    return all;
  }();
  return list;
}

std::string own_name(const FormatInfo& info) {
  return info.name.substr(0, info.name.find_first_of("[:"));
}

}  // namespace

Format::~Format() = default;

std::vector<std::string> format_parts(std::string_view name) {
  std::vector<std::string> parts(1);
  for (const char c : name) {
    if (c == ':')
      parts.emplace_back();
    else
      parts.back() += c;
  }
  return parts;
}

std::unique_ptr<Format> make_format(std::string_view name) {
  const std::vector<std::string> parts = format_parts(name);
  std::string known;
  for (const FormatEntry& entry : entries()) {
    const std::string own = own_name(entry.info);
    if (own == parts[0]) return entry.make(parts);
    known += (known.empty() ? "" : ", ") + own;
  }
  fail(ErrorCode::kNotFound, "no format '{}'; there are: {}", parts[0], known);
}

std::vector<FormatInfo> format_list() {
  std::vector<FormatInfo> list;
  for (const FormatEntry& entry : entries()) list.push_back(entry.info);
  return list;
}

std::vector<std::string> default_formats(std::span<const int64_t> block_sizes) {
  std::vector<std::string> names;
  for (const int64_t block : block_sizes) {
    for (const char* pattern : {"nf4:{}", "nf4:{}:dq", "nf4:{}:signed:f16", "nf4:{}:signed:dq", "fp4:{}",
                                "int4:{}", "sf4:{}", "af4:{}", "bof4:{}", "bof4-s:{}:signed:f16"})
      names.push_back(fmt::format(fmt::runtime(pattern), block));
  }
  for (const char* name : {"nf4:64:search:f16", "nf3:64", "int4-asym:128", "int4-asym:32", "q4_0", "q4_k",
                           "iq4_nl", "iq4_xs", "q5_k", "q6_k", "q8_0", "mxfp4", "nvfp4", "nvfp4-4over6"})
    names.emplace_back(name);
  return names;
}

int64_t parse_block_size(const std::string& part, int64_t least) {
  int64_t block = 0;
  const auto [stop, error] = std::from_chars(part.data(), part.data() + part.size(), block);
  if (error != std::errc() || stop != part.data() + part.size() || block < least || block > int64_t{1} << 30)
    fail(ErrorCode::kInvalidArgument, "block size '{}': an integer from {} to 2^30 expected", part, least);
  return block;
}

void expect_no_options(std::span<const std::string> parts) {
  if (parts.size() > 1)
    fail(ErrorCode::kInvalidArgument, "the format {} has no options, '{}' found", parts[0], parts[1]);
}

void expect_whole_blocks(const Format& format, int64_t cols) {
  if (cols % format.block_size() != 0)
    fail(ErrorCode::kInvalidArgument, "{} stores rows in blocks of {}: rows of {} do not divide",
         format.name(), format.block_size(), cols);
}

void expect_finite(std::span<const float> weights) {
  for (size_t i = 0; i < weights.size(); ++i)
    if (!std::isfinite(weights[i]))
      fail(ErrorCode::kNotFinite, "the weight at index {} is NaN or infinite", i);
}

}  // namespace nfloat
