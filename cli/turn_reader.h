// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_CLI_TURN_READER_H_
#define NFLOAT_CLI_TURN_READER_H_

#include <cstdint>
#include <memory>
#include <string>

namespace nfloat::cli {

// What a person says next: from a terminal with line editing and history (libedit), else line by line from
// standard input. A line that ends with a backslash goes on with the next one; lines between """ and """ are
// one turn.
class TurnReader {
 public:
  // `prompt` is shown on a terminal only, bold if `colours`. Lines typed are kept in `history_file` ("": they
  // are not), the last thousand, readable by their owner only.
  TurnReader(std::string prompt, bool colours, std::string history_file);
  ~TurnReader();

  enum class Event : uint8_t { kTurn, kInterrupted, kEnd };
  // kInterrupted: Ctrl-C at the prompt; what was typed is dropped.
  Event read(std::string& turn);
  bool terminal() const noexcept;

  struct State;

 private:
  Event read_line(const char* prompt, std::string& line);
  std::unique_ptr<State> state_;
};

// $XDG_STATE_HOME/nfloat/chat_history, by default in ~/.local/state; "" where there is no home.
std::string default_history_file();

}  // namespace nfloat::cli

#endif  // NFLOAT_CLI_TURN_READER_H_
