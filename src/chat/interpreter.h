// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_CHAT_INTERPRETER_H_
#define NFLOAT_CHAT_INTERPRETER_H_

#include <string>

#include "chat/syntax.h"

namespace nfloat::chat {

// Throws kInvalidArgument with the line.
std::string render(const Node& root, Entries variables, Budget& budget);

}  // namespace nfloat::chat

#endif  // NFLOAT_CHAT_INTERPRETER_H_
