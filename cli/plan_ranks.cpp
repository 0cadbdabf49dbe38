// SPDX-License-Identifier: Apache-2.0
#include "plan_ranks.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "base/json.h"
#include "convert_options.h"
#include "nfloat/text.h"
#include "numbers.h"
#include "table.h"

namespace nfloat::cli {
namespace {

constexpr double kExchangesOfALayer = 4;

struct Plan {
  std::vector<double> shares;   // sum 1; of what is left of each memory beside what every rank holds
  std::vector<uint64_t> needs;  // bytes of each rank
  bool fits = false;
  double tokens_per_second = 0;  // 0: not known
};

double parse_rate(const std::string& text) {
  const auto rate = parse_number<double>(text);
  if (!rate || !(*rate > 0 && *rate < 1e6))
    throw UsageError(fmt::format("--read '{}': expected GB/s, a number above 0", text));
  return *rate;
}

// Of the weights, what all ranks together hold once; the table of embeddings is mapped and read by rows.
uint64_t shared_bytes(const ModelSize& model, const MemoryPlanRow& row) {
  const auto embedding = static_cast<uint64_t>(model.embedding_parameters) * 2;
  return row.weight_bytes - (model.tied_head ? 0 : std::min(embedding, row.weight_bytes));
}

Plan plan_row(const RankPlanOptions& options, const std::vector<uint64_t>& memory,
              const std::vector<double>& read, const ModelSize& model, const MemoryPlanRow& row) {
  Plan plan;
  // Keys and values go by heads, which are as many for all as shares and heads allow.
  const uint64_t weights = shared_bytes(model, row), shared = weights + row.kv_cache_bytes;
  const uint64_t each = row.working_bytes;
  uint64_t left = 0;
  for (const uint64_t own : memory) left += own - std::min(own, each);
  plan.fits = left >= shared;
  double slowest = 0;
  for (size_t i = 0; i < memory.size(); ++i) {
    const uint64_t own_left = memory[i] - std::min(memory[i], each);
    plan.shares.push_back(left > 0 ? static_cast<double>(own_left) / static_cast<double>(left) : 0);
    // No rank attends with less than a head.
    const double heads =
        std::max(plan.shares[i], 1 / static_cast<double>(std::max<int64_t>(1, model.kv_heads)));
    plan.needs.push_back(each + static_cast<uint64_t>(plan.shares[i] * static_cast<double>(weights) +
                                                      heads * static_cast<double>(row.kv_cache_bytes)));
    plan.fits = plan.fits && plan.needs[i] <= memory[i];
    if (!read.empty())
      slowest = std::max(slowest, plan.shares[i] * static_cast<double>(weights) / (read[i] * 1e9));
  }
  if (plan.fits && !read.empty() && model.experts == 0)
    plan.tokens_per_second =
        1 / (slowest + 1e-3 * options.latency * (kExchangesOfALayer * static_cast<double>(model.layers) + 1));
  return plan;
}

}  // namespace

void plan_ranks(const RankPlanOptions& options, const ModelSize& model, int64_t context, bool json) {
  std::vector<uint64_t> memory;
  for (const std::string& text : options.memory) memory.push_back(parse_bytes(text, "--ranks"));
  std::vector<double> read;
  for (const std::string& text : options.read) read.push_back(parse_rate(text));
  if (!read.empty() && read.size() != memory.size())
    throw UsageError(fmt::format("--read: {} figures for {} ranks", read.size(), memory.size()));
  const std::vector<MemoryPlanRow> rows = plan_memory(model, 0, context);
  Json document = {{"context", context}};
  std::vector<Table::Column> columns = {{"format", Table::Align::kLeft}, {"shared out"}};
  for (size_t i = 0; i < memory.size(); ++i)
    columns.push_back({fmt::format("rank {}: {}", i, format_bytes(memory[i]))});
  columns.push_back({"fits"});
  columns.push_back({"--share", Table::Align::kLeft});
  if (!options.read.empty()) columns.push_back({"tokens/s, at most"});
  Table table(columns);
  for (const MemoryPlanRow& row : rows) {
    const Plan plan = plan_row(options, memory, read, model, row);
    std::vector<std::string> shares;
    for (const double share : plan.shares)
      shares.push_back(fmt::format("{:.0f}", std::max(1.0, 1000 * share)));
    const std::string text = plan.fits ? fmt::format("{}", fmt::join(shares, ",")) : "-";
    document["formats"].push_back({{"format", row.format},
                                   {"shared_bytes", shared_bytes(model, row)},
                                   {"rank_bytes", plan.needs},
                                   {"fits", plan.fits},
                                   {"share", text},
                                   {"tokens_per_second", plan.tokens_per_second}});
    std::vector<std::string> cells = {row.format, format_bytes(shared_bytes(model, row))};
    for (const uint64_t needs : plan.needs) cells.push_back(format_bytes(needs));
    cells.push_back(plan.fits ? "yes" : "no");
    cells.push_back(text);
    if (!options.read.empty())
      cells.push_back(plan.tokens_per_second > 0 ? fmt::format("{:.1f}", plan.tokens_per_second) : "-");
    table.add(std::move(cells));
  }
  if (json) {
    fmt::print("{}\n", document.dump(2));
    return;
  }
  fmt::print(
      "{}\nEvery rank holds its share of the weights and of the keys and values of {} tokens in f16 (by "
      "heads: nearly so), and its activations; the table of embeddings stays in the file.\n",
      table.to_string(), context);
  if (!options.read.empty())
    fmt::print(
        "Rates are computed: the slowest rank's weights at its bandwidth, and {:g} exchanges of {:g} ms{}\n",
        kExchangesOfALayer * static_cast<double>(model.layers) + 1, options.latency,
        model.experts > 0 ? "; of mixtures there are none" : "");
}

}  // namespace nfloat::cli
