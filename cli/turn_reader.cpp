// SPDX-License-Identifier: Apache-2.0
#include "turn_reader.h"

#include <fmt/format.h>
#include <histedit.h>
#include <langinfo.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <clocale>
#include <cstdlib>
#include <cstring>
#include <cwchar>
#include <filesystem>
#include <iostream>
#include <string_view>
#include <utility>

#include "progress.h"

namespace nfloat::cli {
namespace {

namespace fs = std::filesystem;
constexpr const char* kQuotes = "\"\"\"";
constexpr const char* kMore = "... ";
constexpr int kLinesKept = 1000;
constexpr int kLookMilliseconds = 50;  // between two looks whether Ctrl-C was pressed

// The next character; -1 and EINTR after Ctrl-C, whichever thread the signal came to. 1: there is one, 0: the
// end.
int next_character(EditLine* editor, wchar_t* character) {
  (void)editor;
  std::mbstate_t state{};
  while (true) {
    if (interrupted()) {
      errno = EINTR;
      return -1;
    }
    pollfd input{STDIN_FILENO, POLLIN, 0};
    if (::poll(&input, 1, kLookMilliseconds) <= 0) continue;
    char byte = 0;
    const ssize_t count = ::read(STDIN_FILENO, &byte, 1);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return static_cast<int>(count);
    const size_t used = std::mbrtowc(character, &byte, 1, &state);
    if (used <= 1) return 1;
    if (used == static_cast<size_t>(-1)) state = {};  // no character of this encoding: passed over
  }
}

}  // namespace

struct TurnReader::State {
  std::string prompt, history_file;
  std::string shown;  // the prompt of the line being read, with its colours
  bool colours = false;
  EditLine* editor = nullptr;
  History* history = nullptr;

  ~State() {
    if (history != nullptr) history_end(history);
    if (editor != nullptr) el_end(editor);
  }
};

TurnReader::TurnReader(std::string prompt, bool colours, std::string history_file)
    : state_(std::make_unique<State>()) {
  state_->prompt = std::move(prompt);
  state_->colours = colours;
  state_->history_file = std::move(history_file);
  if (::isatty(STDIN_FILENO) != 1 || ::isatty(STDERR_FILENO) != 1) return;
  // The editor moves over characters of the terminal's encoding.
  std::setlocale(LC_CTYPE, "");
  if (std::strcmp(nl_langinfo(CODESET), "UTF-8") != 0) std::setlocale(LC_CTYPE, "C.UTF-8");
  state_->editor = el_init("nfloat", stdin, stderr, stderr);
  if (state_->editor == nullptr) return;
  el_set(state_->editor, EL_CLIENTDATA, state_.get());
  using Prompt = char* (*)(EditLine*);
  const Prompt show = [](EditLine* editor) -> char* {
    State* state = nullptr;
    el_get(editor, EL_CLIENTDATA, &state);
    return state->shown.data();
  };
  el_set(state_->editor, EL_PROMPT_ESC, show, '\1');
  el_set(state_->editor, EL_EDITOR, "emacs");
  el_set(state_->editor, EL_GETCFN, next_character);
  el_source(state_->editor, nullptr);  // the user's ~/.editrc
  state_->history = history_init();
  if (state_->history == nullptr) return;
  HistEvent event{};
  history(state_->history, &event, H_SETSIZE, kLinesKept);
  history(state_->history, &event, H_SETUNIQUE, 1);
  el_set(state_->editor, EL_HIST, ::history, state_->history);
  if (state_->history_file.empty()) return;
  std::error_code ignored;
  fs::create_directories(fs::path(state_->history_file).parent_path(), ignored);
  history(state_->history, &event, H_LOAD, state_->history_file.c_str());
}

TurnReader::~TurnReader() = default;

bool TurnReader::terminal() const noexcept {
  return state_->editor != nullptr;
}

TurnReader::Event TurnReader::read_line(const char* prompt, std::string& line) {
  if (state_->editor == nullptr) {
    if (!std::getline(std::cin, line)) return Event::kEnd;
    if (line.ends_with('\r')) line.pop_back();
    return Event::kTurn;
  }
  state_->shown = state_->colours ? fmt::format("\1\x1b[1;32m\1{}\1\x1b[0m\1", prompt) : prompt;
  el_resize(state_->editor);
  el_set(state_->editor, EL_PREP_TERM, 1);  // before the prompt invites keys
  int count = 0;
  const char* text = el_gets(state_->editor, &count);
  if (text == nullptr || count <= 0) {
    const bool signalled = interrupted();
    forget_interrupt();
    fmt::print(stderr, "{}\n", signalled ? "^C" : "");
    el_reset(state_->editor);
    return signalled ? Event::kInterrupted : Event::kEnd;
  }
  line.assign(text, static_cast<size_t>(count));
  while (line.ends_with('\n') || line.ends_with('\r')) line.pop_back();
  if (line.empty() || state_->history == nullptr) return Event::kTurn;
  HistEvent event{};
  history(state_->history, &event, H_ENTER, line.c_str());
  if (!state_->history_file.empty()) {
    const mode_t before = ::umask(S_IRWXG | S_IRWXO);
    history(state_->history, &event, H_SAVE, state_->history_file.c_str());
    ::umask(before);
  }
  return Event::kTurn;
}

TurnReader::Event TurnReader::read(std::string& turn) {
  std::string line;
  if (const Event event = read_line(state_->prompt.c_str(), turn); event != Event::kTurn) return event;
  if (turn.starts_with(kQuotes)) {
    turn.erase(0, std::strlen(kQuotes));
    bool first = turn.empty();
    while (!turn.ends_with(kQuotes)) {
      const Event event = read_line(kMore, line);
      if (event == Event::kInterrupted) return event;
      if (event == Event::kEnd) return Event::kTurn;
      turn += std::exchange(first, false) ? line : "\n" + line;
    }
    turn.resize(turn.size() - std::strlen(kQuotes));
    if (turn.ends_with('\n')) turn.pop_back();
    return Event::kTurn;
  }
  while (turn.ends_with('\\')) {
    turn.back() = '\n';
    const Event event = read_line(kMore, line);
    if (event == Event::kInterrupted) return event;
    if (event == Event::kEnd) return Event::kTurn;
    turn += line;
  }
  return Event::kTurn;
}

std::string default_history_file() {
  const char* state = std::getenv("XDG_STATE_HOME");
  if (state != nullptr && *state == '/') return std::string(state) + "/nfloat/chat_history";
  const char* home = std::getenv("HOME");
  return home == nullptr || *home == '\0' ? "" : std::string(home) + "/.local/state/nfloat/chat_history";
}

}  // namespace nfloat::cli
