// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <string_view>

#include "command_texts.h"

namespace nfloat::cli {
namespace {

std::string path_text(const PlacedCommand& placed) {
  return fmt::format("{}", fmt::join(placed.path, " "));
}

std::string command_names(const CommandText& command) {
  std::string names;
  for (const CommandText& below : command.commands) names += (names.empty() ? "" : " ") + below.name;
  return names;
}

std::string first_line(std::string_view text) {
  return std::string(text.substr(0, text.find('\n')));
}

// In single quotes for a shell that ends them at the next one.
std::string quoted(std::string_view text) {
  std::string out = "'";
  for (const char c : text) {
    if (c == '\'')
      out += "'\\''";
    else
      out += c;
  }
  return out + "'";
}

std::string fish_quoted(std::string_view text) {
  std::string out = "'";
  for (const char c : text) {
    if (c == '\'' || c == '\\') out += '\\';
    out += c;
  }
  return out + "'";
}

// Text within a specification of zsh's _arguments and _describe, in which colons and brackets divide.
std::string zsh_text(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == ':' || c == '[' || c == ']' || c == '\\') out += '\\';
    out += c;
  }
  return out;
}

std::string zsh_values(const OptionText& option) {
  const std::string what = option.by_place ? option.names.front() : option.value;
  std::string values = "_files";
  if (!option.choices.empty())
    values = fmt::format("({})", fmt::join(option.choices, " "));
  else if (!option.value.starts_with("TEXT"))
    values = " ";  // a number: nothing to offer
  return ":" + zsh_text(what) + ":" + values;
}

std::string zsh_specification(const OptionText& option) {
  if (option.by_place)
    return quoted((option.repeated ? "*" : option.required ? "" : ":") + zsh_values(option));
  std::string specifications;
  for (const std::string& name : option.names) {
    if (!specifications.empty()) specifications += " ";
    specifications += quoted((option.repeated ? "*" : "") + name + "[" + zsh_text(first_line(option.help)) +
                             "]" + (option.value.empty() ? "" : zsh_values(option)));
  }
  return specifications;
}

std::string zsh_function_name(const PlacedCommand& placed) {
  return fmt::format("_nfloat{}{}", placed.path.empty() ? "" : "_", fmt::join(placed.path, "_"));
}

std::string zsh_function(const PlacedCommand& placed) {
  const CommandText& command = *placed.command;
  std::string out = zsh_function_name(placed) + "() {\n";
  if (!command.commands.empty()) out += "  local context state state_descr line\n  typeset -A opt_args\n";
  out += command.commands.empty() ? "  _arguments" : "  _arguments -C";
  for (const OptionText& option : command.options)
    if (command.commands.empty() || !option.by_place) out += " \\\n    " + zsh_specification(option);
  if (command.commands.empty()) return out + "\n}\n";
  out +=
      " \\\n    '1: :->command' \\\n    '*:: :->argument'\n  case $state in\n    command)\n      local -a "
      "commands=(\n";
  for (const CommandText& below : command.commands)
    out += "        " + quoted(zsh_text(below.name) + ":" + first_line(below.description)) + "\n";
  out += "      )\n      _describe command commands\n";
  if (!placed.path.empty()) out += "      _files\n";
  out += "      ;;\n    argument)\n      case $words[1] in\n";
  for (const CommandText& below : command.commands) {
    PlacedCommand next{placed.path, &below};
    next.path.push_back(below.name);
    out += "        " + below.name + ") " + zsh_function_name(next) + " ;;\n";
  }
  return out + "        *) _files ;;\n      esac\n      ;;\n  esac\n}\n";
}

// The condition under which fish offers what belongs to a command.
std::string fish_condition(const PlacedCommand& placed) {
  if (placed.path.empty()) return "__fish_use_subcommand";
  std::string condition;
  for (const std::string& name : placed.path)
    condition += (condition.empty() ? "" : "; and ") + ("__fish_seen_subcommand_from " + name);
  if (!placed.command->commands.empty())
    condition += "; and not __fish_seen_subcommand_from " + command_names(*placed.command);
  return condition;
}

std::string fish_option(const PlacedCommand& placed, const OptionText& option) {
  std::string line = "complete -c nfloat -n " + fish_quoted(fish_condition(placed));
  for (const std::string& name : option.names)
    line += name.starts_with("--") ? " -l " + name.substr(2) : " -s " + name.substr(1);
  if (!option.value.empty()) line += option.choices.empty() ? " -r -F" : " -x";
  if (!option.choices.empty())
    line += " -a " + fish_quoted(fmt::format("{}", fmt::join(option.choices, " ")));
  return line + " -d " + fish_quoted(first_line(option.help)) + "\n";
}

}  // namespace

std::string bash_completion(const CommandText& program) {
  const std::vector<PlacedCommand> commands = all_commands(program);
  std::string paths, words, choices;
  for (const PlacedCommand& placed : commands) {
    const std::string path = path_text(placed);
    if (!path.empty()) paths += (paths.empty() ? "" : "|") + quoted(path);
    std::string options;
    for (const OptionText& option : placed.command->options) {
      if (option.by_place) continue;
      for (const std::string& name : option.names) {
        options += (options.empty() ? "" : " ") + name;
        if (option.value.empty()) continue;
        choices += fmt::format(
            "    {}) values={} ;;\n", quoted(path + " " + name),
            option.choices.empty() ? "-" : quoted(fmt::format("{}", fmt::join(option.choices, " "))));
      }
    }
    words += fmt::format("    {}) options={} commands={} ;;\n", quoted(path), quoted(options),
                         quoted(command_names(*placed.command)));
  }
  return fmt::format(R"(# bash completion for nfloat
_nfloat() {{
  local current=${{COMP_WORDS[COMP_CWORD]}} previous=${{COMP_WORDS[COMP_CWORD - 1]}}
  local path='' next='' options='' commands='' values='' i
  for ((i = 1; i < COMP_CWORD; ++i)); do
    next="${{path:+$path }}${{COMP_WORDS[i]}}"
    case $next in
      {}) path=$next ;;
    esac
  done
  # --option=value is three words.
  if [[ $current == = ]]; then
    current=''
  elif [[ $previous == = ]]; then
    previous=${{COMP_WORDS[COMP_CWORD - 2]}}
  fi
  case $path in
{}  esac
  case "$path $previous" in
{}  esac
  COMPREPLY=()
  if [[ $values == - ]]; then
    return
  elif [[ -n $values ]]; then
    mapfile -t COMPREPLY < <(compgen -W "$values" -- "$current")
  elif [[ $current == -* ]]; then
    mapfile -t COMPREPLY < <(compgen -W "$options" -- "$current")
  else
    mapfile -t COMPREPLY < <(compgen -W "$commands" -- "$current")
  fi
}}
complete -o bashdefault -o default -F _nfloat nfloat
)",
                     paths, words, choices);
}

std::string zsh_completion(const CommandText& program) {
  std::string out = "#compdef nfloat\n# zsh completion for nfloat\n";
  for (const PlacedCommand& placed : all_commands(program)) out += zsh_function(placed);
  return out +
         "if [ \"$funcstack[1]\" = \"_nfloat\" ]; then\n  _nfloat \"$@\"\nelse\n  compdef _nfloat "
         "nfloat\nfi\n";
}

std::string fish_completion(const CommandText& program) {
  std::string out = "# fish completion for nfloat\n";
  for (const PlacedCommand& placed : all_commands(program)) {
    for (const CommandText& below : placed.command->commands)
      out += fmt::format("complete -c nfloat{} -n {} -a {} -d {}\n", placed.path.empty() ? " -f" : "",
                         fish_quoted(fish_condition(placed)), below.name,
                         fish_quoted(first_line(below.description)));
    for (const OptionText& option : placed.command->options)
      if (!option.by_place) out += fish_option(placed, option);
  }
  return out;
}

}  // namespace nfloat::cli
