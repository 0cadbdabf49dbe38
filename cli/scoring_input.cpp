// SPDX-License-Identifier: Apache-2.0
#include "scoring_input.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <cstdint>

#include "nfloat/checkpoint.h"
#include "nfloat/error.h"
#include "nfloat/text.h"

namespace nfloat::cli {

void expect_text(const std::string& text, const std::string& name) {
  for (size_t i = 0; i < text.size();) {
    const auto lead = static_cast<uint8_t>(text[i]);
    const size_t length = lead < 0x80                   ? 1
                          : lead >= 0xf0 && lead < 0xf5 ? 4
                          : lead >= 0xe0                ? 3
                          : lead >= 0xc2                ? 2
                                                        : 0;
    bool good = length > 0 && lead < 0xf5 && i + length <= text.size();
    for (size_t k = 1; good && k < length; ++k) good = (static_cast<uint8_t>(text[i + k]) & 0xc0) == 0x80;
    if (!good) throw Error(ErrorCode::kMalformedFile, fmt::format("{}: byte {} is not UTF-8", name, i));
    i += length;
  }
  if (text.find_first_not_of(" \t\r\n") == std::string::npos)
    throw Error(ErrorCode::kInvalidArgument, fmt::format("{}: the text is empty", name));
}

std::vector<int32_t> scored_tokens(const Tokenizer& tokenizer, const std::string& text,
                                   PerplexityOptions& scoring) {
  if (scoring.protocol != PerplexityProtocol::kLlamaCpp) return tokenizer.encode(text, false);
  std::vector<int32_t> tokens =
      tokenizer.encode(text, {.add_special_tokens = true, .parse_special_tokens = false});
  const std::vector<int32_t> around = tokenizer.encode("", true);
  const bool has_bos = !around.empty() && !tokens.empty() && tokens[0] == around[0];
  scoring.bos_token = has_bos ? tokens[0] : kNoBosToken;
  return tokens;
}

std::string scoring_identity(const std::string& folder, const std::string& text, std::string_view how) {
  uint64_t hash = text_hash(text);
  const Checkpoint checkpoint(folder);
  for (const std::string& file : checkpoint.files()) {
    struct stat info {};
    ::stat(file.c_str(), &info);
    hash = text_hash(
        fmt::format("{}\n{}\n{}.{}\n", file, info.st_size, info.st_mtim.tv_sec, info.st_mtim.tv_nsec), hash);
  }
  hash = text_hash(fmt::format("{} {}", how, NFLOAT_VERSION_STRING), hash);
  return fmt::format("{:016x}", hash);
}

}  // namespace nfloat::cli
