// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <filesystem>
#include <fstream>

#include "base/fail.h"
#include "base/json.h"
#include "nfloat/chat.h"
#include "nfloat/train_data.h"
#include "tokenizer/utf8.h"
#include "tune/batch.h"

namespace nfloat {
namespace {

namespace fs = std::filesystem;
constexpr size_t kMostLineBytes = size_t{64} << 20;

// A text and the parts of it that are trained, as ranges of bytes.
struct MarkedText {
  std::string text;
  std::vector<std::pair<size_t, size_t>> trained = {};
  bool special_tokens = true;  // those that the tokenizer puts around a text are not in it yet
  bool answers = false;        // it has answers, whose ends matter
};

class Reader {
 public:
  Reader(const std::string& path, const std::string& model, const TrainDataOptions& options)
      : path_(path), model_(model), options_(options) {
    if (options.length < 2) fail(ErrorCode::kInvalidArgument, "rows of {} tokens", options.length);
  }

  TrainData run() {
    std::string path = path_;
    if (fs::is_directory(path)) path = (fs::path(path) / "train.jsonl").string();
    path_ = path;
    std::ifstream file(path, std::ios::binary);
    if (!file) fail(ErrorCode::kNotFound, "{}: cannot be opened", path);
    const bool text = fs::path(path).extension() == ".txt";
    if (text && options_.pairs)
      fail(ErrorCode::kInvalidArgument, "{}: a text has no pairs of chosen and rejected answers", path);
    if (text)
      read_text(file);
    else
      read_lines(file);
    if (data_.rows.empty())
      fail(ErrorCode::kInvalidArgument,
           "{}: nothing is trained: {} lines, {} of them with nothing to predict", path, line_,
           data_.dropped.size());
    if (answers_ && !end_trained_)
      fail(ErrorCode::kInvalidArgument,
           "{}: no answer's end is trained, so that the model would not learn to stop: the answers are cut "
           "at {} tokens, or no token ends them",
           path, options_.length);
    return std::move(data_);
  }

 private:
  template <typename... Args>
  [[noreturn]] void malformed(fmt::format_string<Args...> format, Args&&... args) const {
    fail(ErrorCode::kMalformedFile, "{}:{}: {}", path_, line_,
         fmt::format(format, std::forward<Args>(args)...));
  }

  const Tokenizer& tokenizer() {
    if (!tokenizer_) tokenizer_ = Tokenizer::load(model_);
    return *tokenizer_;
  }

  const ChatTemplate* chat() {
    if (!chat_read_) chat_ = ChatTemplate::load(model_);
    chat_read_ = true;
    return chat_ ? &*chat_ : nullptr;
  }

  void read_text(std::istream& file) {
    const std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
    line_ = 1;
    if (!is_valid_utf8(text)) {
      const std::string repaired = repair_utf8(text);
      const auto bad = std::mismatch(text.begin(), text.end(), repaired.begin(), repaired.end()).first;
      line_ += std::count(text.begin(), bad, '\n');
      malformed("byte {} of the text is not UTF-8", bad - text.begin());
    }
    const std::vector<int32_t> tokens = tokenizer().encode(text);
    for (size_t first = 0; first < tokens.size(); first += static_cast<size_t>(options_.length)) {
      const size_t end = std::min(tokens.size(), first + static_cast<size_t>(options_.length));
      const std::vector<int32_t> own(tokens.begin() + static_cast<std::ptrdiff_t>(first),
                                     tokens.begin() + static_cast<std::ptrdiff_t>(end));
      add({own, own});
    }
  }

  void read_lines(std::istream& file) {
    std::string line;
    while (std::getline(file, line)) {
      ++line_;
      if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
      if (line.size() > kMostLineBytes) malformed("a line of {} bytes", line.size());
      Json json;
      try {
        json = Json::parse(line, {.depth = 64, .python_numbers = true, .unique_names = true});
      } catch (const JsonError& error) {
        malformed("{}", error.what());
      }
      if (!json.is_object()) malformed("not a JSON object");
      if (options_.pairs)
        add_pair(json);
      else
        add(row_of(json));
    }
    if (line_ == 0) fail(ErrorCode::kMalformedFile, "{}: empty", path_);
  }

  void expect_keys(const Json& json, std::initializer_list<std::string_view> known) const {
    for (const auto& [key, value] : json.items())
      if (std::find(known.begin(), known.end(), key) == known.end())
        malformed("key \"{}\" is not understood beside \"{}\"", key, *known.begin());
  }

  std::string text_at(const Json& json, const char* key) const {
    if (!json.contains(key) || !json[key].is_string()) malformed("\"{}\" is not a text", key);
    return json[key].text();
  }

  TrainRow row_of(const Json& json) {
    if (json.contains("chosen"))
      malformed(
          "a pair of answers, which the losses dpo and orpo are of; expected \"prompt\" and "
          "\"completion\", \"messages\" or another row to learn as it is");
    if (json.contains("input_ids")) return token_row(json);
    if (json.contains("messages")) {
      expect_keys(json, {"messages", "tools"});
      return tokenized(conversation(json["messages"], json.contains("tools") ? &json["tools"] : nullptr));
    }
    if (json.contains("conversations")) {
      expect_keys(json, {"conversations", "tools"});
      return tokenized(conversation(openai_messages(json["conversations"]),
                                    json.contains("tools") ? &json["tools"] : nullptr));
    }
    if (json.contains("prompt")) {
      expect_keys(json, {"prompt", "completion"});
      return completion(text_at(json, "prompt"), text_at(json, "completion"));
    }
    if (json.contains("instruction")) {
      expect_keys(json, {"instruction", "input", "output"});
      return instruction(json);
    }
    if (!json.contains("text"))
      malformed(
          "expected \"text\", \"prompt\" and \"completion\", \"instruction\" and \"output\", \"messages\", "
          "\"conversations\" or \"input_ids\"");
    expect_keys(json, {"text"});
    const std::string text = text_at(json, "text");
    MarkedText marked{.text = text};
    marked.trained.emplace_back(0, text.size());
    return with_end(tokenized(marked), true);
  }

  std::vector<int32_t> whole_numbers(const Json& json, const char* key) const {
    std::vector<int32_t> numbers;
    if (!json[key].is_array()) malformed("\"{}\" is not a list of numbers", key);
    for (const Json& number : json[key]) {
      // A fraction would be cut off.
      if (!number.is_number_integer())
        malformed("\"{}\" has {}, which is no whole number", key, number.dump());
      try {
        numbers.push_back(number.get<int32_t>());
      } catch (const JsonError& error) {
        malformed("\"{}\": {}", key, error.what());
      }
    }
    return numbers;
  }

  TrainRow token_row(const Json& json) const {
    expect_keys(json, {"input_ids", "labels"});
    TrainRow row;
    row.tokens = whole_numbers(json, "input_ids");
    row.labels = json.contains("labels") ? whole_numbers(json, "labels") : row.tokens;
    if (row.labels.size() != row.tokens.size())
      malformed("{} labels for {} tokens", row.labels.size(), row.tokens.size());
    return row;
  }

  TrainRow completion(const std::string& prompt, const std::string& answer) {
    MarkedText marked{.text = prompt + answer, .answers = true};
    const bool all = options_.train_on == TrainOn::kAll && !options_.pairs;
    marked.trained.emplace_back(all ? 0 : prompt.size(), marked.text.size());
    return with_end(tokenized(marked), true);
  }

  TrainRow instruction(const Json& json) {
    const std::string task = text_at(json, "instruction"), answer = text_at(json, "output");
    const std::string input = json.contains("input") ? text_at(json, "input") : std::string();
    if (chat() != nullptr) {
      const Json messages =
          Json::array({Json{{"role", "user"}, {"content", input.empty() ? task : task + "\n\n" + input}},
                       Json{{"role", "assistant"}, {"content", answer}}});
      return tokenized(conversation(messages, nullptr));
    }
    const std::string given = input.empty() ? input : fmt::format("\n\n### Input:\n{}", input);
    return completion(fmt::format("### Instruction:\n{}{}\n\n### Response:\n", task, given), answer);
  }

  Json openai_messages(const Json& turns) const {
    static constexpr std::pair<std::string_view, const char*> kRoles[] = {
        {"human", "user"},          {"user", "user"},     {"gpt", "assistant"},
        {"assistant", "assistant"}, {"system", "system"}, {"tool", "tool"}};
    Json messages = Json::array();
    if (!turns.is_array()) malformed("\"conversations\" is not a list");
    for (const Json& turn : turns) {
      if (!turn.is_object()) malformed("a turn is not an object");
      const std::string from = text_at(turn, "from");
      const auto* role = std::find_if(std::begin(kRoles), std::end(kRoles),
                                      [&](const auto& known) { return known.first == from; });
      if (role == std::end(kRoles)) malformed("a turn is from \"{}\"", from);
      messages.push_back(Json{{"role", role->second}, {"content", text_at(turn, "value")}});
    }
    return messages;
  }

  std::string render(const Json& messages, const Json* tools, bool prompt) {
    Json variables = {{"messages", messages}, {"add_generation_prompt", prompt}};
    if (tools != nullptr) variables["tools"] = *tools;
    try {
      return chat()->render(variables.dump());
    } catch (const Error& error) {
      malformed("{}", error.what());
    }
  }

  // What the assistant says is what the whole has behind the rendering of the messages before it.
  MarkedText conversation(const Json& messages, const Json* tools) {
    if (chat() == nullptr) malformed("the model has no chat template to render \"messages\" with");
    if (!messages.is_array() || messages.empty()) malformed("\"messages\" is not a list of messages");
    MarkedText marked{.text = render(messages, tools, false), .special_tokens = false, .answers = true};
    if (options_.train_on == TrainOn::kAll) {
      marked.trained.emplace_back(0, marked.text.size());
      return marked;
    }
    Json before = Json::array();
    for (const Json& message : messages) {
      const bool answer = message.is_object() && message["role"] == "assistant";
      const std::string begin = answer ? render(before, tools, true) : std::string();
      before.push_back(message);
      if (!answer) continue;
      const std::string end = before.size() == messages.size() ? marked.text : render(before, tools, false);
      if (!end.starts_with(begin) || !marked.text.starts_with(end))
        malformed(
            "the template renders the beginning of this conversation otherwise than the whole, so that "
            "its answers cannot be told apart: '{}' and '{}'",
            tail(end), tail(marked.text.substr(0, end.size())));
      if (options_.train_on == TrainOn::kLast) marked.trained.clear();
      marked.trained.emplace_back(begin.size(), end.size());
    }
    return marked;
  }

  static std::string tail(const std::string& text) {
    constexpr size_t kShown = 60;
    return text.size() > kShown ? fmt::format("...{}", text.substr(text.size() - kShown)) : text;
  }

  // ---- pairs of answers

  void add_pair(const Json& json) {
    for (const char* key : {"chosen", "rejected"})
      if (!json.contains(key))
        malformed("expected a pair of answers, \"prompt\", \"chosen\" and \"rejected\": \"{}\" is missing",
                  key);
    const bool messages = json["chosen"].is_array();
    expect_keys(json, messages
                          ? std::initializer_list<std::string_view>{"prompt", "chosen", "rejected", "tools"}
                          : std::initializer_list<std::string_view>{"prompt", "chosen", "rejected"});
    const Json prompt = messages && !json.contains("prompt")
                            ? common_messages(json["chosen"], json["rejected"])
                            : json["prompt"];
    TrainRow rows[2];
    for (int side = 0; side < 2; ++side) {
      const char* key = side == 0 ? "chosen" : "rejected";
      rows[side] = messages ? message_answer(json, prompt, key) : text_answer(json, key);
      if (answer_begin(rows[side]) == rows[side].tokens.size())
        malformed("\"{}\" has no token of its own", key);
    }
    if (rows[0].tokens == rows[1].tokens) data_.same.push_back(line_);
    cut_pair(rows[0], rows[1]);
    add(std::move(rows[0]));
    add(std::move(rows[1]));
  }

  TrainRow text_answer(const Json& json, const char* key) {
    const std::string answer = text_at(json, key);
    if (answer.empty()) malformed("\"{}\" is empty", key);
    return completion(text_at(json, "prompt"), answer);
  }

  Json common_messages(const Json& chosen, const Json& rejected) const {
    Json common = Json::array();
    for (size_t i = 0; i < chosen.size() && rejected.is_array() && i < rejected.size(); ++i) {
      if (!(chosen[i] == rejected[i])) break;
      common.push_back(chosen[i]);
    }
    // Two answers that are the same have a prompt too.
    if (common.size() > 0 && common.size() == chosen.size() && common.size() == rejected.size()) {
      Json without = Json::array();
      for (size_t i = 0; i + 1 < common.size(); ++i) without.push_back(common[i]);
      return without;
    }
    return common;
  }

  // Trained is all that follows the rendering of the prompt with the head of an answer.
  TrainRow message_answer(const Json& json, const Json& prompt, const char* key) {
    if (chat() == nullptr) malformed("the model has no chat template to render messages with");
    if (!prompt.is_array() || prompt.empty()) malformed("\"prompt\" is not a list of messages");
    const Json& answer = json[key];
    const bool whole = !json.contains("prompt");
    const size_t first = whole ? prompt.size() : 0;
    if (!answer.is_array() || answer.size() <= first) malformed("\"{}\" has no message of its own", key);
    Json messages = prompt;
    for (size_t i = first; i < answer.size(); ++i) messages.push_back(answer[i]);
    const Json& last = messages[messages.size() - 1];
    if (!last.is_object() || !last.contains("role") || !(last["role"] == "assistant"))
      malformed("\"{}\" does not end with what the assistant says", key);
    if (last.contains("content") && last["content"] == "" && !last.contains("tool_calls"))
      malformed("\"{}\" is empty", key);
    const Json* tools = json.contains("tools") ? &json["tools"] : nullptr;
    const std::string begin = render(prompt, tools, true);
    MarkedText marked{.text = render(messages, tools, false), .special_tokens = false, .answers = true};
    if (!marked.text.starts_with(begin))
      malformed(
          "the template renders the prompt otherwise than the beginning of the whole, so that \"{}\" cannot "
          "be told apart: '{}' and '{}'",
          key, tail(begin), tail(marked.text.substr(0, begin.size())));
    marked.trained.emplace_back(begin.size(), marked.text.size());
    return tokenized(marked);
  }

  // Tokens before the first that is trained and can be predicted.
  static size_t answer_begin(const TrainRow& row) noexcept {
    size_t begin = 1;
    while (begin < row.labels.size() && row.labels[begin] == kIgnoredLabel) ++begin;
    return std::min(begin, row.labels.size());
  }

  void cut_pair(TrainRow& chosen, TrainRow& rejected) {
    const auto length = static_cast<size_t>(options_.length);
    if (std::max(chosen.tokens.size(), rejected.tokens.size()) <= length) return;
    data_.cut.push_back(line_);
    data_.longest =
        std::max(data_.longest, static_cast<int64_t>(std::max(chosen.tokens.size(), rejected.tokens.size())));
    const size_t answer = std::max(chosen.tokens.size() - answer_begin(chosen),
                                   rejected.tokens.size() - answer_begin(rejected));
    for (TrainRow* row : {&chosen, &rejected}) {
      const size_t begin = answer_begin(*row);
      const bool bos = begin > 1 && tokenizer().bos_id() == std::optional<int32_t>(row->tokens[0]);
      const size_t fixed = bos ? 1 : 0;
      // Of the prompt; one token at least, which predicts the answer's first.
      const size_t kept = std::min(length - 1, std::max(fixed + 1, length - std::min(length, answer)));
      if (begin > kept) {
        const auto from = static_cast<std::ptrdiff_t>(fixed),
                   to = static_cast<std::ptrdiff_t>(fixed + begin - kept);
        row->tokens.erase(row->tokens.begin() + from, row->tokens.begin() + to);
        row->labels.erase(row->labels.begin() + from, row->labels.begin() + to);
      }
      if (row->tokens.size() > length) {
        row->tokens.resize(length);
        row->labels.resize(length);
      }
    }
  }

  // A token is trained if all its bytes are. Of pairs the token over the border between prompt and answer is
  // the answer's: it may be all that tells two answers apart.
  TrainRow tokenized(const MarkedText& marked) {
    TrainRow row;
    row.tokens = tokenizer().encode(marked.text, marked.special_tokens);
    row.labels.assign(row.tokens.size(), kIgnoredLabel);
    answers_ = answers_ || marked.answers;
    std::string bytes;
    std::vector<size_t> ends;
    const bool bos = marked.special_tokens && !row.tokens.empty() &&
                     tokenizer().bos_id() == std::optional<int32_t>(row.tokens[0]);
    for (size_t i = 0; i < row.tokens.size(); ++i) {
      if (i > 0 || !bos) bytes += tokenizer().token_bytes(row.tokens[i]);
      ends.push_back(bytes.size());
    }
    // A space that the tokenizer puts before the text, a token that it puts behind.
    const size_t shift = bytes.find(marked.text);
    if (shift != std::string::npos) {
      for (size_t i = 0; i < row.tokens.size(); ++i) {
        const size_t begin = i == 0 ? 0 : ends[i - 1];
        for (const auto& [first, last] : marked.trained)
          if ((options_.pairs ? ends[i] > first + shift : begin >= first + (first == 0 ? 0 : shift)) &&
              ends[i] <= last + shift && ends[i] > begin)
            row.labels[i] = row.tokens[i];
      }
      return row;
    }
    // The tokenizer changes the text: what it makes of the parts before is what is not trained.
    for (const auto& [first, last] : marked.trained) {
      const size_t begin = common(row.tokens, marked, first), end = common(row.tokens, marked, last);
      for (size_t i = begin; i < end; ++i) row.labels[i] = row.tokens[i];
    }
    return row;
  }

  size_t common(const std::vector<int32_t>& tokens, const MarkedText& marked, size_t bytes) {
    if (bytes == marked.text.size()) return tokens.size();
    const std::vector<int32_t> part =
        tokenizer().encode(std::string_view(marked.text).substr(0, bytes), marked.special_tokens);
    size_t i = 0;
    while (i < part.size() && i < tokens.size() && part[i] == tokens[i]) ++i;
    return i;
  }

  TrainRow with_end(TrainRow row, bool trained) {
    const std::optional<int32_t> end = tokenizer().eos_id();
    if (!end || (!row.tokens.empty() && row.tokens.back() == *end)) return row;
    row.tokens.push_back(*end);
    row.labels.push_back(trained ? *end : kIgnoredLabel);
    return row;
  }

  void add(TrainRow row) {
    const auto length = static_cast<size_t>(options_.length);
    data_.longest = std::max(data_.longest, static_cast<int64_t>(row.tokens.size()));
    if (row.tokens.size() > length) {
      data_.cut.push_back(line_);
      row.tokens.resize(length);
      row.labels.resize(length);
    }
    int64_t trained = 0;
    for (size_t i = 1; i < row.labels.size(); ++i) {
      if (row.labels[i] == kIgnoredLabel) continue;
      ++trained;
      if (answers_) end_trained_ = end_trained_ || ends_answer(row.labels[i]);
    }
    if (trained == 0) {
      data_.dropped.push_back(line_);
      return;
    }
    data_.tokens += static_cast<int64_t>(row.tokens.size());
    data_.trained += trained;
    data_.rows.push_back(std::move(row));
    data_.lines.push_back(line_);
  }

  bool ends_answer(int32_t token) {
    return tokenizer().eos_id() == std::optional<int32_t>(token) || tokenizer().is_special(token);
  }

  std::string path_;
  const std::string model_;
  const TrainDataOptions options_;
  std::optional<Tokenizer> tokenizer_;
  std::optional<ChatTemplate> chat_;
  bool chat_read_ = false;
  bool answers_ = false, end_trained_ = false;
  int64_t line_ = 0;
  TrainData data_;
};

}  // namespace

TrainData read_train_data(const std::string& path, const std::string& model,
                          const TrainDataOptions& options) {
  return Reader(path, model, options).run();
}

std::string marked_text(const Tokenizer& tokenizer, const TrainRow& row) {
  std::string text;
  bool inside = false;
  for (size_t i = 0; i < row.tokens.size(); ++i) {
    const bool trained = i > 0 && row.labels[i] != kIgnoredLabel;
    if (trained != inside) text += trained ? "[[" : "]]";
    inside = trained;
    text += tokenizer.token_bytes(row.tokens[i]);
  }
  return text + (inside ? "]]" : "");
}

}  // namespace nfloat
