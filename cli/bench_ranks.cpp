// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <vector>

#include "base/json.h"
#include "commands.h"
#include "nfloat/error.h"
#include "nfloat/machine.h"
#include "nfloat/ranks.h"
#include "nfloat/threads.h"
#include "rank_options.h"
#include "signals.h"
#include "table.h"

namespace nfloat::cli {
namespace {

struct Options {
  RankArguments ranks;
  double seconds = 5;
  bool json = false;
};

struct Row {
  size_t bytes = 0;             // that every rank receives from all others together
  double median = 0, slow = 0;  // seconds; the second is not exceeded by nine of ten
};

// Exchanges of one size until the time is over, which rank 0 decides for all.
Row measure(Ranks& ranks, size_t bytes_of_rank, double seconds) {
  using Clock = std::chrono::steady_clock;
  constexpr size_t kRound = 20;
  const auto count = static_cast<size_t>(ranks.count());
  const std::vector<size_t> sizes(count, bytes_of_rank);
  const auto byte_of = [](size_t rank, size_t i) { return static_cast<char>((i + 7 * rank) % 251); };
  std::vector<char> own(bytes_of_rank), all(bytes_of_rank * count);
  for (size_t i = 0; i < bytes_of_rank; ++i) own[i] = byte_of(static_cast<size_t>(ranks.rank()), i);
  std::vector<double> times;
  const Clock::time_point start = Clock::now();
  for (char more = 1; more != 0;) {
    for (size_t i = 0; i < kRound; ++i) {
      const Clock::time_point before = Clock::now();
      ranks.gather(own.data(), sizes, all.data());
      times.push_back(std::chrono::duration<double>(Clock::now() - before).count());
    }
    more = std::chrono::duration<double>(Clock::now() - start).count() < seconds && !interrupted();
    ranks.broadcast(&more, 1);
  }
  for (size_t i = 0; i < all.size(); ++i)
    if (all[i] != byte_of(i / bytes_of_rank, i % bytes_of_rank))
      throw Error(ErrorCode::kIo, fmt::format("{} got other bytes than {} sent", ranks.name(ranks.rank()),
                                              ranks.name(static_cast<int>(i / bytes_of_rank))));
  std::sort(times.begin(), times.end());
  return {bytes_of_rank * (count - 1), times[times.size() / 2], times[times.size() * 9 / 10]};
}

void run(const Options& options) {
  const std::shared_ptr<Ranks> ranks = joined_ranks(options.ranks);
  if (!ranks) throw UsageError("bench ranks: measures what mpirun starts: mpirun -n 2 nfloat bench ranks");
  catch_interrupts();
  ranks->at("the measurement", -1);
  constexpr size_t kSizes[] = {1, 1024, 8192, 32768, 131072, 1 << 20};
  std::vector<Row> rows;
  for (const size_t size : kSizes)
    rows.push_back(measure(*ranks, size, options.seconds / static_cast<double>(std::size(kSizes))));
  std::vector<std::string> reads;
  constexpr uint64_t kMeasured = uint64_t{256} << 20;
  // One after the other: ranks on one machine share its memory.
  for (int i = 0; i < ranks->count(); ++i) {
    std::string read;
    if (i == ranks->rank())
      read = fmt::format("{:.1f}", measure_machine({.threads = 0, .memory = kMeasured}).read);
    ranks->broadcast_text(read, i);
    reads.push_back(read);
  }
  if (interrupted()) throw Error(ErrorCode::kInterrupted, "interrupted while measuring");
  if (options.json) {
    Json json = {{"ranks", ranks->count()}};
    for (int i = 0; i < ranks->count(); ++i)
      json["machines"].push_back({{"host", ranks->host(i)},
                                  {"read_gigabytes_per_second", std::stod(reads[static_cast<size_t>(i)])}});
    for (const Row& row : rows)
      json["exchanges"].push_back(
          {{"received_bytes", row.bytes}, {"median_seconds", row.median}, {"slow_seconds", row.slow}});
    fmt::print("{}\n", json.dump(2));
    return;
  }
  for (int i = 0; i < ranks->count(); ++i)
    fmt::print("{}: reads {} GB/s of its memory\n", ranks->name(i), reads[static_cast<size_t>(i)]);
  Table table({{"received bytes"}, {"median us"}, {"nine of ten us"}, {"MB/s"}});
  for (const Row& row : rows)
    table.add({fmt::format("{}", row.bytes), fmt::format("{:.1f}", 1e6 * row.median),
               fmt::format("{:.1f}", 1e6 * row.slow),
               fmt::format("{:.1f}", static_cast<double>(row.bytes) / row.median / 1e6)});
  fmt::print("\n{}", table.to_string());
}

}  // namespace

void add_bench_ranks_command(const Command& bench) {
  auto options = std::make_shared<Options>();
  const Command command = bench.add_subcommand(
      "ranks", "Measure the exchanges between the ranks of mpirun, and the memory of their machines");
  command.footer(
      "Example:\n"
      "  mpirun --hostfile machines --bind-to none nfloat bench ranks\n"
      "A token of a dense model has four exchanges a layer. nfloat plan --ranks takes the figures.");
  command.add_option("--seconds", options->seconds, "Time for all exchanges")
      .between(0.01, 86400.0)
      .show_default();
  add_rank_timeout(command, options->ranks);
  command.add_flag("--json", options->json, "Print JSON");
  command.callback_of_ranks([options] { run(*options); });
}

}  // namespace nfloat::cli
