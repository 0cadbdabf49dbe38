// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_TOOLS_COMMANDS_H_
#define NFLOAT_TOOLS_COMMANDS_H_

#include <CLI/CLI.hpp>

// One function a subcommand, each in the file of its name. It declares the options; its callback does the
// work, throws nfloat::Error for bad input (exit code 1) or UsageError for options that do not go together
// (exit code 2).
namespace nfloat::cli {

struct UsageError : std::runtime_error {
  using std::runtime_error::runtime_error;
};
void add_analyze_command(CLI::App& app);
void add_bench_command(CLI::App& app);
void add_bench_kernels_command(CLI::App& bench);
void add_chat_command(CLI::App& app);
void add_codebook_command(CLI::App& app);
void add_compare_command(CLI::App& app);
void add_convert_command(CLI::App& app);
void add_dequantize_command(CLI::App& app);
void add_evaluate_command(CLI::App& app);
void add_generate_command(CLI::App& app);
void add_inspect_command(CLI::App& app);
void add_perplexity_command(CLI::App& app);
void add_plan_command(CLI::App& app);
void add_quantize_command(CLI::App& app);
void add_tokenize_command(CLI::App& app);

}  // namespace nfloat::cli

#endif  // NFLOAT_TOOLS_COMMANDS_H_
