// SPDX-License-Identifier: Apache-2.0
#include "server/parts.h"

#include <fmt/format.h>

#include <algorithm>
#include <random>
#include <set>
#include <string_view>
#include <utility>

namespace nfloat {
namespace {

constexpr std::string_view kSpace = " \t\r\n";

// How much of the end of `text` may be the beginning of `mark`.
size_t beginning_of(std::string_view mark, std::string_view text) noexcept {
  for (size_t length = std::min(mark.size() - 1, text.size()); length > 0; --length)
    if (text.ends_with(mark.substr(0, length))) return length;
  return 0;
}

// How thoughts begin and end: Qwen, DeepSeek, SmolLM and others; Mistral.
struct ThoughtMarks {
  std::string_view begin, end;
};
constexpr ThoughtMarks kThoughts[] = {{"<think>", "</think>"}, {"[THINK]", "[/THINK]"}};

constexpr std::string_view kCallMark = "<tool_call>", kCallEnd = "</tool_call>", kListMark = "[TOOL_CALLS]",
                           kCallId = "[CALL_ID]", kArgs = "[ARGS]";

// {"name": NAME, "arguments": {...}} from its first character to its last, one call.
class ForcedCall final : public PartSplitter {
 public:
  std::vector<Part> push(const EngineEvent& event) override {
    held_ += event.piece.text;
    std::vector<Part> parts;
    if (!named_) {
      const size_t at = held_.find(kArguments);
      if (at == std::string::npos) return parts;
      named_ = true;
      std::string name;
      try {
        name = Json::parse(held_.substr(0, at) + "}")["name"].text();
      } catch (const JsonError&) {
        return parts;  // the grammar does not allow it
      }
      parts.push_back({Part::Kind::kCall, name, new_id("call_")});
      held_.erase(0, at + kArguments.size());
    }
    // The last character may be the brace that closes the call.
    if (held_.size() > 1) {
      parts.push_back({Part::Kind::kArguments, held_.substr(0, held_.size() - 1), ""});
      held_.erase(0, held_.size() - 1);
    }
    return parts;
  }
  std::vector<Part> finish(FinishReason reason) override {
    const bool whole = reason == FinishReason::kEndOfText;
    if (!named_ || held_.empty() || (whole && held_ == "}")) return {};
    return {{Part::Kind::kArguments, held_, ""}};
  }

 private:
  static constexpr std::string_view kArguments = ", \"arguments\": ";
  std::string held_;
  bool named_ = false;
};

// An answer in a form that was asked for, which is text whatever it looks like.
class FormedText final : public PartSplitter {
 public:
  std::vector<Part> push(const EngineEvent& event) override {
    if (event.piece.text.empty()) return {};
    return {{Part::Kind::kText, event.piece.text, ""}};
  }
  std::vector<Part> finish(FinishReason) override { return {}; }
};

// Thoughts between <think> and </think> or [THINK] and [/THINK] at the beginning or in a channel of their
// own, then text; with functions that may be called, calls as models write them: <tool_call>JSON</tool_call>,
// [TOOL_CALLS] and a list in JSON or names with [ARGS]JSON, an answer that is JSON as a whole, or a channel
// to a function.
class FreeText final : public PartSplitter {
 public:
  FreeText(std::set<std::string> functions, const ChatRequest& request)
      : functions_(std::move(functions)),
        several_(request.several_calls),
        mode_(request.thinks.empty() ? Mode::kBegin : Mode::kThought),
        thought_end_(request.thinks) {}

  std::vector<Part> push(const EngineEvent& event) override {
    std::vector<Part> parts;
    if (!event.piece.aside.empty()) take_aside(event, parts);
    held_ += event.piece.text;
    while (advance(parts)) {
    }
    return parts;
  }

  std::vector<Part> finish(FinishReason) override {
    std::vector<Part> parts;
    const std::string rest = std::exchange(held_, "");
    if (mode_ == Mode::kThought)
      add(parts, Part::Kind::kThought, rest);
    else if (mode_ == Mode::kCall)
      add_call_or_text(parts, rest, kCallMark, "");
    else if (mode_ == Mode::kListed)
      add_call_or_text(parts, rest, kListMark, "");
    else if (!(mode_ == Mode::kJson && add_calls(parts, rest)))
      add(parts, Part::Kind::kText, rest);
    return parts;
  }

 private:
  enum class Mode : uint8_t { kBegin, kThought, kText, kCall, kListed, kJson };

  static void add(std::vector<Part>& parts, Part::Kind kind, std::string text) {
    if (!text.empty()) parts.push_back({kind, std::move(text), ""});
  }
  void skip_space() { held_.erase(0, std::min(held_.find_first_not_of(kSpace), held_.size())); }

  // Of the beginning of an answer: whether it is JSON, or the mark of a list, is not told yet.
  bool is_undecided(std::string_view text) const {
    return !functions_.empty() && ((text.size() < kListMark.size() && kListMark.starts_with(text)) ||
                                   (text[0] == '[' && text.find_first_not_of(kSpace, 1) == text.npos));
  }
  bool looks_like_calls(std::string_view text) const {
    return !functions_.empty() &&
           (text[0] == '{' || (text[0] == '[' && text[text.find_first_not_of(kSpace, 1)] == '{'));
  }

  // True: something was taken from what is held, and there may be more.
  bool advance(std::vector<Part>& parts) {
    switch (mode_) {
      case Mode::kBegin: {
        const size_t first = std::min(held_.find_first_not_of(kSpace), held_.size());
        const std::string_view rest = std::string_view(held_).substr(first);
        for (const ThoughtMarks& marks : kThoughts) {
          if (rest.size() < marks.begin.size() && marks.begin.starts_with(rest)) return false;
          if (!rest.starts_with(marks.begin)) continue;
          held_.erase(0, first + marks.begin.size());
          thought_end_ = marks.end;
          mode_ = Mode::kThought;
          return true;
        }
        if (is_undecided(rest)) return false;
        mode_ = looks_like_calls(rest) ? Mode::kJson : Mode::kText;
        return true;
      }
      case Mode::kThought: {
        if (!thought_) skip_space();
        if (!until(parts, thought_end_, Part::Kind::kThought)) return false;
        mode_ = Mode::kText;
        after_thought_ = true;
        return true;
      }
      case Mode::kText: {
        if (after_thought_) {
          skip_space();
          if (held_.empty()) return false;
          if (is_undecided(held_)) return false;
          after_thought_ = false;
          if (looks_like_calls(held_)) {
            mode_ = Mode::kJson;
            return true;
          }
        }
        if (functions_.empty()) {
          add(parts, Part::Kind::kText, std::exchange(held_, ""));
          return false;
        }
        // Whichever comes first.
        const bool listed = held_.find(kListMark) < held_.find(kCallMark);
        if (listed) {
          until(parts, kListMark, Part::Kind::kText);
          mode_ = Mode::kListed;
          return true;
        }
        const size_t before = held_.size() - beginning_of(kListMark, held_);
        std::string later = held_.find(kCallMark) == std::string::npos ? held_.substr(before) : "";
        held_.erase(held_.size() - later.size());
        const bool called = until(parts, kCallMark, Part::Kind::kText);
        held_ += later;
        if (!called) return false;
        mode_ = Mode::kCall;
        return true;
      }
      case Mode::kCall: {
        const size_t end = held_.find(kCallEnd);
        if (end == std::string::npos) return false;
        const std::string body = held_.substr(0, end);
        held_.erase(0, end + kCallEnd.size());
        add_call_or_text(parts, body, kCallMark, kCallEnd);
        mode_ = Mode::kText;
        after_thought_ = true;
        return true;
      }
      case Mode::kListed: {  // up to the next, or the end of the answer
        const size_t end = held_.find(kListMark);
        if (end == std::string::npos) return false;
        const std::string body = held_.substr(0, end);
        held_.erase(0, end + kListMark.size());
        add_call_or_text(parts, body, kListMark, "");
        return true;
      }
      case Mode::kJson:
        return false;
    }
    return false;
  }
  // Gives what is before `mark`; false: the mark has not come yet.
  bool until(std::vector<Part>& parts, std::string_view mark, Part::Kind kind) {
    const size_t at = held_.find(mark);
    const size_t ready = at != std::string::npos ? at : held_.size() - beginning_of(mark, held_);
    thought_ = thought_ || ready > 0;
    add(parts, kind, held_.substr(0, ready));
    held_.erase(0, at != std::string::npos ? at + mark.size() : ready);
    return at != std::string::npos;
  }

  void add_call_or_text(std::vector<Part>& parts, const std::string& body, std::string_view open,
                        std::string_view close) {
    if (add_calls(parts, body) || (open == kListMark && add_named_call(parts, body))) return;
    add(parts, Part::Kind::kText, std::string(open) + body + std::string(close));
  }
  // NAME[ARGS]JSON, NAME[CALL_ID]ID[ARGS]JSON or NAME JSON.
  bool add_named_call(std::vector<Part>& parts, const std::string& text) {
    const size_t marked = text.find(kArgs);
    const size_t begin = marked == std::string::npos ? text.find('{') : marked + kArgs.size();
    if (begin == std::string::npos) return false;
    std::string_view name(text.data(), std::min(marked, begin));
    name = name.substr(0, name.find(kCallId));
    name.remove_prefix(std::min(name.find_first_not_of(kSpace), name.size()));
    name = name.substr(0, name.find_last_not_of(kSpace) + 1);
    try {
      const Json arguments = Json::parse(text.substr(begin), {.depth = 64});
      return add_calls(parts, Json{{"name", std::string(name)}, {"arguments", arguments}}.dump());
    } catch (const JsonError&) {
      return false;
    }
  }

  bool add_calls(std::vector<Part>& parts, const std::string& text) {
    Json json;
    try {
      json = Json::parse(text, {.depth = 64});
    } catch (const JsonError&) {
      return false;
    }
    const Json list = json.is_array() ? json : Json::array({json});
    std::vector<Part> calls;
    for (const Json& one : list) {
      const Json* name = one.is_object() ? one.find("name") : nullptr;
      if (name == nullptr || !name->is_string() || functions_.count(name->text()) == 0) return false;
      const Json* arguments = one.find("arguments");
      if (arguments == nullptr) arguments = one.find("parameters");
      calls.push_back({Part::Kind::kCall, name->text(), new_id("call_")});
      calls.push_back({Part::Kind::kArguments,
                       arguments == nullptr     ? "{}"
                       : arguments->is_string() ? arguments->text()
                                                : arguments->dump(-1, Json::Invalid::kReplace),
                       ""});
    }
    // Where only one is wanted, those behind it are dropped.
    const size_t most = several_ ? calls.size() : called_ ? 0 : std::min<size_t>(calls.size(), 2);
    parts.insert(parts.end(), calls.begin(), calls.begin() + static_cast<std::ptrdiff_t>(most));
    called_ = called_ || most > 0;
    return !calls.empty();
  }

  void take_aside(const EngineEvent& event, std::vector<Part>& parts) {
    static constexpr std::string_view kTo = "to=functions.";
    const size_t to = event.channel.find(kTo);
    if (to == std::string::npos || functions_.empty())
      return add(parts, Part::Kind::kThought, event.piece.aside);
    if (event.channel != channel_) {
      channel_ = event.channel;
      const std::string rest = channel_.substr(to + kTo.size());
      parts.push_back({Part::Kind::kCall, rest.substr(0, rest.find_first_of(" <")), new_id("call_")});
    }
    add(parts, Part::Kind::kArguments, event.piece.aside);
  }

  std::set<std::string> functions_;
  bool several_, called_ = false;
  Mode mode_;
  std::string thought_end_;  // mark
  bool thought_ = false, after_thought_ = false;
  std::string held_, channel_;
};

}  // namespace

std::string new_id(const char* prefix) {
  static constexpr std::string_view kLetters = "0123456789abcdefghijklmnopqrstuvwxyz";
  thread_local std::mt19937_64 random{std::random_device()() * uint64_t{0x9e3779b97f4a7c15} +
                                      std::random_device()()};
  std::string id = prefix;
  for (int i = 0; i < 24; ++i) id += kLetters[random() % kLetters.size()];
  return id;
}

std::vector<std::string_view> part_marks(const ChatRequest& request) {
  std::vector<std::string_view> marks;
  for (const ThoughtMarks& thought : kThoughts) marks.insert(marks.end(), {thought.begin, thought.end});
  if (request.tool_choice == ChatRequest::ToolChoice::kAuto)
    marks.insert(marks.end(), {kCallMark, kCallEnd, kListMark, kCallId, kArgs});
  return marks;
}

std::string open_thought(std::string_view prompt) {
  for (const ThoughtMarks& marks : kThoughts) {
    const size_t begin = prompt.rfind(marks.begin);
    if (begin != prompt.npos && prompt.find(marks.end, begin) == prompt.npos) return std::string(marks.end);
  }
  return {};
}

std::unique_ptr<PartSplitter> make_parts(const ChatRequest& request) {
  if (request.tool_choice == ChatRequest::ToolChoice::kRequired) return std::make_unique<ForcedCall>();
  if (request.format != ChatRequest::Format::kText) return std::make_unique<FormedText>();
  std::set<std::string> functions;
  if (request.tool_choice == ChatRequest::ToolChoice::kAuto)
    for (const Json& tool : request.tools) functions.insert(tool["function"]["name"].text());
  return std::make_unique<FreeText>(std::move(functions), request);
}

}  // namespace nfloat
