// SPDX-License-Identifier: Apache-2.0
#include "evaluate/windows.h"

#include <algorithm>

#include "base/fail.h"

namespace nfloat {
namespace {

Window shifted(std::span<const int32_t> tokens) {
  Window window;
  window.input.assign(tokens.begin(), tokens.end() - 1);
  window.targets.assign(tokens.begin() + 1, tokens.end());
  return window;
}

}  // namespace

std::vector<Window> cut_windows(std::span<const int32_t> tokens, const PerplexityOptions& options) {
  const auto total = static_cast<int64_t>(tokens.size());
  const int64_t context = options.context;
  std::vector<Window> windows;
  if (options.protocol == PerplexityProtocol::kBos) {
    if (options.bos_token < 0)
      fail(ErrorCode::kInvalidArgument, "the protocol \"bos\" needs a BOS token and this model names none");
    for (int64_t begin = 0; begin < total; begin += context) {
      const std::span<const int32_t> part =
          tokens.subspan(static_cast<size_t>(begin), static_cast<size_t>(std::min(context, total - begin)));
      Window window;
      window.input.push_back(options.bos_token);
      window.input.insert(window.input.end(), part.begin(), part.end() - 1);
      window.targets.assign(part.begin(), part.end());
      windows.push_back(std::move(window));
    }
  } else {
    for (int64_t begin = 0; begin + context <= total; begin += context) {
      Window window = shifted(tokens.subspan(static_cast<size_t>(begin), static_cast<size_t>(context)));
      if (options.protocol == PerplexityProtocol::kLlamaCpp) {
        if (options.bos_token >= 0) window.input[0] = options.bos_token;
        window.first = context / 2;
      }
      windows.push_back(std::move(window));
    }
  }
  if (windows.empty())
    fail(ErrorCode::kInvalidArgument, "{} tokens of text, expected at least one window of {}", total,
         context);
  return windows;
}

std::vector<Window> sequence_windows(std::span<const std::vector<int32_t>> sequences) {
  std::vector<Window> windows;
  for (const std::vector<int32_t>& sequence : sequences)
    if (sequence.size() >= 2) windows.push_back(shifted(sequence));
  if (windows.empty())
    fail(ErrorCode::kInvalidArgument, "none of the {} sequences has two tokens: there is nothing to score",
         sequences.size());
  return windows;
}

}  // namespace nfloat
