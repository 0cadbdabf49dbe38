// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_SERVER_ANSWER_H_
#define NFLOAT_SERVER_ANSWER_H_

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "nfloat/engine.h"
#include "nfloat/tokenizer.h"
#include "server/api_request.h"

namespace nfloat {

// What stands in every answer and in each of its pieces.
struct AnswerHead {
  std::string id, model, fingerprint;
  int64_t created = 0;  // seconds since 1970
};

// "data: ...\n\n", and the event that ends a stream.
std::string stream_event(const Json& json);
inline constexpr std::string_view kStreamEnd = "data: [DONE]\n\n";

Json usage_json(const EngineUsage& usage);
// "stop" or "length".
const char* finish_name(FinishReason reason) noexcept;
// A token as answers spell it: its text, or "bytes:\xe2\x96" where that is not UTF-8.
std::string token_name(const std::string& bytes);

// Makes the events of the engine into an answer, whole or in pieces. One engine request for each prompt.
class ApiAnswer {
 public:
  virtual ~ApiAnswer() = default;
  // The events to send now; for an answer that is not streamed they are not looked at.
  virtual std::string take(int prompt, const EngineEvent& event) = 0;
  // After the last event of all prompts. `usage`: of all.
  virtual Json whole(const EngineUsage& usage) const = 0;
  virtual Json usage_piece(const EngineUsage& usage) const = 0;
};

std::unique_ptr<ApiAnswer> make_chat_answer(AnswerHead head, const ChatRequest& request,
                                            const Tokenizer& tokenizer);
// `prompts`: the text of each, for echo.
std::unique_ptr<ApiAnswer> make_completion_answer(AnswerHead head, const CompletionRequest& request,
                                                  std::vector<std::string> prompts,
                                                  std::vector<std::vector<int32_t>> tokens,
                                                  const Tokenizer& tokenizer);

}  // namespace nfloat

#endif  // NFLOAT_SERVER_ANSWER_H_
