// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_TOOLS_CONVERSATION_H_
#define NFLOAT_TOOLS_CONVERSATION_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "harmony.h"
#include "nfloat/chat.h"
#include "nfloat/model.h"
#include "nfloat/sampler.h"
#include "nfloat/tokenizer.h"
#include "sampling_options.h"

namespace nfloat::cli {

struct ConversationOptions {
  std::string system;  // instruction that the conversation begins with; empty: none
  int64_t max_tokens = 1024;
  int64_t context = 4096;  // at most the model's own
  KvCacheType kv_cache = KvCacheType::kAuto;
  SamplingArguments sampling;
  Json variables = Json::object();  // for the template, besides messages
  bool all_channels = false;        // shows what gpt-oss says outside of its final channel too
};

enum class AnswerEnd : uint8_t { kDone, kTokenLimit, kContextFull, kStopped };

struct Answer {
  std::string text;
  AnswerEnd end = AnswerEnd::kDone;
  int64_t read = 0, reused = 0, generated = 0;  // tokens
  double read_seconds = 0, generate_seconds = 0;
};

struct ConversationTotals {
  int64_t turns = 0, read = 0, reused = 0, generated = 0;
  double read_seconds = 0, generate_seconds = 0;
};

// A conversation and what the model has taken in of it: of every turn only what differs from what is already
// in the key and value cache is read. Turns go through the model's chat template, else through ChatML if the
// vocabulary has its tokens; else text is continued (plain()).
class Conversation {
 public:
  // `folder` is where `model` came from: its tokenizer, template and generation_config.json are read.
  Conversation(Model model, const std::string& folder, const ConversationOptions& options);

  bool plain() const noexcept { return !template_; }
  int64_t context() const noexcept { return session_.context(); }
  int64_t used() const noexcept { return session_.position(); }
  const Model& model() const noexcept { return session_.model(); }
  const ConversationTotals& totals() const noexcept { return totals_; }

  // Begins anew; an instruction of "" is none.
  void reset(const std::string& system);
  // One turn. `show` gets the answer piece by piece; when `stop` says so the answer ends there and is kept,
  // or, if nothing has been said yet, the turn is forgotten. Throws kInvalidArgument, and forgets the turn,
  // when the conversation has no room in the context.
  Answer answer(const std::string& user, const std::function<void(const std::string&)>& show,
                const std::function<bool()>& stop);
  // Forgets the last turn and returns what the user said; nothing when there is none.
  std::optional<std::string> undo();

  // {"messages": [{"role", "content"}, ...]}, as `nfloat chat --render` takes it; {"text": ...} when plain().
  std::string to_json() const;
  // Goes on with such a conversation. Throws kMalformedFile naming `source`, and changes nothing then.
  void from_json(std::string_view text, const std::string& source);

 private:
  std::string render(const Json& messages) const;
  std::vector<int32_t> encode(const std::string& prompt) const;
  std::string generate(const std::vector<int32_t>& tokens,
                       const std::function<void(const std::string&)>& show, const std::function<bool()>& stop,
                       Answer& answer);

  ConversationOptions options_;
  Tokenizer tokenizer_;
  Session session_;
  std::vector<int32_t> ends_;
  Sampler sampler_;
  std::optional<ChatTemplate> template_;
  std::optional<Harmony> harmony_;
  Json messages_ = Json::array();
  std::string text_;  // of a plain conversation
  struct PlainTurn {
    size_t begin;  // in text_
    size_t bytes;  // of what the user said
  };
  std::vector<PlainTurn> plain_turns_;
  std::vector<int32_t> taken_;  // tokens in the cache
  std::string cached_text_;     // their text, if it is known to the last character
  ConversationTotals totals_;
};

}  // namespace nfloat::cli

#endif  // NFLOAT_TOOLS_CONVERSATION_H_
