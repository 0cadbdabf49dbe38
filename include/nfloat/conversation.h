// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_CONVERSATION_H_
#define NFLOAT_CONVERSATION_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "nfloat/api.h"
#include "nfloat/chat.h"
#include "nfloat/generate.h"
#include "nfloat/model.h"
#include "nfloat/tokenizer.h"

namespace nfloat {

// The chat template of the model at `path`, else ChatML if the vocabulary has its tokens; nothing otherwise.
NFLOAT_API std::optional<ChatTemplate> chat_template_of(const std::string& path, const Tokenizer& tokenizer);

struct ConversationOptions {
  std::string system = {};  // instruction that the conversation begins with; empty: none
  // Of one answer; unset: what generation_config.json says, else 1024.
  std::optional<int64_t> max_tokens = {};
  int64_t context = 4096;               // tokens of the conversation, at most the model's own
  std::vector<std::string> stops = {};  // an answer ends before one of these texts
  KvCacheType kv_cache = KvCacheType::kAuto;
  SamplingSettings sampling = {};
  std::string variables = {};  // for the template, besides messages: a JSON object, or nothing
  bool all_channels = false;   // shows what gpt-oss says outside of its final channel too
};

struct Answer {
  std::string text;
  FinishReason reason = FinishReason::kEndOfText;
  GenerationCounts counts;
};

struct ConversationTotals {
  int64_t turns = 0;
  GenerationCounts counts;
};

// A conversation and the tokens of it in the KV cache: with every message only tokens that differ from those
// in the cache are read. Messages go through the model's chat template, else through ChatML if the vocabulary
// has its tokens; else text is continued (plain()).
class NFLOAT_API Conversation {
 public:
  // `path` is where `model` came from: its tokenizer, template and generation_config.json are read.
  // Throws kInvalidArgument for `variables` that are not a JSON object.
  Conversation(const Model& model, const std::string& path, const ConversationOptions& options);
  Conversation(Conversation&&) noexcept;
  Conversation& operator=(Conversation&&) noexcept;
  ~Conversation();

  bool plain() const noexcept;
  int64_t context() const noexcept;
  int64_t used() const noexcept;  // tokens in the cache
  const Model& model() const noexcept;
  const ConversationTotals& totals() const noexcept;
  // Settings of generation_config.json that change the text and are not supported.
  const std::vector<std::string>& not_obeyed() const noexcept;

  // Starts a new conversation; an instruction of "" is none.
  void reset(const std::string& system);
  // One message and its answer. `show` receives the answer piece by piece; when `stop` returns true the
  // answer ends and is kept or, if still empty, both are removed. Throws kInvalidArgument, and removes the
  // message, when the conversation has no room in the context.
  Answer answer(const std::string& user, const std::function<void(const std::string&)>& show,
                const std::function<bool()>& stop);
  // Removes the last message and its answer and returns the message; nothing when there is none.
  std::optional<std::string> undo();

  // {"messages": [{"role", "content"}, ...]}; {"text": ...} when plain().
  std::string to_json() const;
  // Continues a conversation in this form. Throws kMalformedFile naming `source`, then without any change.
  void from_json(std::string_view text, const std::string& source);

  struct State;

 private:
  std::unique_ptr<State> state_;
};

}  // namespace nfloat

#endif  // NFLOAT_CONVERSATION_H_
