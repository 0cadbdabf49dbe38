// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_CLI_SCORING_INPUT_H_
#define NFLOAT_CLI_SCORING_INPUT_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "nfloat/evaluate.h"
#include "nfloat/tokenizer.h"

namespace nfloat::cli {

// Throws Error unless `text` is UTF-8 and more than white space. `name` stands for it in the message.
void expect_text(const std::string& text, const std::string& name);

// The ids that `scoring`'s protocol scores: without special tokens; of llama.cpp's with the BOS that the
// tokenizer puts in front, which is then scoring.bos_token, or none is (kNoBosToken).
std::vector<int32_t> scored_tokens(const Tokenizer& tokenizer, const std::string& text,
                                   PerplexityOptions& scoring);

// Changes with the model's files in `folder`, the text and `how` it is scored.
std::string scoring_identity(const std::string& folder, const std::string& text, std::string_view how);

}  // namespace nfloat::cli

#endif  // NFLOAT_CLI_SCORING_INPUT_H_
