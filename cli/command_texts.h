// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_CLI_COMMAND_TEXTS_H_
#define NFLOAT_CLI_COMMAND_TEXTS_H_

#include <string>
#include <vector>

#include "command_line.h"

// What is written from the table of commands: nothing in it is said twice.
namespace nfloat::cli {

// The manual page nfloat(1), in the man macros of roff.
std::string manual_page(const CommandText& program, const std::string& version);

// Scripts that complete commands, options and the words that options take; all else is a file name.
std::string bash_completion(const CommandText& program);
std::string zsh_completion(const CommandText& program);
std::string fish_completion(const CommandText& program);

// A command and those above it below the program: {"bench", "kernels"}; empty for the program itself.
struct PlacedCommand {
  std::vector<std::string> path;
  const CommandText* command;
};

// The program and all its commands, each before those below it.
std::vector<PlacedCommand> all_commands(const CommandText& program);

}  // namespace nfloat::cli

#endif  // NFLOAT_CLI_COMMAND_TEXTS_H_
