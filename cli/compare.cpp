// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <numeric>
#include <optional>
#include <set>
#include <string_view>

#include "cache.h"
#include "commands.h"
#include "compare_calibrated.h"
#include "compare_job.h"
#include "compare_ranks.h"
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
  RankArguments ranks{.share = {}, .timeout = kLongestRankWait};
  std::string model, text, reader = "nfloat", protocol = "bos", precision = "f32", budget, json, report,
                           figure, work;
  std::vector<std::string> formats, tasks;  // tasks: NAME=PATH
  std::vector<std::string> lora;            // DIR or DIR:WEIGHT
  int64_t task_limit = 0;
  std::vector<int64_t> block_sizes = {64};
  double max_divergence = 0;
  int64_t context = 0;  // 256, or the model's own where that is less
  std::string calibrate;
  int threads = 0;
  std::string device;
  bool fresh = false;
};

using Clock = std::chrono::steady_clock;
double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

class Job {
 public:
  explicit Job(const Options& options) : options_(options) {
    MeasureOptions& measure = compare_.measure;
    measure.scoring.protocol = parse_perplexity_protocol(options.protocol);
    measure.precision = parse_precision(options.precision);
    measure.threads = options.threads;
    measure.device = chosen_device(options.device);
    if (!options.budget.empty())
      compare_.limits.budget_bytes = static_cast<double>(parse_bytes(options.budget, "--budget"));
    compare_.limits.max_divergence = options.max_divergence;
    compare_.reader = parse_reader(options.reader);
    for (const std::string& adapter : options.lora) compare_.adapters.push_back(parse_adapter(adapter));
    std::set<std::string> names;
    for (const std::string& name :
         options.formats.empty() ? default_formats(options.block_sizes) : options.formats)
      if (names.insert(make_compared_format(name)->name()).second) compare_.formats.push_back(name);
    for (const std::string& task : options.tasks) {
      const size_t equals = task.find('=');
      if (equals == std::string::npos)
        throw UsageError(fmt::format("--tasks {}: expected NAME=PATH, as arc-easy=arc_easy.jsonl", task));
      tasks_.push_back(load_task(task.substr(0, equals), task.substr(equals + 1), options.task_limit));
    }
    if (rank_place().rank > 0) return;
    // An unwritable place is told before the work and not after it.
    for (const std::string& path : {options.json, options.report, options.figure})
      if (!path.empty() && path != "-") expect_writable_file(path);
  }

  Comparison run() {
    const std::string folder = model_folder(options_.model);
    expect_outputs_apart(outputs(), inputs(folder));
    std::string text =
        options_.text.empty() ? std::string(embedded::stories_txt) : read_text(options_.text, kMaxTextBytes);
    text_name_ = options_.text.empty() ? "stories.txt (embedded)" : options_.text;
    take_from_first_rank(options_.ranks, text);
    if (const auto ranks = joined_ranks(options_.ranks))
      compare_.measure.threads = threads_of_rank(*ranks, options_.threads);
    expect_text(text, text_name_);
    const Tokenizer tokenizer = Tokenizer::load(folder);
    MeasureOptions& measure = compare_.measure;
    const ModelConfig config = parse_model_config(Checkpoint(folder).text_file("config.json"), folder);
    measure.scoring.context =
        options_.context > 0 ? options_.context : std::min<int64_t>(256, config.context);
    tokens_ = scored_tokens(tokenizer, text, measure.scoring);
    total_ = static_cast<int64_t>(tokens_.size());
    compare_.identity = scoring_identity(
        folder, text,
        fmt::format("{} {} {}{}{}{}", options_.protocol, measure.scoring.context, options_.precision,
                    measure.device == "cpu" ? "" : " " + measure.device, task_identity(),
                    options_.calibrate.empty() ? "" : " " + read_text(options_.calibrate, kMaxTextBytes)));
    if (!compare_.adapters.empty()) {
      std::string adapters = compare_.identity;
      for (const AdapterChoice& adapter : compare_.adapters) adapters += adapter_identity(adapter);
      compare_.identity = scoring_identity(folder, text, adapters);
    }
    const bool own_work = options_.work.empty();
    CompareWork work(take_work_folder(options_.work, compare_.identity), compare_.identity);
    if (options_.fresh) work.clear();
    if (!tasks_.empty())
      measure.tasks = [this, &tokenizer](const Model& model) { return run_tasks(model, tokenizer); };
    compare_.reference_path = work.reference_path();
    compare_.kept_path = work.layers_path();
    compare_.find = [&work](const std::string& name, FormatMeasurement& found) {
      return work.find(name, found);
    };
    compare_.finished = [&work](const FormatMeasurement& found) { work.add(found); };
    std::vector<TaskResult> plain_tasks;
    compare_.begin = [&](const Model& plain, const PerplexityOptions& scoring) {
      announce(plain, scoring, tokenizer, folder, work);
      plain_tasks = find_plain_tasks(plain, work);
    };
    compare_.make = make_compared_format;
    compare_.prepare = [&](const Format& format, MeasureOptions& own) {
      calibrate_first(format, folder, own);
    };
    compare_.planned = [this](const ComparePlan& plan) { announce(plan); };
    compare_.progress = [this](const CompareProgress& progress) { show(progress); };
    if (const auto ranks = joined_ranks(options_.ranks))
      measure_by_ranks(*ranks, compare_.formats, work, [&](const std::vector<std::string>& formats) {
        CompareOptions own = compare_;
        own.formats = formats;
        return compare(folder, own);
      });
    if (own_work) finished_ = work;
    if (rank_place().rank > 0) return {};
    Comparison result = compare(folder, compare_);
    bar_.finish();
    result.model = options_.model;
    result.text_name = text_name_;
    result.calibration = options_.calibrate;
    result.plain_tasks = std::move(plain_tasks);
    judge(result);
    if (!(options_.report.empty() && options_.figure.empty()) &&
        std::all_of(result.measurements.begin(), result.measurements.end(),
                    [](const FormatMeasurement& m) { return !m.refused.empty(); }))
      throw Error(ErrorCode::kInvalidArgument,
                  fmt::format("nothing to report: {}", result.measurements[0].refused));
    return result;
  }

  // When everything is written: what was kept for another try is not needed any more.
  void forget() noexcept {
    if (finished_) finished_->remove();
  }

 private:
  std::vector<NamedPath> outputs() const {
    std::vector<NamedPath> all{
        {options_.json, "--json"}, {options_.report, "--report"}, {options_.figure, "--figure"}};
    if (!options_.work.empty())
      for (const std::string& name : CompareWork::names())
        all.push_back({options_.work + "/" + name, "--work"});
    return all;
  }
  std::vector<NamedPath> inputs(const std::string& folder) const {
    std::vector<NamedPath> all{{folder}, {options_.text, "--text"}, {options_.calibrate, "--calibrate"}};
    for (const AdapterChoice& adapter : compare_.adapters) all.push_back({adapter.folder, "--lora"});
    for (const std::string& task : options_.tasks)
      all.push_back({task.substr(task.find('=') + 1), "--tasks"});
    return all;
  }

  // Of a format that is calibrated, the matrices and norms that are measured.
  void calibrate_first(const Format& format, const std::string& folder, MeasureOptions& measure) {
    calibrated_ = {};
    measure.prepared = nullptr;
    measure.norms = nullptr;
    const auto* own = dynamic_cast<const CalibratedFormat*>(&format);
    if (own == nullptr) return;
    note("calibrating {}\n", format.name());
    const Clock::time_point begin = Clock::now();
    calibrated_ = own->quantize(folder, options_.calibrate, options_.threads);
    start_ += Clock::now() - begin;  // of the rest
    calibrations_.erase(format.name());
    measure.prepared = [this](const std::string& name) {
      const auto found = calibrated_.tensors.find(name);
      return found == calibrated_.tensors.end() ? nullptr : &found->second;
    };
    measure.norms = [this](const std::string& name) {
      const auto found = calibrated_.norms.find(name);
      return found == calibrated_.norms.end() ? nullptr : &found->second;
    };
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
      own.precision = compare_.measure.precision;
      own.progress = [&](int64_t done, int64_t total) {
        stop_if_interrupted();
        bar_.update(static_cast<uint64_t>(base_),
                    static_cast<uint64_t>(total_) * (compare_.formats.size() + 1),
                    fmt::format("{}, {} {}/{}", current_, task.name, done, total));
      };
      results.push_back(evaluate_task(model, tokenizer, task, own));
    }
    return results;
  }

  // Kept among the finished formats, as if the plain model were one.
  std::vector<TaskResult> find_plain_tasks(const Model& model, CompareWork& work) {
    if (tasks_.empty() || rank_place().rank > 0) return {};
    FormatMeasurement plain;
    if (!work.find("plain", plain)) {
      current_ = plain.name = "plain";
      plain.tasks = compare_.measure.tasks(model);
      work.add(plain);
    }
    return plain.tasks;
  }

  static void stop_if_interrupted() {
    if (interrupted())
      throw Error(ErrorCode::kInterrupted, "interrupted; the same command goes on from the formats done");
  }

  // What will be done, and how long it will take.
  void announce(const Model& plain, const PerplexityOptions& scoring, const Tokenizer& tokenizer,
                const std::string& folder, const CompareWork& work) {
    FormatMeasurement done;
    size_t left = 0;
    for (const std::string& name : compare_.formats) {
      const std::unique_ptr<Format> format = make_compared_format(name);
      if (work.find(format->name(), done)) continue;
      ++left;
      if (const auto* own = dynamic_cast<const CalibratedFormat*>(format.get()))
        calibrations_[format->name()] = own->seconds(folder, options_.calibrate, options_.threads);
    }
    const double calibrating = seconds_of_calibrations();
    // Layer by layer, the first layers tell the time.
    const double scoring_seconds =
        plain.options().stream_layers ? 0 : expected_seconds(plain, scoring, tokenizer, left);
    std::string time;
    if (scoring_seconds > 0) time = ": about " + time_text(scoring_seconds + calibrating);
    if (calibrating > 0)
      time += fmt::format("{} {} for calibration", time.empty() ? ": about" : ", of them",
                          time_text(calibrating));
    note("{} on {} of {}, protocol {} with windows of {}{}{}\n",
         count_of(static_cast<int64_t>(compare_.formats.size()), "format"),
         count_of(std::ssize(tokens_), "token"), one_line(text_name_), options_.protocol, scoring.context,
         time,
         left < compare_.formats.size() ? fmt::format(", {} done already", compare_.formats.size() - left)
                                        : "");
  }

  void announce(const ComparePlan& plan) {
    if (plan.peak_bytes > 0)
      note("{} layer by layer, in about {} MiB of memory{}\n",
           count_of(static_cast<int64_t>(plan.together), "format"), plan.peak_bytes >> 20,
           plan.states_in_file
               ? fmt::format(", {} MiB of hidden states in a temporary file", plan.state_bytes >> 20)
               : "");
    for (const std::string& why : plan.alone) note("on a copy of the whole model, {}\n", why);
    time_told_ = plan.peak_bytes == 0;
    start_ = Clock::now();
  }

  double seconds_of_calibrations() const {
    return std::accumulate(calibrations_.begin(), calibrations_.end(), 0.0,
                           [](double sum, const auto& one) { return sum + one.second; });
  }

  static std::string time_text(double seconds) {
    return seconds < 90 ? count_of(static_cast<int64_t>(std::ceil(seconds)), "second")
                        : count_of(static_cast<int64_t>(std::ceil(seconds / 60)), "minute");
  }

  double expected_seconds(const Model& plain, const PerplexityOptions& scoring, const Tokenizer& tokenizer,
                          size_t left) const {
    // A short piece of the text gives the time that all of it takes.
    const auto piece = std::span<const int32_t>(tokens_).first(
        std::min(tokens_.size(), static_cast<size_t>(2 * scoring.context)));
    perplexity(plain, piece, scoring);  // the first run wakes threads and pages
    const Clock::time_point start = Clock::now();
    perplexity(plain, piece, scoring);
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
    return seconds_since(start) / static_cast<double>(piece.size()) * tokens *
           static_cast<double>(left == 0 ? 0 : left + 1);
  }

  void show(const CompareProgress& progress) {
    stop_if_interrupted();
    current_ = progress.format;
    constexpr double kToldAt = 0.1;
    const double all = static_cast<double>(total_) * static_cast<double>(compare_.formats.size() + 1);
    if (!time_told_ && progress.share >= kToldAt) {
      time_told_ = true;
      const double spent = seconds_since(start_);
      note("about {} left\n",
           time_text(spent / progress.share * (1 - progress.share) + seconds_of_calibrations()));
    }
    base_ = progress.share * all;
    bar_.update(static_cast<uint64_t>(base_), static_cast<uint64_t>(all),
                progress.perplexity > 0 ? fmt::format("{}, perplexity {:.3f}", current_, progress.perplexity)
                                        : current_);
  }

  Comparison compare(const std::string& folder, const CompareOptions& options) const {
    try {
      return compare_formats(folder, tokens_, options);
    } catch (const Error& error) {
      const std::string place = compare_.reference_path.substr(0, compare_.reference_path.rfind('/'));
      if (error.code() != ErrorCode::kIo || std::string_view(error.what()).substr(0, place.size()) != place ||
          std::string_view(error.what()).find("--work") != std::string_view::npos)
        throw;
      throw Error(ErrorCode::kIo, fmt::format("{} (--work FOLDER names another place)", error.what()));
    }
  }

  const Options& options_;
  CompareOptions compare_;
  std::vector<Task> tasks_;
  std::string text_name_;
  Calibration calibrated_;
  std::vector<int32_t> tokens_;
  std::optional<CompareWork> finished_;
  ProgressBar bar_{"compare", "tokens"};
  std::string current_;
  int64_t total_ = 0;
  double base_ = 0;  // tokens done, of all formats
  bool time_told_ = true;
  std::map<std::string, double> calibrations_;  // that are still to be done: estimated seconds
  Clock::time_point start_;
};

void run(const Options& options) {
  catch_interrupts();
  Job job(options);
  const Comparison result = job.run();
  if (rank_place().rank > 0) return job.forget();
  const std::string json = options.json.empty() ? "" : comparison_json(result) + "\n";
  if (!options.report.empty()) write_result_file(options.report, comparison_page(comparison_json(result)));
  if (!options.figure.empty()) write_result_file(options.figure, comparison_figure(result));
  if (!json.empty() && options.json != "-") write_result_file(options.json, json);
  job.forget();
  if (options.json == "-") {
    fmt::print("{}", json);
    return;
  }
  print_comparison(result);
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
      list +
      "  nf4:64:signed:dq:calibrated                  the same chosen by a calibration of level 2 "
      "(:calibrated1, :calibrated3: level 1, 3)\n");
  command
      .add_option("MODEL", options->model,
                  "Model folder (plain) or a name org/model in the Hugging Face cache")
      .required();
  command.add_option("--formats", options->formats, "Formats to compare, separated by commas; see below")
      .list();
  command
      .add_option("--block-sizes", options->block_sizes,
                  "Block sizes of the usual formats, when --formats is not given (64)")
      .list()
      .between(int64_t{16}, int64_t{1} << 30);
  command.add_option("--calibrate", options->calibrate,
                     "Text for calibrated formats, as quantize --calibrate takes it; without it, the general "
                     "one that comes with nfloat");
  command
      .add_option("--lora", options->lora,
                  "Adapter folder beside the model and every format of it; DIR:0.5 counts half; may be "
                  "repeated")
      .one_at_a_time();
  command.add_option("--text", options->text, "Text to score; without it, stories.txt of the embedded model");
  command.add_option("--protocol", options->protocol, "paper, llama.cpp or bos (nfloat perplexity --help)")
      .one_of({"paper", "llama.cpp", "bos"})
      .show_default();
  command.add_option("--context", options->context, "Tokens a window (256, or the model's context)")
      .between(int64_t{2}, int64_t{1} << 27);
  command
      .add_option("--precision", options->precision,
                  "Arithmetic and decoded weights: f32, or bf16 for half the memory")
      .one_of({"f32", "bf16"})
      .show_default();
  command
      .add_option("--tasks", options->tasks,
                  "Tests to score too, as arc-easy=arc_easy.jsonl,piqa=FOLDER (nfloat evaluate --help)")
      .list();
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
  add_rank_timeout(command, options->ranks);
  add_device_option(command, options->device);
  command.callback_of_ranks([options] { run(*options); });
}

}  // namespace nfloat::cli
