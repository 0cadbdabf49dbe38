// SPDX-License-Identifier: Apache-2.0
#include "rank_options.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <set>
#include <thread>

#include "commands.h"
#include "nfloat/error.h"
#include "nfloat/machine.h"
#include "nfloat/targets.h"
#include "nfloat/threads.h"
#include "notes.h"
#include "numbers.h"
#include "table.h"

namespace nfloat::cli {
namespace {

std::shared_ptr<Ranks>& joined() {
  static std::shared_ptr<Ranks> ranks;
  return ranks;
}

// Where a rank above 0 says what only it knows.
int& own_error_output() noexcept {
  static int descriptor = STDERR_FILENO;
  return descriptor;
}

// What this process was started with, but for its number of threads and what may be a path.
std::vector<std::string>& own_command() {
  static std::vector<std::string> arguments;
  return arguments;
}

bool alone() noexcept {
  return rank_place().count == 1;
}

std::vector<double> parse_shares(const std::string& text, int count) {
  const auto wrong = [&] {
    return UsageError(fmt::format("--share '{}': expected auto or {} numbers above 0, such as {}", text,
                                  count, count == 2 ? "3,1" : "3,1,1"));
  };
  std::vector<double> shares;
  for (const std::string_view part : split_at_commas(text)) {
    const auto share = parse_number<double>(part);
    if (!share || !(*share > 0 && std::isfinite(*share))) throw wrong();
    shares.push_back(*share);
  }
  if (std::ssize(shares) != count) throw wrong();
  return shares;
}

template <typename T>
std::vector<T> gather_each(Ranks& ranks, const T& own) {
  std::vector<T> all(static_cast<size_t>(ranks.count()));
  const std::vector<size_t> sizes(all.size(), sizeof(T));
  ranks.gather(&own, sizes, all.data());
  return all;
}

// By how fast each reads its memory: that is what a token waits for.
std::vector<double> measured_shares(Ranks& ranks, int threads) {
  constexpr uint64_t kMeasured = uint64_t{256} << 20;
  return gather_each(ranks, measure_machine({.threads = threads, .memory = kMeasured}).read);
}

}  // namespace

void add_rank_options(const Command& command, RankArguments& arguments) {
  command.add_option(
      "--share", arguments.share,
      "With mpirun: the ranks' shares of every matrix, as 3,1; auto: by the memory bandwidth that "
      "each measures; without it equal ones");
  add_rank_timeout(command, arguments);
}

void add_rank_timeout(const Command& command, RankArguments& arguments) {
  command
      .add_option("--rank-timeout", arguments.timeout,
                  "With mpirun: seconds after which a rank that does not answer ends the run")
      .between(0.1, 1e6)
      .show_default();
}

void prepare_ranks(int argc, char** argv) {
  for (int i = 1; i < argc; ++i) {
    const std::string_view argument = argv[i];
    if (argument == "--threads") ++i;
    const bool path = argument.find('/') != std::string_view::npos;  // of a copy of its own, perhaps
    if (argument != "--threads" && !argument.starts_with("--threads="))
      own_command().emplace_back(path ? "PATH" : argument);
  }
  if (rank_place().rank == 0) return;
  quiet() = true;
  const int kept = ::fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
  const int nowhere = ::open("/dev/null", O_WRONLY | O_CLOEXEC);
  if (kept >= 0) own_error_output() = kept;
  for (const int output : {STDOUT_FILENO, STDERR_FILENO})
    if (nowhere >= 0) ::dup2(nowhere, output);
}

std::shared_ptr<Ranks> joined_ranks(const RankArguments& arguments) {
  if (alone()) return nullptr;
  if (joined()) return joined();
  joined() = join_ranks(arguments.timeout, fmt::format("of commit {}", built_commit()));
  const std::vector<std::string> commands =
      joined()->gather_texts(fmt::format("{}", fmt::join(own_command(), " ")));
  for (size_t i = 1; i < commands.size(); ++i)
    if (commands[i] != commands[0]) {
      joined()->all_fail();
      throw UsageError(fmt::format("{} was started as \"{}\", {} as \"{}\": all ranks take the same options",
                                   joined()->name(static_cast<int>(i)), commands[i], joined()->name(0),
                                   commands[0]));
    }
  return joined();
}

std::shared_ptr<Ranks> joined_ranks() noexcept {
  return joined();
}

void take_from_first_rank(const RankArguments& arguments, std::string& text) {
  if (const std::shared_ptr<Ranks> ranks = joined_ranks(arguments)) ranks->broadcast_text(text);
}

void take_from_first_rank(const RankArguments& arguments, std::optional<uint64_t>& seed) {
  const std::shared_ptr<Ranks> ranks = joined_ranks(arguments);
  if (!ranks) return;
  uint64_t own =
      seed.value_or(static_cast<uint64_t>(std::chrono::system_clock::now().time_since_epoch().count()));
  ranks->broadcast(&own, sizeof own);
  seed = own;
}

int threads_of_rank(Ranks& ranks, int threads) {
  cpu_set_t own;
  if (::sched_getaffinity(0, sizeof own, &own) != 0)
    std::memset(&own, 0xff, sizeof own);  // more than the set can name
  const std::vector<cpu_set_t> all = gather_each(ranks, own);
  int sharing = 0;
  for (int i = 0; i < ranks.count(); ++i) {
    if (ranks.host(i) != ranks.host(ranks.rank())) continue;
    cpu_set_t both;
    CPU_AND(&both, &own, &all[static_cast<size_t>(i)]);
    sharing += CPU_COUNT(&both) > 0 ? 1 : 0;
  }
  if (threads > 0) return threads;
  if (std::getenv("OMP_NUM_THREADS") != nullptr) return default_threads();
  return std::max(1, default_threads() / std::max(1, sharing));
}

void run_by_ranks(const RankArguments& arguments, ModelOptions& options) {
  if (alone()) {
    if (!arguments.share.empty())
      throw UsageError("--share: is for the ranks of mpirun, and there is one process");
    return;
  }
  std::vector<double> shares;
  if (!arguments.share.empty() && arguments.share != "auto")
    shares = parse_shares(arguments.share, rank_place().count);
  const std::shared_ptr<Ranks> ranks = joined_ranks(arguments);
  ranks->at("loading", -1);
  options.threads = threads_of_rank(*ranks, options.threads);
  if (arguments.share == "auto") shares = measured_shares(*ranks, options.threads);
  ranks->broadcast(&options.precision, sizeof options.precision);
  Precision many = options.many_rows_precision.value_or(options.precision);
  ranks->broadcast(&many, sizeof many);
  options.many_rows_precision = many != options.precision ? std::optional(many) : std::nullopt;
  options.ranks = ranks;
  options.rank_shares = std::move(shares);
}

void tell_of_ranks(const Model& model) {
  const std::shared_ptr<Ranks>& ranks = model.options().ranks;
  if (!ranks) return;
  const std::vector<std::string> targets = ranks->gather_texts(active_target());
  const std::vector<uint64_t> bytes = gather_each(*ranks, model.memory().resident_bytes());
  const std::vector<int> threads = gather_each(*ranks, model.options().threads);
  uint64_t all = 0;
  for (const uint64_t own : bytes) all += own;
  for (int i = 0; i < ranks->count(); ++i) {
    const auto at = static_cast<size_t>(i);
    note("{}: {} of {}, {}, {}\n", ranks->name(i), format_bytes(bytes[at]), format_bytes(all), targets[at],
         count_of(threads[at], "thread"));
  }
  if (ranks->rank() == 0 && std::set<std::string>(targets.begin(), targets.end()).size() > 1)
    warn(
        "the ranks compute with different instruction sets: results differ by rounding from those of one "
        "process (NFLOAT_TARGET names one for all)");
}

void let_first_rank_speak() noexcept {
  using std::chrono::milliseconds;
  // Ranks cannot ask each other any more: one may be gone, or stand somewhere else. So time orders them.
  // Joined ones have met since, and come to the same error together; the sum with the steps stays below the
  // two seconds after a deadline in which a run ends. Before that they are as far apart as mpirun started
  // them and as each read its files.
  constexpr milliseconds kJoinedWait{1400}, kApartWait{3000};
  constexpr milliseconds kLongWait{
      10000};  // where rank 0 is known to speak, and mpirun may be slow to end this one
  // Of those that rank 0 does not speak for, the first ends the others.
  constexpr milliseconds kStep{200};
  constexpr int kMostSteps = 2;
  const int rank = rank_place().rank;
  if (rank == 0) return;
  ::signal(SIGTERM, SIG_DFL);  // rank 0 ends this one, and that at once
  const std::shared_ptr<Ranks> ranks = joined_ranks();
  const milliseconds wait = !ranks ? kApartWait : ranks->have_all_failed() ? kLongWait : kJoinedWait;
  std::this_thread::sleep_for(wait + kStep * std::min(rank, kMostSteps));
}

void end_ranks(int exit_code, std::string_view message) {
  const RankPlace place = rank_place();
  if (place.count == 1) return;
  std::string where;
  if (place.rank > 0) {
    let_first_rank_speak();
    char host[256] = "";
    ::gethostname(host, sizeof host - 1);
    where = fmt::format("rank {} on {}: ", place.rank, host);
  }
  const std::string sentence = "nfloat: " + where + one_line(message) + "\n";
  if (place.rank == 0)
    say(sentence);
  else if (::write(own_error_output(), sentence.data(), sentence.size()) < 0)
    exit_code = std::max(exit_code, 1);
  if (const std::shared_ptr<Ranks> ranks = joined_ranks()) ranks->abort(exit_code);
  ::_exit(exit_code);
}

bool ranks_lost() {
  return joined() && !joined()->failure().empty();
}

void expect_ranks() {
  if (ranks_lost()) throw Error(ErrorCode::kIo, joined()->failure());
}

void leave_ranks() noexcept {
  joined().reset();
}

}  // namespace nfloat::cli
