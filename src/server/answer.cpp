// SPDX-License-Identifier: Apache-2.0
#include "server/answer.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <string_view>

#include "server/parts.h"
#include "tokenizer/utf8.h"

namespace nfloat {
namespace {

Json list_of_bytes(const std::string& bytes) {
  Json list = Json::array();
  for (const char byte : bytes) list.push_back(static_cast<int>(static_cast<unsigned char>(byte)));
  return list;
}

class ChatAnswer final : public ApiAnswer {
 public:
  ChatAnswer(AnswerHead head, const ChatRequest& request, const Tokenizer& tokenizer)
      : head_(std::move(head)), wants_(request.log_probabilities), tokenizer_(tokenizer) {
    for (int i = 0; i < request.choices; ++i) choices_.emplace_back(make_parts(request));
  }

  std::string take(int, const EngineEvent& event) override {
    Choice& choice = choices_[static_cast<size_t>(event.choice)];
    std::string out;
    if (wants_ >= 0 && event.piece.token >= 0) choice.pending.push_back(entry(event.piece));
    std::vector<Part> parts = choice.splitter->push(event);
    if (event.finish) {
      std::vector<Part> last = choice.splitter->finish(*event.finish);
      parts.insert(parts.end(), last.begin(), last.end());
    }
    for (const Part& part : parts) out += piece(event.choice, choice, part);
    if (!event.finish) return out;
    if (!choice.begun || !choice.pending.empty()) out += piece(event.choice, choice, {});
    choice.finish = choice.calls.empty() ? finish_name(*event.finish)
                    : *event.finish == FinishReason::kEndOfText || *event.finish == FinishReason::kStopText
                        ? "tool_calls"
                        : "length";
    return out + chunk(event.choice, Json::object(), Json(), choice.finish);
  }

  Json whole(const EngineUsage& usage) const override {
    Json list = Json::array();
    for (size_t i = 0; i < choices_.size(); ++i) {
      const Choice& choice = choices_[i];
      Json message{{"role", "assistant"}, {"content", choice.text}, {"refusal", Json()}};
      if (!choice.thoughts.empty()) message["reasoning_content"] = choice.thoughts;
      if (!choice.calls.empty()) {
        if (choice.text.empty()) message["content"] = Json();
        Json calls = Json::array();
        for (const Call& call : choice.calls)
          calls.push_back({{"id", call.id},
                           {"type", "function"},
                           {"function", {{"name", call.name}, {"arguments", call.arguments}}}});
        message["tool_calls"] = calls;
      }
      Json one{{"index", i}, {"message", message}, {"logprobs", Json()}, {"finish_reason", choice.finish}};
      if (wants_ >= 0) one["logprobs"] = logprobs(choice.entries);
      list.push_back(std::move(one));
    }
    Json result = base("chat.completion");
    result["choices"] = list;
    result["usage"] = usage_json(usage);
    return result;
  }

  Json usage_piece(const EngineUsage& usage) const override {
    Json result = base("chat.completion.chunk");
    result["choices"] = Json::array();
    result["usage"] = usage_json(usage);
    return result;
  }

 private:
  struct Call {
    std::string id, name, arguments;
  };
  struct Choice {
    explicit Choice(std::unique_ptr<PartSplitter> parts) : splitter(std::move(parts)) {}
    std::unique_ptr<PartSplitter> splitter;
    bool begun = false;
    std::string text, thoughts, finish;
    std::vector<Call> calls;
    Json entries = Json::array(), pending = Json::array();  // log-probabilities
  };

  Json base(const char* object) const {
    return {{"id", head_.id},
            {"object", object},
            {"created", head_.created},
            {"model", head_.model},
            {"system_fingerprint", head_.fingerprint}};
  }
  static Json logprobs(const Json& entries) { return {{"content", entries}, {"refusal", Json()}}; }
  Json entry(const GeneratedToken& piece) const {
    const auto one = [&](int32_t token, double value) {
      const std::string bytes = tokenizer_.token_bytes(token);
      return Json{{"token", token_name(bytes)}, {"logprob", value}, {"bytes", list_of_bytes(bytes)}};
    };
    Json result = one(piece.token, piece.log_probability);
    result["top_logprobs"] = Json::array();
    for (const TokenProbability& other : piece.most_likely)
      result["top_logprobs"].push_back(one(other.token, static_cast<double>(other.log_probability)));
    return result;
  }
  std::string chunk(int index, Json delta, Json entries, const std::string& finish) const {
    Json one{{"index", index},
             {"delta", std::move(delta)},
             {"logprobs", std::move(entries)},
             {"finish_reason", finish.empty() ? Json() : Json(finish)}};
    Json result = base("chat.completion.chunk");
    result["choices"] = Json::array({std::move(one)});
    return stream_event(result);
  }
  // One delta, after the first one of the choice. An empty part carries log-probabilities only.
  std::string piece(int index, Choice& choice, const Part& part) {
    std::string out;
    if (!choice.begun) {
      choice.begun = true;
      const bool call = part.kind == Part::Kind::kCall;
      out = chunk(index, {{"role", "assistant"}, {"content", call ? Json() : Json("")}}, Json(), "");
    }
    Json delta = Json::object();
    switch (part.kind) {
      case Part::Kind::kText:
        choice.text += part.text;
        delta["content"] = part.text;
        break;
      case Part::Kind::kThought:
        choice.thoughts += part.text;
        delta["reasoning_content"] = part.text;
        break;
      case Part::Kind::kCall:
        choice.calls.push_back({part.id, part.text, ""});
        delta["tool_calls"] = Json::array({Json{{"index", choice.calls.size() - 1},
                                                {"id", part.id},
                                                {"type", "function"},
                                                {"function", {{"name", part.text}, {"arguments", ""}}}}});
        break;
      case Part::Kind::kArguments:
        choice.calls.back().arguments += part.text;
        delta["tool_calls"] = Json::array(
            {Json{{"index", choice.calls.size() - 1}, {"function", Json{{"arguments", part.text}}}}});
        break;
    }
    Json entries;
    if (!choice.pending.empty()) {
      entries = logprobs(choice.pending);
      for (const Json& one : choice.pending) choice.entries.push_back(one);
      choice.pending = Json::array();
    }
    if (part.text.empty() && entries.is_null()) return out;
    return out + chunk(index, std::move(delta), std::move(entries), "");
  }

  AnswerHead head_;
  int64_t wants_;
  const Tokenizer& tokenizer_;
  std::vector<Choice> choices_;
};

class CompletionAnswer final : public ApiAnswer {
 public:
  CompletionAnswer(AnswerHead head, const CompletionRequest& request, std::vector<std::string> prompts,
                   std::vector<std::vector<int32_t>> tokens, const Tokenizer& tokenizer)
      : head_(std::move(head)),
        wants_(request.log_probabilities),
        echo_(request.echo),
        per_prompt_(request.choices),
        prompts_(std::move(prompts)),
        prompt_tokens_(std::move(tokens)),
        tokenizer_(tokenizer),
        choices_(prompts_.size() * static_cast<size_t>(request.choices)) {}

  std::string take(int prompt, const EngineEvent& event) override {
    const int index = prompt * per_prompt_ + event.choice;
    Choice& choice = choices_[static_cast<size_t>(index)];
    std::string text = event.piece.text;
    if (!choice.begun) {
      choice.begun = true;
      if (echo_) {
        text = prompts_[static_cast<size_t>(prompt)] + text;
        if (wants_ >= 0) echo_scores(prompt, event.choice == 0 ? event.scores : scores_[prompt], choice);
        if (event.choice == 0 && per_prompt_ > 1) scores_[prompt] = event.scores;
      }
    }
    if (const int32_t token = event.piece.token; wants_ >= 0 && token >= 0) {
      const std::string bytes = tokenizer_.token_bytes(token);
      choice.logprobs.add(bytes, tokenizer_.is_special(token) ? "" : bytes, event.piece.log_probability,
                          top(event.piece.most_likely));
    }
    choice.text += text;
    std::string out;
    if (!text.empty() || (event.finish && !choice.logprobs.sent_all()))
      out = chunk(index, text, choice.logprobs.unsent(wants_ >= 0), Json());
    if (event.finish) {
      choice.finish = finish_name(*event.finish);
      out += chunk(index, "", Json(), choice.finish);
    }
    return out;
  }

  Json whole(const EngineUsage& usage) const override {
    Json list = Json::array();
    for (size_t i = 0; i < choices_.size(); ++i)
      list.push_back({{"index", i},
                      {"text", choices_[i].text},
                      {"logprobs", wants_ >= 0 ? choices_[i].logprobs.all() : Json()},
                      {"finish_reason", choices_[i].finish}});
    Json result = base();
    result["choices"] = list;
    result["usage"] = usage_json(usage);
    return result;
  }

  Json usage_piece(const EngineUsage& usage) const override {
    Json result = base();
    result["choices"] = Json::array();
    result["usage"] = usage_json(usage);
    return result;
  }

 private:
  // The parallel lists of OpenAI's older protocol.
  class Logprobs {
   public:
    // `in_text`: those of its bytes that are in the text, where a part of a character counts with its first.
    void add(const std::string& bytes, std::string_view in_text, Json value, Json most) {
      tokens_.push_back(token_name(bytes));
      values_.push_back(std::move(value));
      tops_.push_back(std::move(most));
      offsets_.push_back(offset_);
      offset_ += std::count_if(in_text.begin(), in_text.end(), [](char byte) {
        return (static_cast<unsigned char>(byte) & 0xc0) != 0x80;  // begins a character
      });
    }
    bool sent_all() const { return sent_ == tokens_.size(); }
    Json all() const { return from(0); }
    Json unsent(bool wanted) {
      if (!wanted) return {};
      Json result = from(sent_);
      sent_ = tokens_.size();
      return result;
    }

   private:
    Json from(size_t first) const {
      const auto part = [&](const Json& list) {
        Json result = Json::array();
        for (size_t i = first; i < list.size(); ++i) result.push_back(list[i]);
        return result;
      };
      return {{"tokens", part(tokens_)},
              {"token_logprobs", part(values_)},
              {"top_logprobs", part(tops_)},
              {"text_offset", part(offsets_)}};
    }
    Json tokens_ = Json::array(), values_ = Json::array(), tops_ = Json::array(), offsets_ = Json::array();
    int64_t offset_ = 0;  // in characters
    size_t sent_ = 0;
  };
  struct Choice {
    bool begun = false;
    std::string text, finish;
    Logprobs logprobs;
  };

  Json base() const {
    return {{"id", head_.id},
            {"object", "text_completion"},
            {"created", head_.created},
            {"model", head_.model},
            {"system_fingerprint", head_.fingerprint}};
  }
  Json top(const std::vector<TokenProbability>& list) const {
    Json result = Json::object();
    for (const TokenProbability& one : list)
      result[token_name(tokenizer_.token_bytes(one.token))] = static_cast<double>(one.log_probability);
    return result;
  }
  void echo_scores(int prompt, const std::vector<PromptScore>& scores, Choice& choice) {
    const std::vector<int32_t>& tokens = prompt_tokens_[static_cast<size_t>(prompt)];
    std::string_view rest = prompts_[static_cast<size_t>(prompt)];
    for (size_t i = 0; i < tokens.size(); ++i) {
      const std::string bytes = tokenizer_.token_bytes(tokens[i]);
      std::string_view in_text = bytes;
      // The first word of a text has no space before it, and special tokens around it are not part of it.
      if (!rest.starts_with(in_text) && in_text.starts_with(' ')) in_text.remove_prefix(1);
      if (rest.starts_with(in_text))
        rest.remove_prefix(in_text.size());
      else if (tokenizer_.is_special(tokens[i]))
        in_text = {};
      if (i == 0 || i > scores.size())
        choice.logprobs.add(bytes, in_text, Json(), Json());
      else
        choice.logprobs.add(bytes, in_text, scores[i - 1].log_probability, top(scores[i - 1].most_likely));
    }
  }
  std::string chunk(int index, const std::string& text, Json logprobs, Json finish) const {
    Json result = base();
    result["choices"] = Json::array({Json{{"index", index},
                                          {"text", text},
                                          {"logprobs", std::move(logprobs)},
                                          {"finish_reason", std::move(finish)}}});
    return stream_event(result);
  }

  AnswerHead head_;
  int64_t wants_;
  bool echo_;
  int per_prompt_;
  std::vector<std::string> prompts_;
  std::vector<std::vector<int32_t>> prompt_tokens_;
  const Tokenizer& tokenizer_;
  std::vector<Choice> choices_;
  std::map<int, std::vector<PromptScore>> scores_;
};

}  // namespace

std::string stream_event(const Json& json) {
  return "data: " + json.dump(-1, Json::Invalid::kReplace) + "\n\n";
}

Json usage_json(const EngineUsage& usage) {
  return {{"prompt_tokens", usage.prompt_tokens},
          {"completion_tokens", usage.completion_tokens},
          {"total_tokens", usage.prompt_tokens + usage.completion_tokens},
          {"prompt_tokens_details", Json{{"cached_tokens", usage.cached_tokens}}}};
}

const char* finish_name(FinishReason reason) noexcept {
  return reason == FinishReason::kEndOfText || reason == FinishReason::kStopText ? "stop" : "length";
}

std::string token_name(const std::string& bytes) {
  if (is_valid_utf8(bytes)) return bytes;
  std::string name = "bytes:";
  for (const char byte : bytes) name += fmt::format("\\x{:02x}", static_cast<unsigned char>(byte));
  return name;
}

std::unique_ptr<ApiAnswer> make_chat_answer(AnswerHead head, const ChatRequest& request,
                                            const Tokenizer& tokenizer) {
  return std::make_unique<ChatAnswer>(std::move(head), request, tokenizer);
}

std::unique_ptr<ApiAnswer> make_completion_answer(AnswerHead head, const CompletionRequest& request,
                                                  std::vector<std::string> prompts,
                                                  std::vector<std::vector<int32_t>> tokens,
                                                  const Tokenizer& tokenizer) {
  return std::make_unique<CompletionAnswer>(std::move(head), request, std::move(prompts), std::move(tokens),
                                            tokenizer);
}

}  // namespace nfloat
