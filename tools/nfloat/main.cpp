// SPDX-License-Identifier: Apache-2.0
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <exception>
#include <new>
#include <string>

#include "commands.h"
#include "nfloat/error.h"
#include "signals.h"

namespace {

constexpr int kExitBadInput = 1;
constexpr int kExitUsage = 2;

int complain(int exit_code, const char* message) {
  std::fprintf(stderr, "nfloat: %s\n", message);  // not fmt::print, which throws when nobody reads
  return exit_code;
}

}  // namespace

int main(int argc, char** argv) {
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
  nfloat::cli::add_perplexity_command(app);
  nfloat::cli::add_evaluate_command(app);
  nfloat::cli::add_analyze_command(app);
  nfloat::cli::add_compare_command(app);
  nfloat::cli::add_bench_command(app);
  nfloat::cli::add_tokenize_command(app);
  nfloat::cli::add_cache_command(app);

  try {
    switch (command_line.run(argc, argv)) {
      case nfloat::cli::CommandLine::Outcome::kDone:
        break;
      case nfloat::cli::CommandLine::Outcome::kHelped:
        return 0;
      case nfloat::cli::CommandLine::Outcome::kMisused:
        return kExitUsage;
    }
    if (!app.subcommand_given()) {
      return complain(kExitUsage, "a subcommand is required: nfloat --help lists them");
    }
  } catch (const nfloat::cli::UsageError& error) {
    return complain(kExitUsage, error.what());
  } catch (const nfloat::Error& error) {
    return complain(
        error.code() == nfloat::ErrorCode::kInterrupted ? nfloat::cli::interrupt_exit_code() : kExitBadInput,
        error.what());
  } catch (const std::bad_alloc&) {
    return complain(kExitBadInput, "out of memory");
  } catch (const std::exception& error) {
    return complain(kExitBadInput, error.what());
  }
  if (std::fflush(stdout) != 0) {
    return complain(kExitBadInput, (std::string("standard output: ") + std::strerror(errno)).c_str());
  }
  return 0;
}
