// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <string_view>

#include "command_texts.h"

namespace nfloat::cli {
namespace {

// Text as roff takes it: no line is a request, no dash is a hyphen.
std::string roff(std::string_view text) {
  std::string out;
  bool line_begins = true;
  for (const char c : text) {
    if (line_begins && (c == '.' || c == '\'')) out += "\\&";
    line_begins = c == '\n';
    if (c == '\\')
      out += "\\e";
    else if (c == '-')
      out += "\\-";
    else if (c == '~')
      out += "\\(ti";
    else if (c == '^')
      out += "\\(ha";
    else if (c == '`')
      out += "\\(ga";
    else
      out += c;
  }
  return out;
}

// Without the line breaks at the ends, so that no empty line is left.
std::string_view trimmed(std::string_view text) {
  while (text.ends_with('\n')) text.remove_suffix(1);
  while (text.starts_with('\n')) text.remove_prefix(1);
  return text;
}

std::string option_entry(const OptionText& option) {
  std::string heading;
  for (const std::string& name : option.names)
    heading += (heading.empty() ? "\\fB" : ", \\fB") + roff(name) + "\\fR";
  if (!option.value.empty() && !option.by_place) heading += " \\fI" + roff(option.value) + "\\fR";
  if (option.repeated) heading += " ...";
  std::string text = roff(trimmed(option.help));
  if (!option.default_value.empty()) text += fmt::format(" (default: {})", roff(option.default_value));
  return ".TP\n" + heading + "\n" + text + "\n";
}

std::string synopsis(const PlacedCommand& placed) {
  std::string line = fmt::format("\\fBnfloat {}\\fR [\\fIOPTIONS\\fR]",
                                 roff(fmt::format("{}", fmt::join(placed.path, " "))));
  for (const OptionText& option : placed.command->options) {
    if (!option.by_place) continue;
    const std::string name = "\\fI" + roff(option.names.front()) + "\\fR" + (option.repeated ? " ..." : "");
    line += option.required ? " " + name : " [" + name + "]";
  }
  return line + "\n";
}

std::string command_section(const PlacedCommand& placed) {
  const CommandText& command = *placed.command;
  std::string out = ".SS nfloat " + roff(fmt::format("{}", fmt::join(placed.path, " "))) + "\n";
  out += roff(trimmed(command.description)) + ".\n.PP\n" + synopsis(placed);
  for (const bool by_place : {true, false})
    for (const OptionText& option : command.options)
      if (option.by_place == by_place) out += option_entry(option);
  if (!trimmed(command.footer).empty()) out += ".PP\n.nf\n" + roff(trimmed(command.footer)) + "\n.fi\n";
  return out;
}

constexpr const char* kEnding = R"(.SH ENVIRONMENT
.TP
\fBNFLOAT_TARGET\fR
The instruction set to use instead of the best that the processor has; \fBnfloat version\fR lists them.
.TP
\fBNFLOAT_PRECISION\fR
What \fB\-\-precision auto\fR of a command that generates takes instead of what it measured, as int8 or bf16+int8.
.TP
\fBOMP_NUM_THREADS\fR
The number of threads where \fB\-\-threads\fR does not say one; else the processors that the process may use.
.TP
\fBHF_HOME\fR, \fBHF_HUB_CACHE\fR
Where models with names such as org/model are looked up.
.TP
\fBXDG_CACHE_HOME\fR
What is kept for further runs lies below it in nfloat/; default: ~/.cache.
.SH EXIT STATUS
.TP
\fB0\fR
The command did what it was asked.
.TP
\fB1\fR
A file or a value is bad, or a check found a fault; standard error says which.
.TP
\fB2\fR
The command line is wrong.
.TP
\fB130\fR, \fB143\fR
Ended by an interrupt or a request to terminate; no output is left unfinished.
)";

void add_commands(const PlacedCommand& placed, std::vector<PlacedCommand>& all) {
  all.push_back(placed);
  for (const CommandText& command : placed.command->commands) {
    PlacedCommand below{placed.path, &command};
    below.path.push_back(command.name);
    add_commands(below, all);
  }
}

}  // namespace

std::vector<PlacedCommand> all_commands(const CommandText& program) {
  std::vector<PlacedCommand> all;
  add_commands({{}, &program}, all);
  return all;
}

std::string manual_page(const CommandText& program, const std::string& version) {
  std::string out = ".TH NFLOAT 1 \"\" \"nfloat " + roff(version) + "\" \"User Commands\"\n";
  out += ".SH NAME\nnfloat \\- quantize, run and measure language models in 4 bits\n";
  out += ".SH SYNOPSIS\n\\fBnfloat\\fR \\fICOMMAND\\fR [\\fIOPTIONS\\fR] [\\fIARGUMENTS\\fR]\n";
  out += ".SH DESCRIPTION\n" + roff(trimmed(program.description)) + "\n";
  out += ".SH OPTIONS\n";
  for (const OptionText& option : program.options) out += option_entry(option);
  out += ".SH COMMANDS\n";
  for (const PlacedCommand& placed : all_commands(program))
    if (!placed.path.empty()) out += command_section(placed);
  return out + kEnding;
}

}  // namespace nfloat::cli
