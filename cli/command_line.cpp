// SPDX-License-Identifier: Apache-2.0
#include "command_line.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <limits>
#include <string_view>
#include <type_traits>
#include <utility>

#include "nfloat/ranks.h"
#include "notes.h"
#include "numbers.h"

namespace nfloat::cli {
namespace {

// The validator that Option::may_be_empty() switches off.
constexpr const char* kFilled = "filled";

// Texts that are numbers for which holds(number) is true; `which` says so in --help and in the message.
template <typename Number, typename Holds>
CLI::Validator numbers(std::string which, Holds holds) {
  return {[which, holds](std::string& text) {
            Number number{};
            if (!CLI::detail::lexical_cast(text, number))
              return fmt::format("must be a number, not {}", text);
            return holds(number) ? std::string() : fmt::format("must be {}, not {}", which, text);
          },
          which};
}

std::vector<std::string_view> values_of(std::string_view argument, bool list) {
  return list ? split_at_commas(argument) : std::vector<std::string_view>{argument};
}

template <typename T>
CLI::Option* add_target(CLI::App& app, const std::string& names, T& value, const std::string& help,
                        const std::shared_ptr<const bool>&) {
  return app.add_option(names, value, help);
}

// As the library's add_option() for a vector, but that a list is taken apart here: the library would leave
// out what is empty.
template <typename T>
CLI::Option* add_target(CLI::App& app, const std::string& names, std::vector<T>& value,
                        const std::string& help, std::shared_ptr<const bool> list) {
  using Values = std::vector<T>;
  CLI::Option* option = app.add_option(
      names,
      [&value, list = std::move(list)](const CLI::results_t& arguments) {
        CLI::results_t all;
        for (const std::string& argument : arguments)
          for (const std::string_view one : values_of(argument, *list)) all.emplace_back(one);
        return CLI::detail::lexical_conversion<Values, Values>(all, value);
      },
      help, false, [&value] { return CLI::detail::checked_to_string<Values, Values>(value); });
  option->type_name(CLI::detail::type_name<Values>());
  option->expected(CLI::detail::expected_count<Values>::value);
  return option;
}

// The names of a command's options, or of its subcommands.
std::vector<std::string> known_words(const CLI::App& app, bool options) {
  std::vector<std::string> words;
  if (options) {
    for (const CLI::Option* option : app.get_options())
      for (const std::string& name : option->get_lnames()) words.push_back("--" + name);
  } else {
    for (const CLI::App* command : app.get_subcommands([](const CLI::App*) { return true; }))
      words.push_back(command->get_name());
  }
  return words;
}

// Every command takes --quiet; those that leave out more with it have an option of their own.
void add_quiet(CLI::App& app) {
  for (CLI::App* command : app.get_subcommands([](CLI::App*) { return true; })) {
    if (command->get_option_no_throw("--quiet") == nullptr)
      command->add_flag("--quiet", quiet(), "No notes and no progress, results only");
    add_quiet(*command);
  }
}

// "{a,b}" in the type of an option is what one_of() wrote.
std::vector<std::string> choices_of(const std::string& type) {
  const size_t begin = type.find('{'), end = type.find('}');
  std::vector<std::string> words;
  if (begin == std::string::npos || end == std::string::npos) return words;
  for (size_t at = begin + 1; at < end;) {
    const size_t comma = std::min(type.find(',', at), end);
    words.push_back(type.substr(at, comma - at));
    at = comma + 1;
  }
  return words;
}

// Of the command that a subcommand belongs to.
std::string command_name(const CLI::App& app) {
  const CLI::App* command = &app;
  while (command->get_parent() != nullptr && command->get_parent()->get_parent() != nullptr)
    command = command->get_parent();
  return command->get_name();
}

OptionText text_of(const CLI::Option& option) {
  OptionText text;
  text.by_place = option.get_positional();
  if (text.by_place) {
    text.names.push_back(option.get_name(true, false));
  } else {
    for (const std::string& name : option.get_snames()) text.names.push_back("-" + name);
    for (const std::string& name : option.get_lnames()) text.names.push_back("--" + name);
  }
  text.help = option.get_description();
  text.required = option.get_required();
  if (option.get_items_expected_max() == 0) return text;
  text.value = option.get_type_name();
  text.choices = choices_of(text.value);
  text.default_value = option.get_default_str();
  text.repeated = option.get_expected_max() > 1;
  return text;
}

CommandText text_of(const CLI::App& app) {
  CommandText text{app.get_name(), app.get_description(), app.get_footer(), {}, {}};
  for (const CLI::Option* option : app.get_options()) text.options.push_back(text_of(*option));
  for (const CLI::App* command : app.get_subcommands([](const CLI::App*) { return true; }))
    text.commands.push_back(text_of(*command));
  return text;
}

}  // namespace

Option Option::required() const {
  option_->required();
  return *this;
}

Option Option::list() const {
  *list_ = true;
  check(CLI::Validator([](const std::string&) { return std::string(); }, ""));
  return *this;
}

void Option::check(CLI::Validator holds) const {
  option_->check(CLI::Validator(
      [holds, list = list_](std::string& text) {
        const std::vector<std::string_view> values = values_of(text, *list);
        if (values.size() > 1 && std::ranges::find(values, "") != values.end())
          return fmt::format("has an empty value beside its commas: {}", text);
        for (std::string value : std::vector<std::string>(values.begin(), values.end()))
          if (std::string fault = holds(value); !fault.empty()) return fault;
        return std::string();
      },
      holds.get_description(), holds.get_name()));
}

Option Option::one_at_a_time() const {
  option_->allow_extra_args(false);
  return *this;
}

Option Option::show_default() const {
  option_->capture_default_str();
  return *this;
}

Option Option::one_of(std::vector<std::string> words) const {
  const std::string list = fmt::format("{}", fmt::join(words, ","));
  check(CLI::Validator(
      [words = std::move(words)](const std::string& text) {
        return std::ranges::find(words, text) != words.end()
                   ? std::string()
                   : fmt::format("must be one of {}, not {}", fmt::join(words, ", "), text);
      },
      "{" + list + "}"));
  return *this;
}

Option Option::may_be_empty() const {
  option_->get_validator(kFilled)->active(false);
  return *this;
}

Option Option::at_least_zero() const {
  check(numbers<double>("0 or more", [](double number) { return number >= 0; }));
  return *this;
}

Option Option::above_zero() const {
  check(numbers<double>("above 0", [](double number) { return number > 0; }));
  return *this;
}

// What the parser would turn into some other number: one below 0, or above the largest.
std::string not_unsigned(const std::string& text) {
  errno = 0;
  if (text.find('-') == std::string::npos && (std::strtoull(text.c_str(), nullptr, 0), errno != ERANGE))
    return {};
  return fmt::format("must be 0 to {}, not {}", std::numeric_limits<uint64_t>::max(), text);
}

Option Option::between_integers(int64_t from, int64_t to) const {
  check(numbers<int64_t>(fmt::format("{} to {}", from, to),
                         [=](int64_t number) { return number >= from && number <= to; }));
  return *this;
}

Option Option::between(double from, double to) const {
  check(numbers<double>(fmt::format("{} to {}", from, to),
                        [=](double number) { return number >= from && number <= to; }));
  return *this;
}

bool Option::given() const {
  return option_->count() > 0;
}

Command Command::add_subcommand(const std::string& name, const std::string& description) const {
  return Command(*app_->add_subcommand(name, description));
}

Option Command::add_value(const std::string& names, OptionTarget target, const std::string& help) const {
  return std::visit(
      [&](auto* value) {
        using T = std::remove_pointer_t<decltype(value)>;
        const auto list = std::make_shared<bool>(false);
        const Option option(*add_target(*app_, names, *value, help, list), list);
        if constexpr (std::is_same_v<T, uint64_t> || std::is_same_v<T, std::optional<uint64_t>>)
          option.check(CLI::Validator(not_unsigned, ""));
        if constexpr (std::is_same_v<T, std::string> || std::is_same_v<T, std::optional<std::string>> ||
                      std::is_same_v<T, std::vector<std::string>>)
          option.check(CLI::Validator(
              [](const std::string& text) { return std::string(text.empty() ? "must not be empty" : ""); },
              "", kFilled));
        return option;
      },
      target);
}

Option Command::add_flag(const std::string& names, bool& target, const std::string& help) const {
  return Option(*app_->add_flag(names, target, help), std::make_shared<bool>(false));
}

void Command::footer(const std::string& text) const {
  app_->footer(text);
}

void Command::callback(std::function<void()> work) const {
  callback_of_ranks([app = app_, work = std::move(work)] {
    if (const int ranks = rank_place().count; ranks > 1)
      throw UsageError(fmt::format("{}: is not run by several ranks ({} were started): mpirun -n 1, or none",
                                   command_name(*app), ranks));
    work();
  });
}

void Command::callback_of_ranks(std::function<void()> work) const {
  app_->callback(std::move(work));
}

bool Command::subcommand_given() const {
  return !app_->get_subcommands().empty();
}

CommandLine::CommandLine(const std::string& name, const std::string& description, const std::string& version)
    : app_(std::make_unique<CLI::App>(description, name)) {
  app_->set_version_flag("--version", version);
  app_->require_subcommand(0, 1);  // none is told by the caller, so that a misspelt one is named
  app_->failure_message([](const CLI::App* app, const CLI::Error& error) {
    std::string command = app->get_name();
    const auto parsed = [](const CLI::App* one) { return one->parsed(); };
    for (std::vector<const CLI::App*> given; !(given = app->get_subcommands(parsed)).empty();) {
      app = given.front();
      command += " " + app->get_name();
    }
    std::string suggestion;
    if (error.get_exit_code() == static_cast<int>(CLI::ExitCodes::ExtrasError)) {
      // "...: WORD WORD", the last given first.
      std::string text = error.what();
      text.erase(0, std::min(text.size(), text.rfind(": ") + 2));
      while (!text.empty()) {
        const std::string word = text.substr(0, text.find(' '));
        text.erase(0, word.size() + 1);
        const std::string guess = did_you_mean(word, known_words(*app, word.starts_with('-')));
        if (!guess.empty()) suggestion = guess;
      }
    }
    return fmt::format("{}: {}{}\n{} --help explains the options\n", command, one_line(error.what()),
                       suggestion, command);
  });
}

CommandLine::~CommandLine() = default;

Command CommandLine::root() const {
  return Command(*app_);
}

std::string CommandLine::help_of(const std::vector<std::string>& commands) const {
  const CLI::App* app = app_.get();
  std::string path = app->get_name();
  for (const std::string& name : commands) {
    const auto found = app->get_subcommands([&](const CLI::App* one) { return one->get_name() == name; });
    if (found.empty())
      throw UsageError(fmt::format("there is no command {}{}", one_line(name),
                                   did_you_mean(name, known_words(*app, false))));
    path += " " + name;
    app = found.front();
  }
  return app->get_formatter()->make_help(app, path, CLI::AppFormatMode::Normal);
}

CommandText CommandLine::describe() const {
  add_quiet(*app_);
  return text_of(*app_);
}

CommandLine::Outcome CommandLine::run(int argc, char** argv) {
  try {
    add_quiet(*app_);
    app_->parse(argc, argv);
    return Outcome::kDone;
  } catch (const CLI::ParseError& error) {
    return app_->exit(error) == 0 ? Outcome::kHelped : Outcome::kMisused;
  }
}

}  // namespace nfloat::cli
