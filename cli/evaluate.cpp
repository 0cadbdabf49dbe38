// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <chrono>

#include "commands.h"
#include "model_options.h"
#include "nfloat/error.h"
#include "nfloat/results.h"
#include "nfloat/tasks.h"
#include "notes.h"
#include "progress.h"
#include "table.h"

namespace nfloat::cli {
namespace {

struct Options {
  ModelArguments model;
  std::vector<std::string> tasks, data;
  int64_t limit = 0;
  bool bos = false, json = false;
};

std::string percent(double share) {
  return fmt::format("{:.2f} %", 100 * share);
}

// What to keep in mind beside the number.
std::string task_remark(const TaskResult& r) {
  if (r.perplexity) return fmt::format("perplexity of the answers {:.1f}", *r.perplexity);
  return r.low <= r.chance && r.chance <= r.high ? "not above chance" : "";
}

void run(const Options& options) {
  if (options.tasks.size() != options.data.size())
    throw UsageError(fmt::format("{} of --task and {} of --data: give one --data for each --task",
                                 options.tasks.size(), options.data.size()));
  catch_interrupts();
  std::vector<Task> tasks;
  for (size_t i = 0; i < options.tasks.size(); ++i)
    tasks.push_back(load_task(options.tasks[i], options.data[i], options.limit));
  const Model model = load_model(options.model);
  const Tokenizer tokenizer = Tokenizer::load(model_folder(options.model.model));
  std::vector<TaskResult> results;
  const auto start = std::chrono::steady_clock::now();
  for (const Task& task : tasks) {
    ProgressBar bar(task.name, "questions");
    TaskOptions own;
    own.add_bos = options.bos;
    own.progress = [&](int64_t done, int64_t total) {
      if (interrupted()) throw Error(ErrorCode::kInterrupted, "interrupted while scoring");
      bar.update(static_cast<uint64_t>(done), static_cast<uint64_t>(total), "");
    };
    results.push_back(evaluate_task(model, tokenizer, task, own));
  }
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  if (options.json) {
    fmt::print("{}\n", evaluation_json(options.model.model, results, seconds, model.options().device));
    return;
  }
  Table table({{"task", Table::Align::kLeft},
               {"questions"},
               {"accuracy"},
               {"+-"},
               {"95 % interval"},
               {"by length"},
               {"+-"},
               {"chance"},
               {"", Table::Align::kLeft}});
  for (const TaskResult& r : results)
    table.add({r.name, fmt::format("{}", r.questions), percent(r.accuracy), percent(r.accuracy_error),
               fmt::format("{:.1f} to {:.1f} %", 100 * r.low, 100 * r.high),
               r.normalised_accuracy ? percent(*r.normalised_accuracy) : "",
               r.normalised_accuracy ? percent(r.normalised_error) : "", percent(r.chance), task_remark(r)});
  fmt::print("{}", table.to_string());
  note("{:.0f} s\n", seconds);
}

}  // namespace

void add_evaluate_command(const Command& app) {
  auto options = std::make_shared<Options>();
  const Command command = app.add_subcommand(
      "evaluate", "Score a model on tests with known answers: LAMBADA, ARC, PIQA, WinoGrande, HellaSwag");
  command.footer(
      "Examples:\n"
      "  nfloat evaluate ./Llama-3.2-1B-nf4 --task arc-easy --data arc_easy.jsonl\n"
      "  nfloat evaluate ./Llama-3.2-1B --quantize nf4:64 --task piqa --data piqa --task lambada --data "
      "lambada_test.jsonl\n"
      "Data, one JSON object a line:\n"
      "  lambada     \"text\"; the last word is to be guessed\n"
      "  arc-easy    \"query\", \"choices\", \"gold\"\n"
      "  piqa        a folder with valid.jsonl (\"goal\", \"sol1\", \"sol2\") and valid-labels.lst\n"
      "  winogrande  \"context_options\", \"continuation\", \"gold\"\n"
      "  hellaswag   \"activity_label\", \"ctx_a\", \"ctx_b\", \"endings\", \"label\"\n"
      "The likeliest answer counts (by length: of log-likelihoods over the answer's characters), as "
      "EleutherAI's\n"
      "lm-evaluation-harness scores it.");
  options->model.scoring = options->model.one_precision = true;
  add_model_options(command, options->model);
  add_stream_option(command, options->model);
  command.add_option("--task", options->tasks, "Which test; can be given several times")
      .required()
      .one_of(task_names());
  command.add_option("--data", options->data, "Its file or folder, one for each --task").required();
  command.add_option("--limit", options->limit, "Only the first so many questions; 0: all").at_least_zero();
  command.add_flag("--bos", options->bos, "Put BOS before each context (the harness does so on demand only)");
  command.add_flag("--json", options->json, "Print JSON");
  command.callback_of_ranks([options] { run(*options); });
}

}  // namespace nfloat::cli
