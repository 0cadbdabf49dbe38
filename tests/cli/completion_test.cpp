// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cstdio>
#include <map>
#include <memory>
#include <regex>
#include <sstream>

#include "cli/process.h"

namespace nfloat::cli_test {
namespace {

struct Told {
  std::vector<std::string> options;
  std::vector<std::string> commands;
};

// The options and subcommands that a text of --help lists.
Told read_help(const std::string& text) {
  Told told;
  std::istringstream lines(text);
  std::string section;
  for (std::string line; std::getline(lines, line);) {
    if (!line.starts_with(" ")) section = line;
    if (line.size() < 3 || line[2] == ' ' || !line.starts_with("  ")) continue;
    const std::string entry = line.substr(2, line.find(' ', 2) - 2);
    if (section == "Subcommands:") told.commands.push_back(entry);
    if (section != "Options:") continue;
    std::istringstream names(entry);
    for (std::string name; std::getline(names, name, ',');) told.options.push_back(name);
  }
  return told;
}

// Every command, from --help alone: "bench kernels" and what it takes.
void collect(const std::vector<std::string>& path, std::map<std::string, Told>& all) {
  std::vector<std::string> arguments = path;
  arguments.push_back("--help");
  const Told told = read_help(nfloat(arguments).out);
  std::string name;
  for (const std::string& word : path) name += (name.empty() ? "" : " ") + word;
  all[name] = told;
  for (const std::string& command : told.commands) {
    std::vector<std::string> below = path;
    below.push_back(command);
    collect(below, all);
  }
}

const std::map<std::string, Told>& commands() {
  static const std::map<std::string, Told> all = [] {
    std::map<std::string, Told> found;
    collect({}, found);
    return found;
  }();
  return all;
}

std::string last_word(const std::string& text) {
  return text.substr(text.rfind(' ') + 1);
}

bool has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

// The text between a line that begins with `begin` and the next that begins with `end`.
std::string part_of(const std::string& text, const std::string& begin, const std::string& end) {
  const size_t from = text.find("\n" + begin);
  if (from == std::string::npos) return "";
  const size_t to = text.find("\n" + end, from + 1);
  return text.substr(from, to == std::string::npos ? to : to - from);
}

TEST_F(Cli, HelpListsWhatTheTestsOfTheManualLookFor) {
  EXPECT_GE(commands().size(), 18U);
  EXPECT_TRUE(commands().contains("bench kernels"));
  for (const auto& [name, told] : commands()) EXPECT_GE(told.options.size(), 2U) << name;
}

TEST_F(Cli, TheManualHasEveryCommandAndOption) {
  const Result page = nfloat({"manual"});
  ASSERT_TRUE(page.ok()) << page;
  EXPECT_TRUE(page.out.starts_with(".TH NFLOAT 1 ")) << page.out.substr(0, 100);
  std::string plain = std::regex_replace(page.out, std::regex(R"(\\f[BIR])"), "");
  plain = std::regex_replace(plain, std::regex(R"(\\-)"), "-");
  for (const auto& [name, told] : commands()) {
    const std::string part = name.empty() ? part_of(plain, ".SH OPTIONS\n", ".SH")
                                          : part_of(plain, ".SS nfloat " + name + "\n", ".S");
    EXPECT_NE(part, "") << name;
    for (const std::string& option : told.options)
      EXPECT_TRUE(std::regex_search(part, std::regex("(^|\n|, )" + option + "($|\n|,| )")))
          << name << " " << option << "\n"
          << part;
  }
}

TEST_F(Cli, BashCompletesEveryCommandAndOption) {
  const Result script = nfloat({"completion", "bash"});
  ASSERT_TRUE(script.ok()) << script;
  const std::string file = path("nfloat.bash");
  write_file(file, script.out);
  // One shell for all questions, each the words before the one to complete: --, then nothing.
  std::string program =
      "source " + file +
      "\nask() { COMP_WORDS=(nfloat \"$@\"); COMP_CWORD=$#; _nfloat; echo \"${COMPREPLY[*]}\"; }\n";
  for (const auto& [name, told] : commands()) program += "ask " + name + " --\nask " + name + " ''\n";
  program += "ask quantize --format ''\nask quantize --format = f\nask quantize --threads ''\nask q\n";
  write_file(path("questions"), program);
  const std::unique_ptr<FILE, int (*)(FILE*)> bash(
      ::popen(("bash " + path("questions") + " 2>&1").c_str(), "r"), ::pclose);
  ASSERT_NE(bash, nullptr);
  std::string answers;
  for (int c = 0; (c = std::fgetc(bash.get())) != EOF;) answers += static_cast<char>(c);
  std::istringstream lines(answers);
  std::string line;
  for (const auto& [name, told] : commands()) {
    std::getline(lines, line);
    for (const std::string& option : told.options) {
      if (option.starts_with("--")) {
        EXPECT_TRUE(has(" " + line + " ", " " + option + " ")) << name << " " << option << ": " << line;
      }
    }
    std::getline(lines, line);
    for (const std::string& command : told.commands)
      EXPECT_TRUE(has(" " + line + " ", " " + command + " ")) << name << " " << command << ": " << line;
  }
  for (const char* expected : {"nf4 fp4", "fp4", "", "quantize"}) {
    std::getline(lines, line);
    EXPECT_EQ(line, expected);
  }
}

TEST_F(Cli, ZshCompletesEveryCommandAndOption) {
  const Result script = nfloat({"completion", "zsh"});
  ASSERT_TRUE(script.ok()) << script;
  EXPECT_TRUE(script.out.starts_with("#compdef nfloat\n"));
  for (const auto& [name, told] : commands()) {
    const std::string function =
        "_nfloat" + (name.empty() ? "" : "_" + std::regex_replace(name, std::regex(" "), "_"));
    const std::string part = part_of(script.out, function + "() {", "}");
    EXPECT_NE(part, "") << name;
    for (const std::string& option : told.options)
      EXPECT_TRUE(has(part, "'" + option + "[") || has(part, "'*" + option + "[")) << name << " " << option;
    for (const std::string& command : told.commands) {
      EXPECT_TRUE(has(part, "'" + command + ":")) << name << " " << command;
      EXPECT_TRUE(has(part, function + "_" + command)) << name << " " << command;
    }
  }
}

TEST_F(Cli, FishCompletesEveryCommandAndOption) {
  const Result script = nfloat({"completion", "fish"});
  ASSERT_TRUE(script.ok()) << script;
  for (const auto& [name, told] : commands()) {
    // The lines of a command have its last word and not those below it in their condition.
    const std::string condition =
        name.empty() ? "'__fish_use_subcommand'" : "__fish_seen_subcommand_from " + last_word(name);
    std::string part;
    std::istringstream lines(script.out);
    for (std::string line; std::getline(lines, line);)
      if (has(line, "-n '" + condition) || has(line, "and " + condition) || has(line, "-n " + condition))
        part += line + "\n";
    for (const std::string& option : told.options) {
      const std::string flag =
          option.starts_with("--") ? " -l " + option.substr(2) : " -s " + option.substr(1);
      EXPECT_TRUE(has(part, flag + " ")) << name << " " << option;
    }
    for (const std::string& command : told.commands)
      EXPECT_TRUE(has(part, " -a " + command + " ")) << name << " " << command;
  }
}

TEST_F(Cli, OtherShellsAreRefusedByName) {
  EXPECT_EQ(nfloat({"completion", "tcsh"}).err,
            "nfloat completion: SHELL: must be one of bash, zsh, fish, not tcsh\n"
            "nfloat completion --help explains the options\n");
}

}  // namespace
}  // namespace nfloat::cli_test
