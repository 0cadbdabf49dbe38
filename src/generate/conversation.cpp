// SPDX-License-Identifier: Apache-2.0
#include "nfloat/conversation.h"

#include <algorithm>
#include <utility>

#include "base/fail.h"
#include "base/json.h"
#include "generate/harmony.h"
#include "nfloat/chat.h"

namespace nfloat {
namespace {

constexpr int64_t kPiece = 256;  // tokens read between two looks at `stop`
constexpr const char* kChatMl =
    "{% for m in messages %}{{ '<|im_start|>' ~ m.role ~ '\\n' ~ m.content ~ '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

struct PlainTurn {
  size_t begin;  // in the text
  size_t bytes;  // of what the user said
};

void add(GenerationCounts& totals, const GenerationCounts& more) {
  totals.read += more.read;
  totals.reused += more.reused;
  totals.generated += more.generated;
  totals.read_seconds += more.read_seconds;
  totals.generate_seconds += more.generate_seconds;
}

}  // namespace

std::optional<ChatTemplate> chat_template_of(const std::string& path, const Tokenizer& tokenizer) {
  if (auto chat = ChatTemplate::load(path)) return chat;
  if (!tokenizer.token_id("<|im_start|>") || !tokenizer.token_id("<|im_end|>")) return std::nullopt;
  return ChatTemplate::parse(kChatMl, "ChatML");
}

struct Conversation::State {
  State(const Model& model, const std::string& path, const ConversationOptions& given)
      : options(given),
        variables(given.variables.empty() ? Json::object() : Json::parse(given.variables)),
        tokenizer(Tokenizer::load(path)),
        sequence(Session(model, {.context = std::min(given.context, model.config().context),
                                 .kv_cache = given.kv_cache,
                                 .expect_finite = true})),
        ends(model.config().eos_tokens),
        sampler(sampler_options(given.sampling, path, model.config(), &ends, &not_obeyed)),
        chat(chat_template_of(path, tokenizer)),
        channels(chat && Harmony::of(tokenizer)) {
    if (!variables.is_object())
      fail(ErrorCode::kInvalidArgument, "the variables for the template are {}, expected a JSON object",
           variables.type_name());
    if (const auto id = tokenizer.token_id("<|im_end|>"); id && tokenizer.token_id("<|im_start|>"))
      ends.push_back(*id);
  }

  bool plain() const noexcept { return !chat; }
  void reset(const std::string& system);
  std::string render(const Json& all) const;
  std::vector<int32_t> encode(const std::string& prompt) const;
  Answer generate(std::vector<int32_t> tokens, const std::function<void(const std::string&)>& show,
                  const std::function<bool()>& stop);
  std::optional<std::string> undo();

  ConversationOptions options;
  Json variables;
  Tokenizer tokenizer;
  TokenSequence sequence;
  std::vector<int32_t> ends;
  std::vector<std::string> not_obeyed;
  Sampler sampler;
  std::optional<ChatTemplate> chat;
  bool channels;
  Json messages = Json::array();
  std::string text;  // of a plain conversation
  std::vector<PlainTurn> plain_turns;
  std::string cached_text;  // of the tokens in the cache, if it is known to the last character
  ConversationTotals totals;
};

Conversation::Conversation(const Model& model, const std::string& path, const ConversationOptions& options)
    : state_(std::make_unique<State>(model, path, options)) {
  state_->reset(options.system);
}
Conversation::Conversation(Conversation&&) noexcept = default;
Conversation& Conversation::operator=(Conversation&&) noexcept = default;
Conversation::~Conversation() = default;

bool Conversation::plain() const noexcept {
  return state_->plain();
}
int64_t Conversation::context() const noexcept {
  return state_->sequence.session().context();
}
int64_t Conversation::used() const noexcept {
  return state_->sequence.session().position();
}
const Model& Conversation::model() const noexcept {
  return state_->sequence.session().model();
}
const ConversationTotals& Conversation::totals() const noexcept {
  return state_->totals;
}
const std::vector<std::string>& Conversation::not_obeyed() const noexcept {
  return state_->not_obeyed;
}
void Conversation::reset(const std::string& system) {
  state_->reset(system);
}
std::optional<std::string> Conversation::undo() {
  return state_->undo();
}

void Conversation::State::reset(const std::string& system) {
  messages = Json::array();
  plain_turns.clear();
  text.clear();
  if (plain())
    text = system;
  else if (!system.empty())
    messages.push_back({{"role", "system"}, {"content", system}});
}

Answer Conversation::answer(const std::string& user, const std::function<void(const std::string&)>& show,
                            const std::function<bool()>& stop) {
  State& state = *state_;
  std::string prompt;
  if (plain()) {
    state.plain_turns.push_back({state.text.size(), user.size()});
    prompt = state.text += user;
  } else {
    state.messages.push_back({{"role", "user"}, {"content", user}});
  }
  Answer result;
  try {
    if (!plain()) prompt = state.render(state.messages);
    std::vector<int32_t> tokens = state.encode(prompt);
    if (tokens.empty()) fail(ErrorCode::kInvalidArgument, "there is nothing to read");
    if (static_cast<int64_t>(tokens.size()) >= context())
      fail(ErrorCode::kInvalidArgument, "the conversation needs {} tokens, the context has {}", tokens.size(),
           context());
    result = state.generate(std::move(tokens), show, stop);
    // What was shown is in the cache to the last token unless the context was full; a stop text is in it,
    // but not in the answer.
    if (result.reason != FinishReason::kContextFull && result.reason != FinishReason::kStopText &&
        !state.channels)
      state.cached_text = prompt + result.text;
  } catch (...) {
    undo();
    throw;
  }
  if (result.reason == FinishReason::kCancelled && result.counts.generated == 0) {
    undo();
    return result;
  }
  if (plain())
    state.text += result.text;
  else
    state.messages.push_back({{"role", "assistant"}, {"content", result.text}});
  state.totals.turns += 1;
  add(state.totals.counts, result.counts);
  return result;
}

std::string Conversation::State::render(const Json& all) const {
  Json values = variables;
  values["messages"] = all;
  if (!values.contains("add_generation_prompt")) values["add_generation_prompt"] = true;
  return chat->render(values.dump(-1, Json::Invalid::kReplace));
}

// An answer's tokens are those that the model chose; cut anew its text may give others. So where the prompt
// goes on from what is in the cache with a special token, which ends every token before it, only the rest is
// cut.
std::vector<int32_t> Conversation::State::encode(const std::string& prompt) const {
  if (!plain() && !cached_text.empty() && prompt.starts_with(cached_text)) {
    const std::string_view rest = std::string_view(prompt).substr(cached_text.size());
    const std::vector<int32_t> more = tokenizer.encode(rest, false);
    if (!more.empty() && tokenizer.is_special(more[0]) && rest.starts_with(tokenizer.token_text(more[0]))) {
      std::vector<int32_t> tokens = sequence.tokens();
      tokens.insert(tokens.end(), more.begin(), more.end());
      return tokens;
    }
  }
  return tokenizer.encode(prompt, plain());
}

Answer Conversation::State::generate(std::vector<int32_t> tokens,
                                     const std::function<void(const std::string&)>& show,
                                     const std::function<bool()>& stop) {
  cached_text.clear();
  constexpr int64_t kMostTokens = 1024;  // where neither the user nor the model says
  const int64_t most = options.max_tokens ? *options.max_tokens
                                          : answer_limit(sampler.options(), std::ssize(tokens), kMostTokens);
  Generation generation(
      sequence, tokenizer, sampler, std::move(tokens),
      {.max_tokens = most, .stops = options.stops, .end_tokens = ends, .channels = channels});
  generation.cancel_when(stop);
  generation.read_in_pieces_of(kPiece);
  generation.take_in_last();
  Answer answer;
  while (const std::optional<GeneratedToken> piece = generation.next()) {
    answer.text += piece->text;
    std::string shown = piece->text;
    if (options.all_channels) shown = piece->aside + piece->mark + shown;
    if (!shown.empty()) show(shown);
  }
  answer.reason = *generation.reason();
  answer.counts = generation.counts();
  return answer;
}

std::optional<std::string> Conversation::State::undo() {
  if (plain()) {
    if (plain_turns.empty()) return std::nullopt;
    const PlainTurn last = plain_turns.back();
    const std::string user = text.substr(last.begin, last.bytes);
    plain_turns.pop_back();
    text.resize(last.begin);
    return user;
  }
  for (size_t i = messages.size(); i-- > 0;) {
    if (messages[i]["role"] != "user") continue;
    const Json& content = messages[i]["content"];
    const std::string user = content.is_string() ? content.get<std::string>() : content.dump();
    Json kept = Json::array();
    for (size_t j = 0; j < i; ++j) kept.push_back(messages[j]);
    messages = std::move(kept);
    return user;
  }
  return std::nullopt;
}

std::string Conversation::to_json() const {
  const Json json = plain() ? Json{{"text", state_->text}} : Json{{"messages", state_->messages}};
  return json.dump(2, Json::Invalid::kReplace) + "\n";
}

void Conversation::from_json(std::string_view text, const std::string& source) {
  const auto malformed = [&](const std::string& what) {
    return Error(ErrorCode::kMalformedFile, source + ": " + what);
  };
  const Json json = parse_json_object(text, source, {.unique_names = true});
  if (plain()) {
    if (!json.contains("text") || !json["text"].is_string())
      throw malformed("no \"text\"; this model has no chat template and continues a text");
    reset(json["text"].get<std::string>());
    return;
  }
  if (!json.contains("messages") || !json["messages"].is_array()) throw malformed("no list of \"messages\"");
  for (const Json& message : json["messages"]) {
    const size_t index = static_cast<size_t>(&message - &json["messages"][0]);
    if (!message.is_object() || !message.contains("role") || !message["role"].is_string() ||
        !message.contains("content"))
      throw malformed(fmt::format("messages[{}] has no \"role\" and \"content\"", index));
  }
  // Whether the template takes it is known now rather than with the next turn.
  state_->render(json["messages"]);
  state_->messages = json["messages"];
}

}  // namespace nfloat
