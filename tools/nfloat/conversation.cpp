// SPDX-License-Identifier: Apache-2.0
#include "conversation.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>

#include "nfloat/checkpoint.h"
#include "nfloat/error.h"

namespace nfloat::cli {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int64_t kPiece = 256;  // tokens read between two looks at `stop`
constexpr const char* kChatMl =
    "{% for m in messages %}{{ '<|im_start|>' ~ m.role ~ '\\n' ~ m.content ~ '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

double since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

}  // namespace

Conversation::Conversation(Model model, const std::string& folder, const ConversationOptions& options)
    : options_(options),
      tokenizer_(Tokenizer::load(folder)),
      session_(model,
               {.context = std::min(options.context, model.config().context), .kv_cache = options.kv_cache}),
      ends_(model.config().eos_tokens),
      sampler_(sampler_options(options.sampling, folder, model.config(), &ends_)),
      template_(ChatTemplate::load(folder)),
      harmony_(template_ ? Harmony::of(tokenizer_) : std::nullopt) {
  if (const auto id = tokenizer_.token_id("<|im_end|>"); id && tokenizer_.token_id("<|im_start|>")) {
    ends_.push_back(*id);
    if (!template_) template_ = ChatTemplate::parse(kChatMl, "ChatML");
  }
  reset(options.system);
}

void Conversation::reset(const std::string& system) {
  messages_ = Json::array();
  plain_turns_.clear();
  text_.clear();
  if (plain())
    text_ = system;
  else if (!system.empty())
    messages_.push_back({{"role", "system"}, {"content", system}});
}

Answer Conversation::answer(const std::string& user, const std::function<void(const std::string&)>& show,
                            const std::function<bool()>& stop) {
  std::string prompt;
  if (plain()) {
    plain_turns_.push_back({text_.size(), user.size()});
    prompt = text_ += user;
  } else {
    messages_.push_back({{"role", "user"}, {"content", user}});
  }
  Answer result;
  try {
    if (!plain()) prompt = render(messages_);
    const std::vector<int32_t> tokens = encode(prompt);
    if (tokens.empty()) throw Error(ErrorCode::kInvalidArgument, "there is nothing to read");
    if (static_cast<int64_t>(tokens.size()) >= context())
      throw Error(
          ErrorCode::kInvalidArgument,
          fmt::format("the conversation needs {} tokens, the context has {}", tokens.size(), context()));
    result.text = generate(tokens, show, stop, result);
    // A token that was shown but not taken in, as the last of a full context, is not in the cache.
    if (result.end != AnswerEnd::kContextFull && !harmony_) cached_text_ = prompt + result.text;
  } catch (...) {
    undo();
    throw;
  }
  if (result.end == AnswerEnd::kStopped && result.generated == 0) {
    undo();
    return result;
  }
  if (plain())
    text_ += result.text;
  else
    messages_.push_back({{"role", "assistant"}, {"content", result.text}});
  totals_.turns += 1;
  totals_.read += result.read;
  totals_.reused += result.reused;
  totals_.generated += result.generated;
  totals_.read_seconds += result.read_seconds;
  totals_.generate_seconds += result.generate_seconds;
  return result;
}

std::string Conversation::render(const Json& messages) const {
  Json variables = options_.variables;
  variables["messages"] = messages;
  if (!variables.contains("add_generation_prompt")) variables["add_generation_prompt"] = true;
  return template_->render(variables.dump(-1, Json::Invalid::kReplace));
}

// An answer's tokens are those that the model chose; cut anew its text may give others. So where the prompt
// goes on from what is in the cache with a special token, which ends every token before it, only the rest is
// cut.
std::vector<int32_t> Conversation::encode(const std::string& prompt) const {
  if (!plain() && !cached_text_.empty() && prompt.starts_with(cached_text_)) {
    const std::string_view rest = std::string_view(prompt).substr(cached_text_.size());
    const std::vector<int32_t> more = tokenizer_.encode(rest, false);
    if (!more.empty() && tokenizer_.is_special(more[0]) && rest.starts_with(tokenizer_.token_text(more[0]))) {
      std::vector<int32_t> tokens = taken_;
      tokens.insert(tokens.end(), more.begin(), more.end());
      return tokens;
    }
  }
  return tokenizer_.encode(prompt, plain());
}

// Keeps what the cache shares with `tokens` and takes in the rest; at least the last one, for its logits.
std::string Conversation::generate(const std::vector<int32_t>& tokens,
                                   const std::function<void(const std::string&)>& show,
                                   const std::function<bool()>& stop, Answer& answer) {
  const auto same = std::mismatch(taken_.begin(), taken_.end(), tokens.begin(), tokens.end()).first;
  const auto length = static_cast<int64_t>(tokens.size());
  answer.reused = std::min<int64_t>(same - taken_.begin(), length - 1);
  cached_text_.clear();
  session_.rewind(answer.reused);
  taken_.resize(static_cast<size_t>(answer.reused));
  const Clock::time_point start = Clock::now();
  std::span<const float> logits;
  while (session_.position() < length) {
    const int64_t at = session_.position();
    const auto piece = std::span(tokens).subspan(static_cast<size_t>(at),
                                                 static_cast<size_t>(std::min(kPiece, length - at)));
    logits = session_.prefill(piece);
    taken_.insert(taken_.end(), piece.begin(), piece.end());
    answer.read += static_cast<int64_t>(piece.size());
    if (stop()) break;
  }
  answer.read_seconds = since(start);
  const Clock::time_point begun = Clock::now();
  // The answer continues the text of the prompt: only the start of a text loses its space.
  TokenStream stream(tokenizer_);
  stream.skip(tokens);
  std::string said;
  const auto emit = [&](const std::string& text) {
    said += text;
    if (!text.empty()) show(text);
  };
  if (harmony_) harmony_->begin();
  const auto text_of = [&](int32_t token) {
    // A model's vocabulary may be padded beyond its tokenizer's: such a token has no text.
    return token < tokenizer_.vocab_size() ? stream.push(token) : std::string();
  };
  while (true) {
    if (stop()) {
      answer.end = AnswerEnd::kStopped;
      break;
    }
    if (answer.generated == options_.max_tokens) {
      answer.end = AnswerEnd::kTokenLimit;
      break;
    }
    const int32_t token = sampler_.sample(logits, taken_);
    if (std::find(ends_.begin(), ends_.end(), token) != ends_.end() &&
        !(harmony_ && harmony_->goes_on(token)))
      break;
    const Harmony::Part part = harmony_ ? harmony_->take(token) : Harmony::Part::kFinal;
    if (part == Harmony::Part::kFinal) {
      emit(text_of(token));
    } else if (part == Harmony::Part::kHeader) {
      harmony_->name(text_of(token));
    } else if (part == Harmony::Part::kOther) {
      const std::string text = text_of(token);
      if (options_.all_channels) show(text);
    } else {
      const std::string rest = stream.flush();
      if (options_.all_channels) show(rest + std::string(tokenizer_.token_text(token)));
    }
    ++answer.generated;
    if (session_.position() == context()) {
      answer.end = AnswerEnd::kContextFull;
      break;
    }
    logits = session_.decode(token);
    taken_.push_back(token);
  }
  emit(stream.flush());
  answer.generate_seconds = since(begun);
  return said;
}

std::optional<std::string> Conversation::undo() {
  if (plain()) {
    if (plain_turns_.empty()) return std::nullopt;
    const PlainTurn last = plain_turns_.back();
    const std::string user = text_.substr(last.begin, last.bytes);
    plain_turns_.pop_back();
    text_.resize(last.begin);
    return user;
  }
  for (size_t i = messages_.size(); i-- > 0;) {
    if (messages_[i]["role"] != "user") continue;
    const Json& content = messages_[i]["content"];
    const std::string user = content.is_string() ? content.get<std::string>() : content.dump();
    Json kept = Json::array();
    for (size_t j = 0; j < i; ++j) kept.push_back(messages_[j]);
    messages_ = std::move(kept);
    return user;
  }
  return std::nullopt;
}

std::string Conversation::to_json() const {
  const Json json = plain() ? Json{{"text", text_}} : Json{{"messages", messages_}};
  return json.dump(2, Json::Invalid::kReplace) + "\n";
}

void Conversation::from_json(std::string_view text, const std::string& source) {
  const auto malformed = [&](const std::string& what) {
    return Error(ErrorCode::kMalformedFile, source + ": " + what);
  };
  const Json json = parse_json_object(text, source);
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
  render(json["messages"]);
  messages_ = json["messages"];
}

}  // namespace nfloat::cli
