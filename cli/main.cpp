// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <exception>
#include <filesystem>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include "commands.h"
#include "nfloat/error.h"
#include "nfloat/targets.h"
#include "notes.h"
#include "rank_options.h"
#include "signals.h"

namespace {

constexpr int kExitBadInput = 1;
constexpr int kExitUsage = 2;

int complain(int exit_code, std::string_view message) {
  nfloat::cli::end_ranks(exit_code, message);
  nfloat::cli::say("nfloat: " + nfloat::cli::one_line(message) + "\n");
  return exit_code;
}

// A descriptor that is closed would be given to the next file that is opened, and results written over it.
// In its place comes one that refuses what the closed one was for; messages go nowhere.
void keep_standard_descriptors() {
  for (const int descriptor : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    if (::fcntl(descriptor, F_GETFD) >= 0 || errno != EBADF) continue;
    const int opened = ::open("/dev/null", descriptor == STDOUT_FILENO ? O_RDONLY : O_RDWR);
    if (opened >= 0 && opened != descriptor) ::close(opened);
  }
}

void add_help_command(const nfloat::cli::CommandLine& command_line) {
  auto names = std::make_shared<std::vector<std::string>>();
  const nfloat::cli::Command command = command_line.root().add_subcommand("help", "Explain a command");
  command.add_option("COMMAND", *names, "The command, as quantize; none: a list of all");
  command.footer("Example:\n  nfloat help quantize");
  command.callback_of_ranks([names, &command_line] { fmt::print("{}", command_line.help_of(*names)); });
}

// What failed, in words that are not the C++ library's.
std::string told(const std::exception& error) {
  if (const auto* files = dynamic_cast<const std::filesystem::filesystem_error*>(&error))
    return files->path1().string() + ": " + files->code().message();
  if (const auto* system = dynamic_cast<const std::system_error*>(&error))
    return (std::ferror(stdout) != 0 ? "standard output: " : "") + system->code().message();
  if (dynamic_cast<const std::bad_alloc*>(&error) != nullptr ||
      dynamic_cast<const std::length_error*>(&error) != nullptr)
    return "out of memory";
  return "a fault of nfloat itself, not of the input alone: please report the command (nfloat version)";
}

int run(nfloat::cli::CommandLine& command_line, int argc, char** argv) {
  if (const std::string error = nfloat::forced_target_error(); !error.empty())
    return complain(kExitUsage, error);
  if (const std::string error = nfloat::forced_device_error(); !error.empty())
    return complain(kExitUsage, error);
  switch (command_line.run(argc, argv)) {
    case nfloat::cli::CommandLine::Outcome::kDone:
      break;
    case nfloat::cli::CommandLine::Outcome::kHelped:
      return 0;
    case nfloat::cli::CommandLine::Outcome::kMisused:
      nfloat::cli::let_first_rank_speak();
      return kExitUsage;
  }
  if (!command_line.root().subcommand_given())
    return complain(kExitUsage, "a subcommand is required: nfloat --help lists them");
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  keep_standard_descriptors();
  nfloat::cli::prepare_signals();
  nfloat::cli::CommandLine command_line(
      "nfloat",
      "nfloat: 4-bit NormalFloat (NF4) for language models.\n"
      "Derive the code, quantize a checkpoint, check it, run it, measure it.\n",
      "nfloat " NFLOAT_VERSION_STRING);
  const nfloat::cli::Command app = command_line.root();
  app.footer("nfloat COMMAND --help explains a command, with examples.");
  nfloat::cli::add_codebook_command(app);
  nfloat::cli::add_quantize_command(app);
  nfloat::cli::add_dequantize_command(app);
  nfloat::cli::add_convert_command(app);
  nfloat::cli::add_inspect_command(app);
  nfloat::cli::add_plan_command(app);
  nfloat::cli::add_generate_command(app);
  nfloat::cli::add_chat_command(app);
  nfloat::cli::add_serve_command(app);
  nfloat::cli::add_perplexity_command(app);
  nfloat::cli::add_evaluate_command(app);
  nfloat::cli::add_analyze_command(app);
  nfloat::cli::add_compare_command(app);
  nfloat::cli::add_train_command(app);
  nfloat::cli::add_bench_command(app);
  nfloat::cli::add_tokenize_command(app);
  nfloat::cli::add_cache_command(app);

  nfloat::cli::add_version_command(app);
  nfloat::cli::add_completion_command(command_line);
  nfloat::cli::add_manual_command(command_line);
  add_help_command(command_line);

  nfloat::cli::prepare_ranks(argc, argv);
  int exit_code = 0;
  try {
    exit_code = run(command_line, argc, argv);
  } catch (const nfloat::cli::UsageError& error) {
    return complain(kExitUsage, error.what());
  } catch (const nfloat::Error& error) {
    return complain(
        error.code() == nfloat::ErrorCode::kInterrupted ? nfloat::cli::interrupt_exit_code() : kExitBadInput,
        error.what());
  } catch (const std::exception& error) {
    return complain(kExitBadInput, told(error));
  }
  if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0)
    return complain(kExitBadInput, std::string("standard output: ") + std::strerror(errno));
  nfloat::cli::leave_ranks();
  return exit_code;
}
