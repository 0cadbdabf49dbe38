// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_CLI_CALIBRATION_TEXT_H_
#define NFLOAT_CLI_CALIBRATION_TEXT_H_

#include <cstdint>
#include <string>
#include <vector>

#include "nfloat/model_config.h"

namespace nfloat::cli {

// How many tokens of a text are used at a level unless it is said.
constexpr int64_t calibration_tokens(int level) noexcept {
  return level == 3 ? 153600 : 65536;
}

// The windows of a text to calibrate on, about `tokens` in all. `path`: a text, of which windows all over are
// taken; .jsonl with "text" or, through the chat template of the model in `folder`, "messages" a line; .json
// with lists of ids in "token_ids", a window each; empty: general_calibration_text(). `hash`: of the text's
// bytes. Throws Error.
std::vector<std::vector<int32_t>> calibration_windows(const std::string& path, const std::string& folder,
                                                      const ModelConfig& config, int64_t tokens,
                                                      std::string* hash);

}  // namespace nfloat::cli

#endif  // NFLOAT_CLI_CALIBRATION_TEXT_H_
