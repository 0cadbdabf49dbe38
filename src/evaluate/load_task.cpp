// SPDX-License-Identifier: Apache-2.0
#include <sys/stat.h>

#include <algorithm>
#include <cctype>

#include "base/fail.h"
#include "base/json.h"
#include "base/mapped_file.h"
#include "nfloat/tasks.h"

namespace nfloat {
namespace {

constexpr uint64_t kMostBytes = uint64_t{1} << 30;

// A line of a task's file, its fields checked as they are read.
class Line {
 public:
  Line(const std::string& path, size_t number, std::string_view text) : path_(path), number_(number) {
    try {
      json_ = Json::parse(text, {.unique_names = true});
    } catch (const JsonError& error) {
      bad(error.what());
    }
    if (!json_.is_object()) bad("expected a JSON object");
  }
  [[noreturn]] void bad(const std::string& what) const {
    fail(ErrorCode::kMalformedFile, "{}: line {}: {}", path_, number_, what);
  }
  bool has(const char* name) const { return json_.contains(name); }
  std::string text(const char* name) const { return as_text(field(name), name); }
  std::vector<std::string> texts(const char* name) const {
    const Json& list = field(name);
    if (!list.is_array() || list.size() < 2)
      bad(fmt::format("\"{}\": expected a list of two texts or more", name));
    std::vector<std::string> values;
    for (const Json& entry : list) values.push_back(as_text(entry, name));
    return values;
  }
  size_t answer(const char* name, size_t options) const {
    const Json& value = field(name);
    // HellaSwag is around with numbers in quotes too.
    const std::string digits = value.is_string() ? value.get<std::string>() : value.dump();
    if (digits.size() == 1 && digits[0] >= '0' && static_cast<size_t>(digits[0] - '0') < options)
      return static_cast<size_t>(digits[0] - '0');
    bad(fmt::format("\"{}\" is {}, expected 0 to {}", name, value.dump().substr(0, 40), options - 1));
  }

 private:
  const Json& field(const char* name) const {
    if (!json_.contains(name)) bad(fmt::format("no \"{}\"", name));
    return json_[name];
  }
  std::string as_text(const Json& value, const char* name) const {
    if (!value.is_string()) bad(fmt::format("\"{}\": {} where a text was expected", name, value.type_name()));
    return value.get<std::string>();
  }

  const std::string& path_;
  size_t number_;
  Json json_;
};

int64_t characters(std::string_view text) {
  int64_t count = 0;
  for (const char c : text) count += (static_cast<uint8_t>(c) & 0xc0) != 0x80;
  return count;
}

TaskQuestion choices(const std::string& context, const std::vector<std::string>& answers, size_t gold) {
  TaskQuestion question;
  for (const std::string& answer : answers)
    question.options.push_back(
        {context, fmt::format(" {}", answer), std::max<int64_t>(1, characters(answer))});
  question.gold = gold;
  return question;
}

std::string stripped(std::string text) {
  const auto space = [](char c) { return std::isspace(static_cast<unsigned char>(c)) != 0; };
  while (!text.empty() && space(text.back())) text.pop_back();
  size_t begin = 0;
  while (begin < text.size() && space(text[begin])) ++begin;
  return text.substr(begin);
}

void replace_all(std::string& text, std::string_view from, std::string_view to) {
  for (size_t at = text.find(from); at != std::string::npos; at = text.find(from, at + to.size()))
    text.replace(at, from.size(), to);
}

// The harness's clean-up of WikiHow's marks: " [title]" ends a sentence, other brackets go.
std::string hellaswag_text(std::string text) {
  text = stripped(std::move(text));
  replace_all(text, " [title]", ". ");
  for (size_t open = text.find('['); open != std::string::npos; open = text.find('[', open)) {
    const size_t close = text.find_first_of("]\n", open);
    if (close == std::string::npos || text[close] == '\n')
      ++open;
    else
      text.erase(open, close - open + 1);
  }
  replace_all(text, "  ", " ");
  return text;
}

TaskQuestion lambada(const Line& line) {
  const std::string text = line.text("text");
  const size_t space = text.rfind(' ');
  if (space == std::string::npos || space + 1 == text.size())
    line.bad("\"text\" does not end in a word after a space");
  TaskQuestion question;
  question.options.push_back(
      {text.substr(0, space), text.substr(space), characters(text) - characters(text.substr(0, space)) - 1});
  return question;
}

TaskQuestion arc(const Line& line) {
  const std::vector<std::string> answers = line.texts("choices");
  return choices(line.text("query") + "\nAnswer:", answers, line.answer("gold", answers.size()));
}

TaskQuestion winogrande(const Line& line) {
  TaskQuestion question;
  const std::string end = fmt::format(" {}", stripped(line.text("continuation")));
  for (const std::string& context : line.texts("context_options"))
    question.options.push_back({context, end, characters(end)});
  question.gold = line.answer("gold", question.options.size());
  return question;
}

TaskQuestion hellaswag(const Line& line) {
  std::string end = line.text("ctx_b");
  // As Python's capitalize: the first letter up, the others down.
  for (size_t i = 0; i < end.size(); ++i)
    end[i] = static_cast<char>(i == 0 ? std::toupper(static_cast<unsigned char>(end[i]))
                                      : std::tolower(static_cast<unsigned char>(end[i])));
  std::vector<std::string> answers = line.texts("endings");
  for (std::string& answer : answers) answer = hellaswag_text(answer);
  return choices(
      hellaswag_text(fmt::format("{}: {} {}", line.text("activity_label"), line.text("ctx_a"), end)), answers,
      line.answer("label", answers.size()));
}

TaskQuestion piqa(const Line& line) {
  return choices(fmt::format("Question: {}\nAnswer:", line.text("goal")),
                 {line.text("sol1"), line.text("sol2")}, 0);
}

struct Kind {
  const char* name;
  TaskQuestion (*read)(const Line&);
  bool normalises;
};
constexpr Kind kKinds[] = {{"lambada", lambada, false},
                           {"arc-easy", arc, true},
                           {"piqa", piqa, true},
                           {"winogrande", winogrande, false},
                           {"hellaswag", hellaswag, true}};

// body(number, text) for each line that is not empty, until it returns false.
template <typename Body>
void each_line(const std::string& text, Body&& body) {
  size_t number = 0;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.size(), text.find('\n', begin));
    std::string_view line(text.data() + begin, end - begin);
    if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
    ++number;
    begin = end + 1;
    if (line.find_first_not_of(" \t") != std::string_view::npos && !body(number, line)) return;
  }
}

std::string whole_file(const std::string& path) {
  const MappedFile file(path);
  const std::span<const std::byte> bytes = file.bytes();
  if (bytes.size() > kMostBytes)
    fail(ErrorCode::kMalformedFile, "{}: {} bytes, at most {} expected", path, bytes.size(), kMostBytes);
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

bool is_folder(const std::string& path) {
  struct stat info {};
  return ::stat(path.c_str(), &info) == 0 && S_ISDIR(info.st_mode);
}

void add_labels(const std::string& path, std::vector<TaskQuestion>& questions, bool all) {
  size_t next = 0;
  each_line(whole_file(path), [&](size_t number, std::string_view line) {
    if (next == questions.size() && !all) return false;
    if (line != "0" && line != "1")
      fail(ErrorCode::kMalformedFile, "{}: line {} is '{}', expected 0 or 1", path, number,
           line.substr(0, 40));
    if (next == questions.size())
      fail(ErrorCode::kMalformedFile, "{}: line {}: more labels than the {} questions", path, number, next);
    questions[next++].gold = line == "1";
    return true;
  });
  if (next < questions.size())
    fail(ErrorCode::kMalformedFile, "{}: {} labels for {} questions", path, next, questions.size());
}

}  // namespace

std::vector<std::string> task_names() {
  std::vector<std::string> names;
  for (const Kind& kind : kKinds) names.emplace_back(kind.name);
  return names;
}

Task load_task(std::string_view name, const std::string& path, int64_t limit) {
  const Kind* kind = nullptr;
  for (const Kind& known : kKinds)
    if (name == known.name) kind = &known;
  if (kind == nullptr)
    fail(ErrorCode::kNotFound, "the task \"{}\" is not one of lambada, arc-easy, piqa, winogrande, hellaswag",
         name);
  std::string file = path;
  const bool labels = name == "piqa";
  if (is_folder(path)) {
    if (!labels) fail(ErrorCode::kIo, "{}: a folder, expected the file of {}", path, name);
    file += "/valid.jsonl";
  } else if (labels) {
    fail(ErrorCode::kNotFound, "{}: expected a folder with valid.jsonl and valid-labels.lst", path);
  }
  Task task{std::string(name), {}, kind->normalises, 0};
  bool all = true;
  each_line(whole_file(file), [&](size_t number, std::string_view text) {
    if (limit > 0 && static_cast<int64_t>(task.questions.size()) == limit) {
      all = false;
      return false;
    }
    task.questions.push_back(kind->read(Line(file, number, text)));
    return true;
  });
  if (task.questions.empty()) fail(ErrorCode::kMalformedFile, "{}: no questions in it", file);
  if (labels) add_labels(path + "/valid-labels.lst", task.questions, all);
  for (const TaskQuestion& question : task.questions)
    if (question.options.size() > 1) task.chance += 1 / static_cast<double>(question.options.size());
  task.chance /= static_cast<double>(task.questions.size());
  return task;
}

}  // namespace nfloat
