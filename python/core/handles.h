// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_PYTHON_HANDLES_H_
#define NFLOAT_PYTHON_HANDLES_H_

#include <atomic>
#include <optional>
#include <utility>

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

// A session and the tokens that it has read, for one thread at a time.
class SessionState {
 public:
  explicit SessionState(TokenSequence held) : sequence_(std::move(held)) {}
  SessionState(const SessionState&) = delete;

  // From any thread. The memory is freed now, or when the call that another thread has at work ends, which
  // looks at closed().
  void close() noexcept {
    closed_ = true;
    free();
  }
  bool closed() const noexcept { return closed_; }
  [[noreturn]] static void refuse();  // what is closed: throws kInvalidArgument

 private:
  friend class InSession;
  void free() noexcept {
    if (busy_.exchange(true)) return;
    sequence_.reset();
    busy_ = false;
  }

  std::optional<TokenSequence> sequence_;
  std::atomic<bool> busy_{false}, closed_{false};
};

// A thread inside a session. Throws RuntimeError where another one is, kInvalidArgument where it is closed.
class InSession {
 public:
  explicit InSession(SessionState& state);
  ~InSession() {
    state_.busy_ = false;
    if (state_.closed_) state_.free();
  }
  InSession(const InSession&) = delete;
  TokenSequence& sequence() const noexcept { return *state_.sequence_; }
  Session& session() const noexcept { return sequence().session(); }

 private:
  SessionState& state_;
};
template <>
inline constexpr const char* kTypeName<SessionState> = "nfloat.Session";

}  // namespace nfloat::python

#endif  // NFLOAT_PYTHON_HANDLES_H_
