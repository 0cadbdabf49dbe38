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
  std::string system = {};              // instruction that the conversation begins with; empty: none
  int64_t max_tokens = 1024;            // of one answer
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

// A conversation and what the model has taken in of it: of every turn only what differs from what is already
// in the key and value cache is read. Turns go through the model's chat template, else through ChatML if the
// vocabulary has its tokens; else text is continued (plain()).
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
  // Settings of generation_config.json that change the text and are not known here.
  const std::vector<std::string>& not_obeyed() const noexcept;

  // Begins anew; an instruction of "" is none.
  void reset(const std::string& system);
  // One turn. `show` gets the answer piece by piece; when `stop` says so the answer ends there and is kept,
  // or, if nothing has been said yet, the turn is forgotten. Throws kInvalidArgument, and forgets the turn,
  // when the conversation has no room in the context.
  Answer answer(const std::string& user, const std::function<void(const std::string&)>& show,
                const std::function<bool()>& stop);
  // Forgets the last turn and returns what the user said; nothing when there is none.
  std::optional<std::string> undo();

  // {"messages": [{"role", "content"}, ...]}; {"text": ...} when plain().
  std::string to_json() const;
  // Goes on with such a conversation. Throws kMalformedFile naming `source`, and changes nothing then.
  void from_json(std::string_view text, const std::string& source);

  struct State;

 private:
  std::unique_ptr<State> state_;
};

}  // namespace nfloat

#endif  // NFLOAT_CONVERSATION_H_
