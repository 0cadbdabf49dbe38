// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_PYTHON_HANDLES_H_
#define NFLOAT_PYTHON_HANDLES_H_

#include "nfloat/chat.h"
#include "nfloat/generate.h"
#include "nfloat/model.h"
#include "nfloat/tokenizer.h"
#include "options.h"

// What handles of models and of their parts hold.
namespace nfloat::python {

template <>
inline constexpr const char* kTypeName<const Tokenizer> = "nfloat.Tokenizer";
template <>
inline constexpr const char* kTypeName<const ChatTemplate> = "nfloat.ChatTemplate";

// A session and the tokens that it has read. `busy`: a thread is inside.
struct SessionState {
  explicit SessionState(TokenSequence held) : sequence(std::move(held)) {}
  TokenSequence sequence;
  std::atomic<bool> busy{false};
};
template <>
inline constexpr const char* kTypeName<SessionState> = "nfloat.Session";

}  // namespace nfloat::python

#endif  // NFLOAT_PYTHON_HANDLES_H_
