// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_SERVER_PROMPT_H_
#define NFLOAT_SERVER_PROMPT_H_

#include <cstdint>
#include <string>
#include <vector>

#include "base/json.h"
#include "nfloat/chat.h"
#include "nfloat/tokenizer.h"

namespace nfloat {

// The prompt of a conversation. `values` is what the template gets: messages, tools, ... A text in it that
// spells a special token of the vocabulary stays text: only the template's own special tokens are tokens.
// Throws kInvalidArgument as ChatTemplate::render.
class ChatPrompt {
 public:
  ChatPrompt(const ChatTemplate& chat, const Tokenizer& tokenizer) : chat_(chat), tokenizer_(tokenizer) {}

  std::string text(const Json& values) const;
  std::vector<int32_t> tokens(const Json& values) const;

 private:
  ChatTemplate chat_;
  Tokenizer tokenizer_;
};

}  // namespace nfloat

#endif  // NFLOAT_SERVER_PROMPT_H_
