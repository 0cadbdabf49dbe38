// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_CLI_RANK_OPTIONS_H_
#define NFLOAT_CLI_RANK_OPTIONS_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "command_line.h"
#include "nfloat/model.h"
#include "nfloat/ranks.h"

// What a command does when mpirun has started it several times.
namespace nfloat::cli {

// Seconds, where a rank may take hours longer than another: the default there. mpirun ends all when one dies.
inline constexpr double kLongestRankWait = 86400;

struct RankArguments {
  std::string share;
  double timeout = kRankTimeout;
};

// --share, --rank-timeout.
void add_rank_options(const Command& command, RankArguments& arguments);
// --rank-timeout alone: of commands whose ranks do not share a model out.
void add_rank_timeout(const Command& command, RankArguments& arguments);

// For the beginning of the program: of several ranks only the first writes to standard output and tells of
// its progress.
void prepare_ranks(int argc, char** argv);

// The ranks that this process is one of, joined at the first call; null where it is alone. Throws UsageError
// where one was started with other options, except for its threads and paths.
std::shared_ptr<Ranks> joined_ranks(const RankArguments& arguments);
// The same if they are joined already, else null.
std::shared_ptr<Ranks> joined_ranks() noexcept;

// What only rank 0 has, or would be another on each: standard input, a seed that nobody gave.
void take_from_first_rank(const RankArguments& arguments, std::string& text);
void take_from_first_rank(const RankArguments& arguments, std::optional<uint64_t>& seed);

// The threads of this rank, where an option says `threads`; for 0 what OMP_NUM_THREADS says, else the
// processors that the process may use, shared out among the ranks of the machine that may use the same ones:
// mpirun binds each to its own, or none. Called by all ranks.
int threads_of_rank(Ranks& ranks, int threads);
// Fills ranks, shares and threads of the options, and makes what rank 0 chose the choice of all.
void run_by_ranks(const RankArguments& arguments, ModelOptions& options);
// Says which rank holds what.
void tell_of_ranks(const Model& model);

// On a rank above 0 waits until rank 0 has said what all of them find, and ended this one.
void let_first_rank_speak() noexcept;
// Of an error: ends all ranks after rank 0 has had the time to say the same. Returns where there is one
// process.
void end_ranks(int exit_code, std::string_view message);
// Whether the ranks cannot go on together; expect_ranks() throws Error then, saying why.
bool ranks_lost();
void expect_ranks();
// At the end without an error.
void leave_ranks() noexcept;

}  // namespace nfloat::cli

#endif  // NFLOAT_CLI_RANK_OPTIONS_H_
