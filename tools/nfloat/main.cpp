// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <exception>
#include <new>

#include "commands.h"
#include "nfloat/error.h"

namespace {

constexpr int kExitBadInput = 1;
constexpr int kExitUsage = 2;
constexpr int kExitInterrupted = 130;

int complain(int exit_code, const char* message) {
  fmt::print(stderr, "nfloat: {}\n", message);
  return exit_code;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{
      "nfloat: 4-bit NormalFloat (NF4) for language models.\n"
      "Derive the code, quantize a checkpoint, check it, run it, measure it.\n"};
  app.set_version_flag("--version", "nfloat " NFLOAT_VERSION_STRING);
  app.require_subcommand(1);
  nfloat::cli::add_quantize_command(app);
  nfloat::cli::add_dequantize_command(app);
  nfloat::cli::add_inspect_command(app);
  nfloat::cli::add_plan_command(app);
  nfloat::cli::add_bench_command(app);

  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : kExitUsage;
  } catch (const nfloat::cli::UsageError& error) {
    return complain(kExitUsage, error.what());
  } catch (const nfloat::Error& error) {
    return complain(error.code() == nfloat::ErrorCode::kInterrupted ? kExitInterrupted : kExitBadInput,
                    error.what());
  } catch (const std::bad_alloc&) {
    return complain(kExitBadInput, "out of memory");
  } catch (const std::exception& error) {
    return complain(kExitBadInput, error.what());
  }
  return 0;
}
