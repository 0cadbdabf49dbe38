// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <chrono>

#include "automatic_precision.h"
#include "base/json.h"
#include "commands.h"
#include "model_options.h"
#include "nfloat/error.h"
#include "nfloat/machine.h"
#include "nfloat/results.h"
#include "nfloat/sampler.h"
#include "nfloat/synthetic.h"
#include "progress.h"
#include "table.h"

namespace nfloat::cli {
namespace {

using Clock = std::chrono::steady_clock;

struct Options {
  ModelArguments model;
  std::string synthetic;
  std::vector<int64_t> prefill{512}, generate{128};
  std::vector<int> threads;
  std::vector<std::string> precisions;
  int64_t depth = 0;
  int repetitions = 5;
  bool no_limit = false;
  bool json = false;
};

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

struct Costs {
  double load_seconds = 0;
  uint64_t peak_memory = 0;
};

struct Result {
  std::string test;  // "prefill 512"
  bool prefill = false;
  std::string precision;
  int threads = 0;
  std::vector<double> rates;  // tokens a second, ascending
  double limit = 0;           // tokens a second if weights were read at the machine's bandwidth; 0: not asked

  double spread() const { return (rates.back() - rates.front()) / median(); }
  double median() const { return (rates[(rates.size() - 1) / 2] + rates[rates.size() / 2]) / 2; }
};

// Tokens that differ from one another: the values do not matter to the time.
std::vector<int32_t> some_tokens(const Model& model, int64_t count) {
  std::vector<int32_t> tokens(static_cast<size_t>(count));
  for (size_t i = 0; i < tokens.size(); ++i)
    tokens[i] = static_cast<int32_t>((i * 7919 + 13) % static_cast<size_t>(model.config().vocabulary));
  return tokens;
}

// Seconds for `count` tokens after `depth` others, taken in at once (prefill) or one by one, each the most
// likely successor of the one before.
double time_once(Session& session, const std::vector<int32_t>& tokens, int64_t depth, bool prefill) {
  session.rewind(0);
  const std::span<const int32_t> all(tokens);
  if (depth > 0) session.prefill(all.first(static_cast<size_t>(depth)));
  const Clock::time_point start = Clock::now();
  if (prefill) {
    session.prefill(all.subspan(static_cast<size_t>(depth)));
  } else {
    int32_t token = tokens.back();
    for (size_t i = static_cast<size_t>(depth); i < tokens.size(); ++i)
      token = most_likely(session.decode(token));
  }
  return seconds_since(start);
}

Result measure(const Options& options, const Model& model, int64_t count, bool prefill, int threads,
               const PrecisionChoice& precision) {
  const int64_t room = options.depth + count;
  Session session(model, {.context = room,
                          .kv_cache = parse_kv_cache(options.model.kv_cache),
                          .precision = precision.one_row,
                          .many_rows_precision = precision.many_rows,
                          .threads = threads});
  const std::vector<int32_t> tokens = some_tokens(model, room);
  Result result{fmt::format("{} {}", prefill ? "prefill" : "generate", count),
                prefill,
                precision_text(precision),
                threads,
                {},
                0};
  time_once(session, tokens, options.depth, prefill);  // touches every page, wakes every thread
  for (int i = 0; i < options.repetitions; ++i) {
    if (interrupted()) throw Error(ErrorCode::kInterrupted, "interrupted while measuring");
    result.rates.push_back(static_cast<double>(count) / time_once(session, tokens, options.depth, prefill));
  }
  std::sort(result.rates.begin(), result.rates.end());
  return result;
}

Model make_model(const Options& options) {
  if (options.synthetic.empty()) return load_model(options.model);
  SyntheticOptions synthetic;
  synthetic.model = library_options(options.model);
  return synthetic_model(synthetic_config(options.synthetic), synthetic);
}

// What a token's weights would allow at the bandwidth that the machine shows now.
void add_limits(const Model& model, const std::vector<int>& threads, std::vector<Result>& results) {
  for (const int count : threads) {
    const MachineLimits machine = measure_machine({.threads = count, .memory = uint64_t{512} << 20});
    for (Result& result : results)
      if (!result.prefill && result.threads == count)
        result.limit = machine.read * 1e9 / static_cast<double>(model.memory().read_per_token_bytes);
  }
}

std::string percent(double share) {
  return fmt::format("{:.1f} %", 100 * share);
}

void print_text(const Options& options, const Model& model, const std::vector<Result>& results,
                const Costs& costs) {
  const ModelMemory& memory = model.memory();
  fmt::print("{}: {:.2f} billion parameters, {} {:.2f} s, peak memory {}\n",
             options.synthetic.empty() ? options.model.model : "synthetic " + options.synthetic,
             static_cast<double>(model.config().parameters()) / 1e9,
             options.synthetic.empty() ? "loaded in" : "made in", costs.load_seconds,
             format_bytes(costs.peak_memory));
  fmt::print("weights {}, {} of them read for each token: layers {}, head {}\n",
             format_bytes(memory.resident_bytes()), format_bytes(memory.read_per_token_bytes),
             format_bytes(memory.projection_bytes), format_bytes(memory.head_bytes));
  fmt::print("device {}\n", device_text(model.options().device));
  Table table({{"test", Table::Align::kLeft},
               {"precision"},
               {"threads"},
               {"tokens/s"},
               {"spread"},
               {"weights read, GB/s"},
               {"limit, tokens/s"},
               {"of limit"}});
  for (const Result& result : results)
    table.add({result.test, result.precision, fmt::format("{}", result.threads),
               fmt::format("{:.2f}", result.median()), percent(result.spread()),
               result.prefill
                   ? ""
                   : fmt::format("{:.2f}",
                                 result.median() * static_cast<double>(memory.read_per_token_bytes) / 1e9),
               result.limit > 0 ? fmt::format("{:.1f}", result.limit) : "",
               result.limit > 0 ? percent(result.median() / result.limit) : ""});
  fmt::print("{}", table.to_string());
}

void print_json(const Options& options, const Model& model, const std::vector<Result>& results,
                const Costs& costs) {
  const ModelMemory& memory = model.memory();
  Json json{{"model", options.synthetic.empty() ? options.model.model : "synthetic " + options.synthetic},
            {"parameters", model.config().parameters()},
            {"device", Json::parse(device_json(model.options().device))},
            {"weight_bytes", memory.resident_bytes()},
            {"read_per_token_bytes", memory.read_per_token_bytes},
            {"head_bytes", memory.head_bytes},
            {"load_seconds", costs.load_seconds},
            {"peak_memory_bytes", costs.peak_memory},
            {"results", Json::array()}};
  for (const Result& result : results) {
    Json one{{"test", result.test},
             {"precision", result.precision},
             {"threads", result.threads},
             {"tokens_per_second", result.median()},
             {"all", result.rates}};
    if (result.limit > 0) one["bandwidth_limit_tokens_per_second"] = result.limit;
    json["results"].push_back(std::move(one));
  }
  fmt::print("{}\n", json.dump(2));
}

void run(const Options& options) {
  if (options.model.model.empty() == options.synthetic.empty())
    throw UsageError("give a MODEL or --synthetic 1b|8b|moe");
  catch_interrupts();
  std::vector<Result> results;
  std::vector<int> threads = options.threads;
  const Clock::time_point start = Clock::now();
  const Model model = make_model(options);
  Costs costs{seconds_since(start), 0};
  if (threads.empty()) threads.push_back(model.options().threads);
  std::vector<PrecisionChoice> choices;
  for (const std::string& name : options.precisions) choices.push_back(*parse_precisions(name));
  if (choices.empty()) choices.push_back(precisions(model.options()));
  ProgressBar bar("bench", "tests");
  const size_t tests = choices.size() * threads.size() * (options.prefill.size() + options.generate.size());
  for (const PrecisionChoice& precision : choices)
    for (const int count : threads)
      for (const bool prefill : {true, false})
        for (const int64_t length : prefill ? options.prefill : options.generate) {
          if (length == 0) continue;
          results.push_back(measure(options, model, length, prefill, count, precision));
          bar.update(results.size(), tests, results.back().test);
        }
  bar.finish();
  costs.peak_memory = peak_memory_bytes();
  // The bandwidth of the host's memory says nothing of a card, nor of what ranks wait for.
  if (!options.no_limit && model.options().device == "cpu" && !model.options().ranks)
    add_limits(model, threads, results);
  if (options.json)
    print_json(options, model, results, costs);
  else
    print_text(options, model, results, costs);
}

}  // namespace

void add_bench_command(const Command& app) {
  auto options = std::make_shared<Options>();
  const Command command = app.add_subcommand("bench", "Measure the speed of a model: prompt and generation");
  command.footer(
      "Examples:\n"
      "  nfloat bench ./Llama-3.2-1B-nf4\n"
      "  nfloat bench --synthetic 1b --threads-list 1,2 --precision-list bf16,int8\n"
      "  nfloat bench ./Llama-3.2-1B-nf4 --prefill 0 --generate 64 --depth 4096\n"
      "A synthetic model has random 4-bit weights made in memory: 1b has 16 layers, 2048 wide (1.04 "
      "billion), 8b the\n"
      "shape of Llama 3 8B, moe 8 experts of 0.3 billion, 2 a token; NF4 with 8-bit scales unless --quantize "
      "says otherwise, the head quantized too.");
  add_model_options(command, options->model, false);
  command.add_option("--synthetic", options->synthetic, "Random weights of a shape: 1b, 8b or moe")
      .one_of({"1b", "8b", "moe"});
  command.add_option("--prefill", options->prefill, "Prompt lengths; 0: none")
      .list()
      .between(0, 1 << 24)
      .show_default();
  command.add_option("--generate", options->generate, "Numbers of tokens to generate; 0: none")
      .list()
      .between(0, 1 << 24)
      .show_default();
  command.add_option("--depth", options->depth, "Tokens already in the context before each test")
      .between(0, 1 << 24)
      .show_default();
  command.add_option("--threads-list", options->threads, "Several numbers of threads")
      .list()
      .between(1, 1024);
  command.add_option("--precision-list", options->precisions, "Several precisions")
      .list()
      .one_of({"f32", "bf16", "int8", "bf16+int8", "int8+bf16"});
  command.add_option("--repetitions", options->repetitions, "Runs of each test; the median is reported")
      .between(1, 1000)
      .show_default();
  command.add_flag("--no-limit", options->no_limit,
                   "Do not measure the bandwidth that limits generation (a few seconds, 512 MiB)");
  command.add_flag("--json", options->json, "Print JSON");
  add_bench_kernels_command(command);
  add_bench_ranks_command(command);
  command.callback_of_ranks([command, options] {
    if (!command.subcommand_given()) run(*options);
  });
}

}  // namespace nfloat::cli
