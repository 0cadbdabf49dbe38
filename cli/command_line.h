// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_CLI_COMMAND_LINE_H_
#define NFLOAT_CLI_COMMAND_LINE_H_

#include <concepts>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <variant>
#include <vector>

namespace CLI {
class App;
class Option;
class Validator;
}  // namespace CLI

// Commands and their options, over CLI11, which command_line.cpp alone includes: its templates take longer to
// compile than everything else in a subcommand.
namespace nfloat::cli {

// Options that do not go together. What a callback throws as nfloat::Error is bad input instead.
struct UsageError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Where a value goes. Its type says what may be given; a vector takes several, an optional stays empty
// without its option.
using OptionTarget = std::variant<std::string*, int*, int64_t*, uint64_t*, double*, std::vector<std::string>*,
                                  std::vector<int>*, std::vector<int64_t>*, std::optional<std::string>*,
                                  std::optional<int64_t>*, std::optional<uint64_t>*, std::optional<float>*,
                                  std::optional<double>*>;

// A declared option; the functions narrow what it takes and return it.
class Option {
 public:
  Option required() const;
  // Of a vector: several values in one argument, between commas. What narrows it holds for each; none is
  // empty.
  Option list() const;
  Option one_at_a_time() const;  // several values, the option repeated for each
  Option show_default() const;   // the target's value, in --help
  Option one_of(std::vector<std::string> words) const;
  Option may_be_empty() const;  // a text; all others are refused: "" is rather a variable that is not set
  Option at_least_zero() const;
  Option above_zero() const;
  template <std::integral From, std::integral To>
  Option between(From from, To to) const {
    return between_integers(from, to);
  }
  Option between(double from, double to) const;

  bool given() const;

 private:
  friend class Command;
  Option(CLI::Option& option, std::shared_ptr<bool> list) : option_(&option), list_(std::move(list)) {}
  void check(CLI::Validator holds) const;
  Option between_integers(int64_t from, int64_t to) const;

  CLI::Option* option_;
  std::shared_ptr<bool> list_;  // each argument is one
};

// A command or subcommand. A handle: copies are the same command. Targets must outlive the parsing.
class Command {
 public:
  Command add_subcommand(const std::string& name, const std::string& description) const;
  // `names`: "-n,--max-tokens", or "MODEL" for an argument by its place.
  template <typename T>
  Option add_option(const std::string& names, T& target, const std::string& help) const {
    return add_value(names, &target, help);
  }
  Option add_flag(const std::string& names, bool& target, const std::string& help) const;
  void footer(const std::string& text) const;  // the end of --help
  // Refused, by a UsageError, where mpirun has started several processes.
  void callback(std::function<void()> work) const;
  // The same for a command that several ranks can run.
  void callback_of_ranks(std::function<void()> work) const;
  bool subcommand_given() const;

 private:
  friend class CommandLine;
  explicit Command(CLI::App& app) : app_(&app) {}
  Option add_value(const std::string& names, OptionTarget target, const std::string& help) const;

  CLI::App* app_;
};

// What --help knows, as data.
struct OptionText {
  std::vector<std::string> names;  // "-n", "--max-tokens"; of an argument by its place: "MODEL"
  std::string help;
  std::string value;                 // what it takes, as "TEXT" or "INT:0 to 1024"; empty for a flag
  std::vector<std::string> choices;  // the words that it takes; empty: any
  std::string default_value;
  bool by_place = false;
  bool required = false;
  bool repeated = false;
};

struct CommandText {
  std::string name;
  std::string description;
  std::string footer;
  std::vector<OptionText> options;
  std::vector<CommandText> commands;
};

class CommandLine {
 public:
  CommandLine(const std::string& name, const std::string& description, const std::string& version);
  ~CommandLine();

  Command root() const;
  // The help of a command under commands; of the program without any. Throws UsageError naming one that is
  // not.
  std::string help_of(const std::vector<std::string>& commands) const;
  // The program with all its commands and their options, in the order of --help.
  CommandText describe() const;
  enum class Outcome { kDone, kHelped, kMisused };
  // Runs the callback of the command given. kHelped: help or version were printed. kMisused: arguments that
  // cannot be taken, said on standard error. What callbacks throw passes.
  Outcome run(int argc, char** argv);

 private:
  std::unique_ptr<CLI::App> app_;
};

}  // namespace nfloat::cli

#endif  // NFLOAT_CLI_COMMAND_LINE_H_
