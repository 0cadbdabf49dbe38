// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_CLI_COMMANDS_H_
#define NFLOAT_CLI_COMMANDS_H_

#include "command_line.h"

// One function a subcommand, each in the file of its name. It declares the options; its callback does the
// work, throws nfloat::Error for bad input (exit code 1) or UsageError for options that do not go together
// (exit code 2).
namespace nfloat::cli {

void add_analyze_command(const Command& app);
void add_bench_command(const Command& app);
void add_bench_kernels_command(const Command& bench);
void add_bench_ranks_command(const Command& bench);
void add_cache_command(const Command& app);
void add_chat_command(const Command& app);
void add_codebook_command(const Command& app);
void add_compare_command(const Command& app);
void add_convert_command(const Command& app);
void add_dequantize_command(const Command& app);
void add_evaluate_command(const Command& app);
void add_generate_command(const Command& app);
void add_inspect_command(const Command& app);
void add_perplexity_command(const Command& app);
void add_plan_command(const Command& app);
void add_quantize_command(const Command& app);
void add_serve_command(const Command& app);
void add_tokenize_command(const Command& app);
void add_train_command(const Command& app);
void add_version_command(const Command& app);

// The commit that was built, "unknown" where that is not known.
const char* built_commit() noexcept;

// These tell about all commands; `command_line` must outlive the parsing.
void add_completion_command(const CommandLine& command_line);
void add_manual_command(const CommandLine& command_line);

}  // namespace nfloat::cli

#endif  // NFLOAT_CLI_COMMANDS_H_
