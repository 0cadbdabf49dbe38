// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <memory>

#include "command_texts.h"
#include "commands.h"

namespace nfloat::cli {

void add_completion_command(const CommandLine& command_line) {
  auto shell = std::make_shared<std::string>();
  const Command command = command_line.root().add_subcommand(
      "completion", "Print what a shell needs to complete the command line");
  command.add_option("SHELL", *shell, "The shell").required().one_of({"bash", "zsh", "fish"});
  command.footer(
      "Examples:\n"
      "  nfloat completion bash > ~/.local/share/bash-completion/completions/nfloat\n"
      "  nfloat completion zsh > \"${fpath[1]}/_nfloat\"\n"
      "  nfloat completion fish > ~/.config/fish/completions/nfloat.fish\n"
      "The Debian package and cmake --install put them in place.");
  command.callback([shell, &command_line] {
    const CommandText program = command_line.describe();
    fmt::print("{}", *shell == "bash"  ? bash_completion(program)
                     : *shell == "zsh" ? zsh_completion(program)
                                       : fish_completion(program));
  });
}

void add_manual_command(const CommandLine& command_line) {
  const Command command = command_line.root().add_subcommand("manual", "Print the manual page, nfloat(1)");
  command.footer(
      "Example:\n"
      "  nfloat manual | man -l -\n"
      "The page has the text of every command's --help, in the format of man pages (roff).");
  command.callback(
      [&command_line] { fmt::print("{}", manual_page(command_line.describe(), NFLOAT_VERSION_STRING)); });
}

}  // namespace nfloat::cli
