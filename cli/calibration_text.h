// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_CLI_CALIBRATION_TEXT_H_
#define NFLOAT_CLI_CALIBRATION_TEXT_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "nfloat/checkpoint.h"
#include "nfloat/model_config.h"

namespace nfloat::cli {

// How many tokens of a text are used at a level unless it is said.
constexpr int64_t calibration_tokens(int level) noexcept {
  return level == 3 ? 153600 : 65536;
}

// A model that runs, and windows of a text for it.
struct CalibrationSubject {
  std::shared_ptr<const Checkpoint> checkpoint;
  ModelConfig config;
  std::string text;       // its path, or what the general text is called
  std::string text_hash;  // of its bytes
  std::vector<std::vector<int32_t>> windows;
  std::vector<std::vector<int32_t>> beside;  // of the general text: CalibrationOptions::beside
  std::string general_hash;                  // of its bytes; empty where there is none beside
  std::string left_out;                      // why, where it was wanted and could not be had

  int64_t beside_tokens() const noexcept;
};

// The model in `folder` and about `tokens` tokens of a text. `path`: a text, of which windows all over are
// taken; .jsonl with "text" or, through the model's chat template, "messages" a line; .json with lists of ids
// in "token_ids", a window each; empty: general_calibration_text(). An eighth as many tokens of the latter
// stand beside a text of one's own, unless that is to be `alone` or gives ids to a model without a tokenizer.
// Throws Error.
CalibrationSubject calibration_subject(const std::string& folder, const std::string& path, int64_t tokens,
                                       bool alone = false);

}  // namespace nfloat::cli

#endif  // NFLOAT_CLI_CALIBRATION_TEXT_H_
