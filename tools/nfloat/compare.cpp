// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <optional>
#include <string_view>

#include "base/json.h"
#include "cache.h"
#include "commands.h"
#include "compare_job.h"
#include "convert_options.h"
#include "model_options.h"
#include "nfloat/convert.h"
#include "nfloat/error.h"
#include "nfloat/files.h"
#include "nfloat/tokenizer.h"
#include "notes.h"
#include "progress.h"
#include "scoring_input.h"

namespace nfloat::embedded {
extern const std::string_view stories_txt;
}

namespace nfloat::cli {
namespace {

constexpr size_t kMaxTextBytes = size_t{1} << 30;

struct Options {
  std::string model, text, reader = "nfloat", protocol = "bos", precision = "f32", budget, json, report,
                           figure, work;
  std::vector<std::string> formats, tasks;  // tasks: NAME=PATH
  int64_t task_limit = 0;
  std::vector<int64_t> block_sizes = {64};
  double max_divergence = 0;
  int64_t context = 256;
  int threads = 0;
  bool fresh = false;
};

using Clock = std::chrono::steady_clock;
double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// An unwritable place is told before the work and not after it.
void expect_writable(const std::string& path) {
  if (!path.empty() && path != "-") expect_writable_file(path);
}

class Job {
 public:
  explicit Job(const Options& options) : options_(options) {
    measure_.scoring.protocol = parse_perplexity_protocol(options.protocol);
    measure_.precision = parse_precision(options.precision);
    measure_.scoring.precision = measure_.precision;
    measure_.threads = options.threads;
    if (!options.budget.empty())
      result_.limits.budget_bytes = static_cast<double>(parse_bytes(options.budget, "--budget"));
    result_.limits.max_divergence = options.max_divergence;
    result_.reader = parse_reader(options.reader);
    const std::vector<std::string> names =
        options.formats.empty() ? default_formats(options.block_sizes) : options.formats;
    for (const std::string& name : names) {
      formats_.push_back(make_format(name));
      for (size_t i = 0; i + 1 < formats_.size(); ++i) {
        if (formats_[i]->name() != formats_.back()->name()) continue;
        formats_.pop_back();
        break;
      }
    }
    for (const std::string& task : options.tasks) {
      const size_t equals = task.find('=');
      if (equals == std::string::npos)
        throw UsageError(fmt::format("--tasks {}: expected NAME=PATH, as arc-easy=arc_easy.jsonl", task));
      tasks_.push_back(load_task(task.substr(0, equals), task.substr(equals + 1), options.task_limit));
    }
    expect_writable(options.json);
    expect_writable(options.report);
    expect_writable(options.figure);
  }

  Comparison run() {
    const Clock::time_point start = Clock::now();
    const std::string folder = model_folder(options_.model);
    const std::string text =
        options_.text.empty() ? std::string(embedded::stories_txt) : read_text(options_.text, kMaxTextBytes);
    result_.text_name = options_.text.empty() ? "stories.txt, embedded in nfloat" : options_.text;
    expect_text(text, result_.text_name);
    const Tokenizer tokenizer = Tokenizer::load(folder);
    tokens_ = scored_tokens(tokenizer, text, measure_.scoring);
    const std::string identity = scoring_identity(
        folder, text,
        fmt::format("{} {} {}{}", options_.protocol, options_.context, options_.precision, task_identity()));
    const bool own_work = options_.work.empty();
    CompareWork work(take_folder(identity), identity);
    if (options_.fresh) work.clear();
    if (!tasks_.empty())
      measure_.tasks = [this, &tokenizer](const Model& model) { return run_tasks(model, tokenizer); };
    FormatMeasurement done;
    const auto left = std::count_if(formats_.begin(), formats_.end(),
                                    [&](const auto& format) { return !work.find(format->name(), done); });
    describe(tokenizer, folder, static_cast<size_t>(left));
    find_plain_tasks(work);
    const ReferenceDistributions reference = make_reference(folder, work, identity);
    for (const auto& format : formats_) {
      FormatMeasurement& m = result_.measurements.emplace_back();
      if (!work.find(format->name(), m)) {
        current_ = format->name();
        m = measure_format(folder, *format, reference, tokens_, measure_);
        work.add(m);
        ++measured_;
      }
      if (m.refused.empty()) result_.reference = m.divergence.reference;
      base_ += total_;
    }
    bar_.finish();
    judge(result_);
    if (!(options_.report.empty() && options_.figure.empty()) &&
        std::all_of(result_.measurements.begin(), result_.measurements.end(),
                    [](const FormatMeasurement& m) { return !m.refused.empty(); }))
      throw Error(ErrorCode::kInvalidArgument,
                  fmt::format("nothing to report: {}", result_.measurements[0].refused));
    result_.seconds = seconds_since(start);
    if (own_work) finished_ = work;
    return std::move(result_);
  }

  // When everything is written: what was kept for another try is not needed any more.
  void forget() noexcept {
    if (finished_) finished_->remove();
  }

 private:
  // A folder for this run alone: the one named, or the one that an earlier run of the same comparison left in
  // the cache; a new one where another run has that or where there is no cache.
  LockedFolder take_folder(const std::string& identity) const {
    if (!options_.work.empty()) {
      if (auto folder = LockedFolder::take(options_.work)) return *folder;
      throw Error(ErrorCode::kAlreadyExists,
                  fmt::format("{}: another run is using this folder; --work names another", options_.work));
    }
    std::string why = "no home folder is known";
    if (const std::optional<std::string> cache = cache_folder()) {
      try {
        if (auto folder = LockedFolder::take(*cache + "/compare-" + identity)) return *folder;
        return LockedFolder::make(*cache);
      } catch (const Error& error) {
        if (error.code() != ErrorCode::kIo) throw;
        why = error.what();
      }
    }
    const char* temporary = std::getenv("TMPDIR");
    const std::string parent = temporary != nullptr && *temporary == '/' ? temporary : "/tmp";
    note("no cache ({}): working in {}; a run that is stopped begins anew (--work FOLDER keeps it)\n", why,
         parent);
    return LockedFolder::make(parent);
  }

  // The questions themselves, so that another file of the same name counts as another task.
  std::string task_identity() const {
    std::string all;
    for (const Task& task : tasks_) {
      all += fmt::format(" {} {}", task.name, task.questions.size());
      for (const TaskQuestion& question : task.questions)
        for (const TaskOption& option : question.options)
          all += fmt::format("{}{}{}", option.context, option.continuation, question.gold);
    }
    return all;
  }

  std::vector<TaskResult> run_tasks(const Model& model, const Tokenizer& tokenizer) {
    std::vector<TaskResult> results;
    for (const Task& task : tasks_) {
      TaskOptions own;
      own.precision = measure_.precision;
      own.progress = [&](int64_t done, int64_t total) {
        stop_if_interrupted();
        bar_.update(static_cast<uint64_t>(base_ + total_),
                    static_cast<uint64_t>(total_) * (formats_.size() + 1),
                    fmt::format("{}, {} {}/{}", current_, task.name, done, total));
      };
      results.push_back(evaluate_task(model, tokenizer, task, own));
    }
    return results;
  }

  // Kept among the finished formats, as if the plain model were one.
  void find_plain_tasks(CompareWork& work) {
    if (tasks_.empty()) return;
    FormatMeasurement plain;
    if (!work.find("plain", plain)) {
      current_ = plain.name = "plain";
      plain.tasks = measure_.tasks(*plain_);
      work.add(plain);
    }
    result_.plain_tasks = plain.tasks;
  }

  // Formats of weights that are quantized already would be measured against what is lost.
  static void require_plain(const Checkpoint& checkpoint) {
    const QuantizationPlan plan = plan_quantization(checkpoint, {});
    const auto in_blocks = [&](const TensorPlan& tensor) {
      return tensor.quantize && checkpoint.stored_type(tensor.input.name) != dtype_name(tensor.input.dtype);
    };
    if (std::any_of(plan.tensors.begin(), plan.tensors.end(), in_blocks))
      throw Error(ErrorCode::kUnsupported,
                  fmt::format("{}: already quantized; formats are compared on the original model",
                              checkpoint.path()));
  }

  static void stop_if_interrupted() {
    if (interrupted())
      throw Error(ErrorCode::kInterrupted, "interrupted; the same command goes on from the formats done");
  }

  // `left`: formats that no earlier run finished.
  void describe(const Tokenizer& tokenizer, const std::string& folder, size_t left) {
    const Checkpoint checkpoint(folder);
    require_plain(checkpoint);
    ModelOptions load;
    load.precision = measure_.precision;
    load.threads = options_.threads;
    plain_ = Model::load(folder, load);
    if (plain_->config().bos_token < 0 && measure_.scoring.bos_token == -1)
      measure_.scoring.bos_token = tokenizer.bos_id().value_or(-1);
    measure_.scoring.context = std::min(options_.context, plain_->config().context);
    result_.model = options_.model;
    result_.protocol = options_.protocol;
    result_.context = measure_.scoring.context;
    result_.precision = options_.precision;
    for (const TensorInfo& info : checkpoint.tensors()) result_.plain_bytes += info.bytes;
    // A short piece of the text gives the time that all of it takes.
    const auto piece = std::span<const int32_t>(tokens_).first(
        std::min(tokens_.size(), static_cast<size_t>(2 * measure_.scoring.context)));
    perplexity(*plain_, piece, measure_.scoring);  // the first run wakes threads and pages
    const Clock::time_point start = Clock::now();
    perplexity(*plain_, piece, measure_.scoring);
    constexpr double kBesidesScoring = 2.0;  // comparing distributions, loading, coding, generating
    double tokens = static_cast<double>(tokens_.size()) * kBesidesScoring;
    for (const Task& task : tasks_) {
      // The tokens of a few questions stand for all.
      const size_t few = std::min<size_t>(task.questions.size(), 50);
      size_t found = 0;
      for (size_t i = 0; i < few; ++i)
        for (const TaskOption& option : task.questions[i].options)
          found += tokenizer.encode(option.context + option.continuation, false).size();
      tokens += static_cast<double>(found * task.questions.size()) / static_cast<double>(few);
    }
    const double seconds = seconds_since(start) / static_cast<double>(piece.size()) * tokens *
                           static_cast<double>(left == 0 ? 0 : left + 1);
    result_.tokens = static_cast<int64_t>(tokens_.size());
    note("{} on {} tokens of {}, protocol {} with windows of {}: about {:.0f} {}{}\n",
         count_of(static_cast<int64_t>(formats_.size()), "format"), tokens_.size(), result_.text_name,
         options_.protocol, measure_.scoring.context,
         seconds < 90 ? std::ceil(seconds) : std::ceil(seconds / 60), seconds < 90 ? "seconds" : "minutes",
         left < formats_.size() ? fmt::format(", {} are done already", formats_.size() - left) : "");
    total_ = static_cast<int64_t>(tokens_.size());
    measure_.scoring.progress = [this](int64_t done, int64_t, double perplexity) {
      stop_if_interrupted();
      bar_.update(static_cast<uint64_t>(base_ + done), static_cast<uint64_t>(total_) * (formats_.size() + 1),
                  fmt::format("{}, perplexity {:.3f}", current_, perplexity));
    };
  }

  ReferenceDistributions make_reference(const std::string&, const CompareWork& work,
                                        const std::string& identity) {
    current_ = "plain";
    const std::string path = work.reference_path();
    try {
      ReferenceDistributions there(path);
      if (there.identity() == identity) {
        plain_.reset();
        base_ += total_;
        return there;
      }
    } catch (const Error& error) {
      if (error.code() != ErrorCode::kNotFound && error.code() != ErrorCode::kMalformedFile) throw;
    }
    try {
      ReferenceDistributions::write(path, identity, *plain_, tokens_, measure_.scoring);
    } catch (const Error& error) {
      if (error.code() != ErrorCode::kIo) throw;
      throw Error(ErrorCode::kIo, fmt::format("{} (--work FOLDER names another place)", error.what()));
    }
    plain_.reset();
    base_ += total_;
    return ReferenceDistributions(path);
  }

  const Options& options_;
  std::vector<std::unique_ptr<Format>> formats_;
  std::vector<Task> tasks_;
  MeasureOptions measure_;
  Comparison result_;
  std::vector<int32_t> tokens_;
  std::optional<Model> plain_;
  std::optional<CompareWork> finished_;
  ProgressBar bar_{"compare", "tokens"};
  std::string current_;
  int64_t base_ = 0, total_ = 0;
  int measured_ = 0;
};

void print(const Comparison& result) {
  fmt::print("\n{}, {} tokens of {}, protocol {}, windows of {}, {} arithmetic\n", result.model,
             result.tokens, result.text_name, result.protocol, result.context, result.precision);
  fmt::print(
      "* on the Pareto front: no format is as small with less divergence, or smaller with as little\n\n");
  fmt::print("{}\n", comparison_table(result));
  if (!result.plain_tasks.empty()) fmt::print("{}\n", task_table(result));
  for (const std::string& line : comparison_findings(result)) fmt::print("{}\n", line);
  note("{} in {:.0f} s\n", count_of(static_cast<int64_t>(result.measurements.size()), "format"),
       result.seconds);
}

void run(const Options& options) {
  catch_interrupts();
  Job job(options);
  const Comparison result = job.run();
  const std::string json = options.json.empty() ? "" : comparison_json(result).dump(2) + "\n";
  if (!options.report.empty()) write_result_file(options.report, comparison_report(result));
  if (!options.figure.empty()) write_result_file(options.figure, comparison_figure(result));
  if (!json.empty() && options.json != "-") write_result_file(options.json, json);
  job.forget();
  if (options.json == "-") {
    fmt::print("{}", json);
    return;
  }
  print(result);
}

}  // namespace

void add_compare_command(const Command& app) {
  auto options = std::make_shared<Options>();
  const Command command = app.add_subcommand("compare", "Measure 4-bit formats on a model and recommend one");
  std::string list;
  for (const FormatInfo& info : format_list()) list += fmt::format("  {:<44} {}\n", info.name, info.summary);
  command.footer(
      "Examples:\n"
      "  nfloat compare models/nfloat-tiny --report report.html\n"
      "  nfloat compare ./Llama-3.2-1B --text wiki.test.raw --formats nf4:128,nf4:64:signed:dq,q4_k --budget "
      "1.5GB\n"
      "Each format's round trip replaces the matrices of the layers; the rest of the model stays as it is. A "
      "run that\n"
      "was stopped goes on where it was when the same command is given again.\n"
      "tokens/s is generation from packed 4-bit weights; - where nfloat has no kernel that runs the format "
      "directly.\n"
      "Formats:\n" +
      list);
  command
      .add_option("MODEL", options->model,
                  "Model folder (plain) or a name org/model in the Hugging Face cache")
      .required();
  command.add_option("--formats", options->formats, "Formats to compare, separated by commas; see below")
      .delimiter(',');
  command
      .add_option("--block-sizes", options->block_sizes,
                  "Block sizes of the usual formats, when --formats is not given (64)")
      .delimiter(',')
      .between(int64_t{16}, int64_t{1} << 30);
  command.add_option("--text", options->text, "Text to score; without it, stories.txt of the embedded model");
  command.add_option("--protocol", options->protocol, "paper, llama.cpp or bos (nfloat perplexity --help)")
      .one_of({"paper", "llama.cpp", "bos"})
      .show_default();
  command.add_option("--context", options->context, "Tokens a window")
      .between(int64_t{2}, int64_t{1} << 27)
      .show_default();
  command
      .add_option("--precision", options->precision,
                  "Arithmetic and decoded weights: f32, or bf16 for half the memory")
      .one_of({"f32", "bf16"})
      .show_default();
  command
      .add_option("--tasks", options->tasks,
                  "Tests to score too, as arc-easy=arc_easy.jsonl,piqa=FOLDER (nfloat evaluate --help)")
      .delimiter(',');
  command.add_option("--task-limit", options->task_limit, "Only the first so many questions of each; 0: all")
      .at_least_zero();
  command
      .add_option("--for", options->reader,
                  "Recommend what this program takes, with the command that writes it: nfloat (quantize or "
                  "convert writes it, generate runs it), transformers, llama.cpp")
      .one_of({"nfloat", "transformers", "llama.cpp"})
      .show_default();
  command.add_option("--budget", options->budget, "Largest model, as 4GB: recommend the best within it");
  command
      .add_option("--max-divergence", options->max_divergence,
                  "Largest mean KL divergence in nats a token: recommend the smallest within it")
      .above_zero();
  command.add_option("--json", options->json, "Write everything to this JSON file; - prints it");
  command.add_option("--report", options->report,
                     "Write a report with figures to this HTML file (one file, works offline)");
  command.add_option("--figure", options->figure,
                     "Write error and perplexity of the formats as bars to this SVG file");
  command.add_option(
      "--work", options->work,
      "Folder for the reference's distributions and finished formats, kept; without it, one in the cache "
      "folder that is removed at the end");
  command.add_flag("--fresh", options->fresh, "Discard what an earlier run finished");
  command.add_option("--threads", options->threads, "Threads; 0: all cores").between(0, 1024);
  command.callback([options] { run(*options); });
}

}  // namespace nfloat::cli
