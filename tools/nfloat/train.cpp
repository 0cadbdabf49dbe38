// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <limits>
#include <optional>

#include "best_loss.h"
#include "commands.h"
#include "model_options.h"
#include "nfloat/error.h"
#include "nfloat/text.h"
#include "nfloat/train.h"
#include "nfloat/train_data.h"
#include "notes.h"
#include "progress.h"
#include "table.h"
#include "train_log.h"
#include "train_story.h"

namespace nfloat::cli {
namespace {

namespace fs = std::filesystem;

struct Options {
  ModelArguments model;
  std::string data, out, eval, init, loftq, log, dump_gradients;
  std::string schedule = "cosine", warmup = "3%", betas = "0.9,0.999", precision = "f32", recompute = "auto",
              train_on = "answers";
  std::vector<std::string> targets, learning_rates, rank_pattern, alpha_pattern;
  std::vector<int64_t> layers;
  TrainOptions train;
  TrainStory::Options story;
  int64_t eval_every = 0, save_every = 0, patience = 0;
  bool no_shuffle = false, no_packing = false, resume = false, dry_run = false, overwrite = false;
};

// The folder of the adapter. Of several runs with the same name one makes it; a run that writes nothing into
// it leaves nothing behind.
class OutputFolder {
 public:
  // Throws kAlreadyExists for what is there and is not to be gone on with or replaced, kIo.
  explicit OutputFolder(const Options& options) : path_(options.out) {
    std::error_code error;
    made_ = fs::create_directory(path_, error);
    if (error && !fs::exists(path_))
      throw Error(ErrorCode::kIo, fmt::format("{}: cannot be made: {}", path_, error.message()));
    if (made_) return;
    if (!fs::is_directory(path_))
      throw Error(ErrorCode::kAlreadyExists, fmt::format("{}: is not a folder", path_));
    if (options.resume) return;
    if (!options.overwrite)
      throw Error(ErrorCode::kAlreadyExists,
                  fmt::format("{}: exists already (--overwrite replaces the adapter in it, --resume goes on "
                              "with its checkpoint)",
                              path_));
    if (!fs::is_empty(path_) && !fs::exists(fs::path(path_) / "adapter_config.json") &&
        !fs::exists(fs::path(path_) / "checkpoint"))
      throw Error(ErrorCode::kAlreadyExists,
                  fmt::format("{}: is not the folder of an adapter; only such are replaced", path_));
  }
  OutputFolder(const OutputFolder&) = delete;
  OutputFolder& operator=(const OutputFolder&) = delete;
  ~OutputFolder() {
    std::error_code ignored;
    if (made_) fs::remove(path_, ignored);  // only when it is empty
  }

 private:
  const std::string path_;
  bool made_ = false;
};

double number(const std::string& text, const char* option) {
  size_t end = 0;
  double value = std::numeric_limits<double>::quiet_NaN();
  try {
    value = std::stod(text, &end);
  } catch (const std::exception&) {
    end = 0;
  }
  if (end != text.size() || !std::isfinite(value))
    throw UsageError(fmt::format("{} {}: not a number", option, text));
  return value;
}

std::vector<double> numbers(const std::string& text, const char* option) {
  std::vector<double> values;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(',', begin), text.size());
    values.push_back(number(text.substr(begin, end - begin), option));
    begin = end + 1;
  }
  return values;
}

// "5%" to 0.05; nothing for what is no share.
std::optional<double> share(const std::string& text, const char* option) {
  if (!text.ends_with('%')) return std::nullopt;
  const double value = number(text.substr(0, text.size() - 1), option) / 100;
  if (value < 0 || value > 1) throw UsageError(fmt::format("{} {}: not between 0% and 100%", option, text));
  return value;
}

// "EXPRESSION=NUMBER", the last "=" counting.
std::vector<std::pair<std::string, double>> patterns(const std::vector<std::string>& texts,
                                                     const char* option) {
  std::vector<std::pair<std::string, double>> result;
  for (const std::string& text : texts) {
    const size_t equals = text.rfind('=');
    if (equals == std::string::npos || equals == 0)
      throw UsageError(fmt::format("{} {}: expected EXPRESSION=NUMBER", option, text));
    result.emplace_back(text.substr(0, equals), number(text.substr(equals + 1), option));
  }
  return result;
}

std::string listed(const std::vector<int64_t>& lines) {
  constexpr size_t kShown = 8;
  std::string text;
  for (size_t i = 0; i < std::min(lines.size(), kShown); ++i)
    text += fmt::format("{}{}", i == 0 ? "" : ", ", lines[i]);
  return lines.size() > kShown ? text + ", ..." : text;
}

class Job {
 public:
  explicit Job(Options& options) : options_(options), train_(options.train) {
    train_.targets = options.targets;
    train_.layers = options.layers;
    train_.rank_pattern = patterns(options.rank_pattern, "--rank-pattern");
    train_.alpha_pattern = patterns(options.alpha_pattern, "--alpha-pattern");
    train_.shuffle = !options.no_shuffle;
    train_.packing = !options.no_packing;
    train_.schedule = options.schedule == "linear"   ? TrainSchedule::kLinear
                      : options.schedule == "cosine" ? TrainSchedule::kCosine
                                                     : TrainSchedule::kConstant;
    if (const auto part = share(options.warmup, "--warmup"))
      train_.warmup_share = *part;
    else
      train_.warmup_steps = static_cast<int64_t>(number(options.warmup, "--warmup"));
    const std::vector<double> betas = numbers(options.betas, "--betas");
    if (betas.size() != 2) throw UsageError("--betas takes two numbers, as 0.9,0.999");
    train_.beta1 = betas[0], train_.beta2 = betas[1];
    for (const std::string& rate : options.learning_rates) rates_.push_back(number(rate, "--lr"));
    if (rates_.empty()) rates_.push_back(train_.learning_rate);
    train_.learning_rate = rates_[0];
    train_.bf16 = options.precision == "bf16";
    if (options.recompute != "auto")
      train_.recompute = options.recompute == "none"    ? Recompute::kNone
                         : options.recompute == "cheap" ? Recompute::kCheap
                                                        : Recompute::kFull;
    train_.threads = options.model.threads;
  }

  void run() {
    const std::string folder = model_folder(options_.model.model);
    if (options_.resume && !fs::exists(checkpoint()))
      throw Error(ErrorCode::kNotFound,
                  fmt::format("{}: there is no checkpoint to go on with (--save-every makes them); without "
                              "--resume the run begins anew",
                              checkpoint()));
    std::optional<OutputFolder> out;
    if (!options_.out.empty() && !options_.dry_run) out.emplace(options_);
    const TrainDataOptions how{.train_on = options_.train_on == "all"    ? TrainOn::kAll
                                           : options_.train_on == "last" ? TrainOn::kLast
                                                                         : TrainOn::kAnswers,
                               .length = train_.length};
    data_ = read_train_data(options_.data, folder, how);
    read_held_out(folder, how);
    show_data(folder);
    options_.model.precision = "f32";
    const Model model = load_model(options_.model);
    if (rates_.size() > 1) return sweep(model);
    Trainer trainer(model, data_.rows, train_);
    if (!options_.init.empty()) trainer.start_from(options_.init);
    if (!options_.loftq.empty()) trainer.start_from_original(model_folder(options_.loftq));
    if (options_.resume) go_on(trainer);
    show_plan(model, trainer);
    if (options_.dry_run) return;
    if (!options_.dump_gradients.empty()) {
      const TrainStep step = trainer.dump_gradients(options_.dump_gradients);
      note("gradients of {} targets, loss {:.6f}, norm {:.6f}, written to {}\n", step.tokens, step.loss,
           step.grad_norm, options_.dump_gradients);
    }
    if (options_.out.empty()) return;
    TrainStory story(options_.story, model, folder, train_.length);
    train(trainer, model, story);
  }

 private:
  using Clock = std::chrono::steady_clock;

  std::string checkpoint() const { return (fs::path(options_.out) / "checkpoint").string(); }
  std::string base_name() const { return options_.model.model; }

  void read_held_out(const std::string& folder, TrainDataOptions how) {
    if (options_.eval.empty()) {
      const fs::path valid = fs::path(options_.data) / "valid.jsonl";
      if (fs::is_directory(options_.data) && fs::exists(valid))
        held_out_ = read_train_data(valid.string(), folder, how).rows;
      return;
    }
    const auto part = share(options_.eval, "--eval");
    if (!part) {
      held_out_ = read_train_data(options_.eval, folder, how).rows;
      return;
    }
    // Every n-th row, so that files sorted by anything are met evenly.
    const auto every = static_cast<size_t>(std::max(2.0, std::round(1 / std::max(*part, 1e-9))));
    std::vector<TrainRow> rest;
    for (size_t i = 0; i < data_.rows.size(); ++i)
      ((i + 1) % every == 0 ? held_out_ : rest).push_back(std::move(data_.rows[i]));
    data_.rows = std::move(rest);
    if (held_out_.empty() || data_.rows.empty())
      throw Error(ErrorCode::kInvalidArgument,
                  fmt::format("{}: too few rows to keep {} of them apart", options_.data, options_.eval));
  }

  void show_data(const std::string& folder) {
    note("data      {}, {} tokens, {:.1f} % of them trained, the longest {} tokens\n",
         count_of(static_cast<int64_t>(data_.rows.size()), "row"), data_.tokens,
         100.0 * static_cast<double>(data_.trained) / static_cast<double>(std::max<int64_t>(1, data_.tokens)),
         data_.longest);
    if (!held_out_.empty()) note("held out  {}\n", count_of(static_cast<int64_t>(held_out_.size()), "row"));
    if (!data_.cut.empty())
      note("cut       {} at {} tokens: line {}\n", count_of(static_cast<int64_t>(data_.cut.size()), "row"),
           train_.length, listed(data_.cut));
    if (!data_.dropped.empty())
      note("dropped   {} with nothing to predict: line {}\n",
           count_of(static_cast<int64_t>(data_.dropped.size()), "row"), listed(data_.dropped));
    if (quiet()) return;
    try {
      const std::string text = marked_text(Tokenizer::load(folder), data_.rows[0]);
      note("example   {}\n", one_line(text, 600));
    } catch (const Error&) {
      // Rows of token ids need no tokenizer.
    }
  }

  void show_plan(const Model& model, Trainer& trainer) {
    const uint64_t own = trainer.memory_bytes();
    note("adapter   {} trained numbers, {} of {} steps to do\n", trainer.parameters(),
         trainer.total_steps() - trainer.finished_steps(), trainer.total_steps());
    note("memory    {} for the model, {} for training ({} recomputed)\n",
         format_bytes(model.memory().resident_bytes()), format_bytes(own),
         trainer.recompute() == Recompute::kNone    ? "nothing"
         : trainer.recompute() == Recompute::kCheap ? "norms and activations"
                                                    : "layers");
  }

  // What was the best adapter counts while it is there.
  void go_on(Trainer& trainer) {
    const std::string note = trainer.resume(checkpoint());
    if (fs::exists(fs::path(options_.out) / "adapter_model.safetensors"))
      best_ = BestLoss::of_note(note, held_out_, checkpoint());
  }

  double evaluate(Trainer& trainer) { return trainer.evaluate(held_out_).mean(); }

  void train(Trainer& trainer, const Model& model, TrainStory& story) {
    TrainLog log(options_.log, options_.resume);
    ProgressBar bar("train", "steps");
    catch_interrupts();
    int64_t tokens = 0;
    const bool held = !held_out_.empty();
    story.before(trainer, held_out_);
    const auto start = Clock::now();
    TrainStep last;
    const auto enough = [&] { return options_.patience > 0 && best_.others >= options_.patience; };
    bool stopped = enough();
    while (trainer.finished_steps() < trainer.total_steps() && !stopped) {
      last = trainer.step();
      tokens += last.rows;
      const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
      const bool end = trainer.finished_steps() == trainer.total_steps();
      std::optional<double> held_loss;
      if (held && (end || (options_.eval_every > 0 && last.step % options_.eval_every == 0))) {
        held_loss = evaluate(trainer);
        story.held_out(last.step, *held_loss);
        if (best_.add(last.step, *held_loss)) trainer.save_adapter(options_.out, base_name());
        stopped = enough();
      }
      log.add(last, held_loss);
      story.add(last);
      bar.update(static_cast<uint64_t>(trainer.finished_steps()),
                 static_cast<uint64_t>(trainer.total_steps()),
                 fmt::format("loss {:.4f}{}, {:.0f} tokens/s", last.loss,
                             best_.known() ? fmt::format(" (held out {:.4f})", best_.loss) : std::string(),
                             static_cast<double>(tokens) / seconds));
      const bool save = options_.save_every > 0 && last.step % options_.save_every == 0;
      if (save || interrupted()) trainer.save_checkpoint(checkpoint(), base_name(), best_.note(held_out_));
      if (interrupted()) {
        bar.finish();
        throw Error(
            ErrorCode::kInterrupted,
            fmt::format("interrupted after step {}; {} goes on with --resume", last.step, checkpoint()));
      }
    }
    bar.finish();
    if (!best_.known()) {
      trainer.save_adapter(options_.out, base_name());
      if (held) best_.add(trainer.finished_steps(), evaluate(trainer));
    }
    const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
    fmt::print("trained {} in {:.1f} s, {:.0f} tokens/s, loss {:.4f}{}\n",
               count_of(trainer.finished_steps(), "step"), seconds,
               static_cast<double>(tokens) / std::max(seconds, 1e-9), last.loss,
               held ? fmt::format(", best on the held-out rows {:.4f} (perplexity {:.2f}){}", best_.loss,
                                  std::exp(best_.loss), stopped ? ", stopped early" : "")
                    : std::string());
    fmt::print("adapter in {}\n", printable(options_.out));
    story.after(trainer, options_.out, best_);
    story.write(base_name(), options_.data,
                {{"Trained", fmt::format("{} of {} targets each, {} trained numbers of rank {}",
                                         count_of(trainer.finished_steps(), "step"), last.tokens,
                                         trainer.parameters(), train_.rank)},
                 {"Loss", fmt::format("{:.4f} in the last step", last.loss)},
                 {"Time", fmt::format("{:.1f} s, {:.0f} tokens/s", seconds,
                                      static_cast<double>(tokens) / std::max(seconds, 1e-9))},
                 {"Memory", fmt::format("{} for the model, {} for training",
                                        format_bytes(model.memory().resident_bytes()),
                                        format_bytes(trainer.memory_bytes()))},
                 {"Adapter", options_.out}});
  }

  // The same run with each rate: what they come to, beside one another.
  void sweep(const Model& model) {
    Table table({{"learning rate", Table::Align::kRight},
                 {"loss of the last tenth", Table::Align::kRight},
                 {"held-out loss", Table::Align::kRight}});
    catch_interrupts();
    for (const double rate : rates_) {
      TrainOptions own = train_;
      own.learning_rate = rate;
      Trainer trainer(model, data_.rows, own);
      if (!options_.init.empty()) trainer.start_from(options_.init);
      if (!options_.loftq.empty()) trainer.start_from_original(model_folder(options_.loftq));
      ProgressBar bar(fmt::format("rate {:g}", rate), "steps");
      const int64_t total = trainer.total_steps(), counted = std::max<int64_t>(1, total / 10);
      double sum = 0;
      std::string problem;
      while (trainer.finished_steps() < total && problem.empty()) {
        if (interrupted()) throw Error(ErrorCode::kInterrupted, "interrupted");
        try {
          const TrainStep step = trainer.step();
          if (step.step > total - counted) sum += step.loss;
          bar.update(static_cast<uint64_t>(step.step), static_cast<uint64_t>(total),
                     fmt::format("loss {:.4f}", step.loss));
        } catch (const Error& error) {
          if (error.code() != ErrorCode::kNotFinite) throw;
          problem = "not finite";
        }
      }
      bar.finish();
      table.add({fmt::format("{:g}", rate),
                 problem.empty() ? fmt::format("{:.4f}", sum / static_cast<double>(counted)) : problem,
                 held_out_.empty() || !problem.empty() ? "" : fmt::format("{:.4f}", evaluate(trainer))});
    }
    fmt::print("{}", table.to_string());
  }

  Options& options_;
  TrainOptions train_;
  std::vector<double> rates_;
  TrainData data_;
  std::vector<TrainRow> held_out_;
  BestLoss best_;  // of the adapter that is in the folder; none without held-out rows
};

void check(const Options& options) {
  const bool sweep = options.learning_rates.size() > 1;
  if (options.out.empty() && options.dump_gradients.empty() && !options.dry_run && !sweep)
    throw UsageError("--out is required: the folder of the adapter");
  if (sweep && (!options.out.empty() || options.resume || !options.dump_gradients.empty()))
    throw UsageError("several rates of --lr are compared without --out, --resume and --dump-gradients");
  const TrainStory::Options& story = options.story;
  if (options.out.empty() && !(story.report.empty() && story.samples.empty() && story.also.empty()))
    throw UsageError("--report, --sample and --also go with --out");
  if (options.resume && options.out.empty()) throw UsageError("--resume goes with --out");
  if (options.resume && options.overwrite) throw UsageError("--resume and --overwrite exclude each other");
  if (options.resume && !options.init.empty()) throw UsageError("--resume and --init exclude each other");
  if (!options.loftq.empty() && (options.resume || !options.init.empty()))
    throw UsageError("--loftq starts an adapter: it goes with neither --resume nor --init");
  if (share(options.eval, "--eval").value_or(0) > 0.5)
    throw UsageError(
        fmt::format("--eval {}: at most 50% is held out; the other rows are trained", options.eval));
  if (options.patience > 0 && options.eval_every == 0) throw UsageError("--patience goes with --eval-every");
}

void add_step_options(const Command& command, Options& o) {
  command.add_option("--steps", o.train.steps, "Steps; without it by --epochs").between(0, int64_t{1} << 40);
  command.add_option("--epochs", o.train.epochs, "Passes over the data").above_zero().show_default();
  command.add_option("--lr", o.learning_rates, "Learning rate (0.0002); several: compare them")
      .delimiter(',');
  command.add_option("--lora-plus", o.train.lora_plus, "Rate of B over that of A (LoRA+: 16)").above_zero();
  command.add_option("--schedule", o.schedule, "Of the rate: linear, cosine or constant")
      .one_of({"linear", "cosine", "constant"})
      .show_default();
  command.add_option("--warmup", o.warmup, "Steps in which the rate rises, or their share").show_default();
  command.add_option("--betas", o.betas, "Of AdamW").show_default();
  command.add_option("--epsilon", o.train.epsilon, "Of AdamW").above_zero();
  command.add_option("--weight-decay", o.train.weight_decay, "Of AdamW").at_least_zero();
  command.add_option("--clip", o.train.clip, "Largest norm of all gradients; 0: any")
      .at_least_zero()
      .show_default();
  command.add_option("--seed", o.train.seed, "Of the start, the order and dropout").show_default();
}

void add_batch_options(const Command& command, Options& o) {
  command.add_option("--length", o.train.length, "Tokens of a row, and of a batch packed of rows")
      .between(2, int64_t{1} << 24)
      .show_default();
  command.add_option("--tokens-per-step", o.train.tokens_per_step, "Tokens of a step of packed batches")
      .above_zero()
      .show_default();
  command.add_option("--rows-per-batch", o.train.rows_per_batch, "Rows that go through the model together")
      .above_zero();
  command.add_option("--accumulate", o.train.accumulate, "Batches of a step").above_zero();
  command.add_flag("--no-shuffle", o.no_shuffle, "Take rows in the order of the file");
  command.add_flag("--no-packing", o.no_packing, "A row of the data is a row of a batch");
  command.add_option("--train-on", o.train_on, "answers, all or last")
      .one_of({"answers", "all", "last"})
      .show_default();
}

}  // namespace

void add_train_command(const Command& app) {
  auto options = std::make_shared<Options>();
  Options& o = *options;
  const Command command =
      app.add_subcommand("train", "Train a low-rank adapter beside a frozen model (LoRA, QLoRA)");
  command.footer(
      "Examples:\n"
      "  nfloat train ./base-nf4 stories.jsonl --out ./adapter --eval 5% --steps 200 --lr 2e-3\n"
      "  nfloat train ./base-nf4 chats.jsonl --out ./adapter --rank 64 --targets q_proj,v_proj --resume\n"
      "  nfloat train ./base-nf4 stories.jsonl --lr 1e-4,2e-4,4e-4 --steps 50\n"
      "DATA: a .jsonl file with \"text\", \"prompt\" and \"completion\", \"instruction\" and \"output\", "
      "\"messages\",\n"
      "\"conversations\" or \"input_ids\" and \"labels\" in each line; a .txt file; a folder with "
      "train.jsonl.\n"
      "The adapter is a folder as PEFT writes it. The results do not depend on --threads or --recompute.");
  command.add_option("MODEL", o.model.model, "Model folder, 4-bit or plain").required();
  command.add_option("DATA", o.data, "What to learn").required();
  command.add_option("--out", o.out, "Folder of the adapter");
  command.add_option("--eval", o.eval, "Rows that are held out: a file, or a share such as 5%");
  command.add_option("--eval-every", o.eval_every, "Steps between evaluations").above_zero();
  command.add_option("--patience", o.patience, "Evaluations without a better one that end the run")
      .above_zero();
  command.add_option("--save-every", o.save_every, "Steps between checkpoints").above_zero();
  command.add_flag("--resume", o.resume, "Go on from the checkpoint in --out");
  command.add_option("--init", o.init, "Start from this adapter");
  command.add_option(
      "--loftq", o.loftq,
      "Start from what quantization lost of this plain model, the one that MODEL was made from");
  command.add_option("--rank", o.train.rank, "Of the adapter").between(1, 65536).show_default();
  command.add_option("--alpha", o.train.alpha, "The adapter counts alpha / rank times").show_default();
  command.add_flag("--rslora", o.train.rank_stabilized, "... alpha / sqrt(rank) times");
  command.add_flag("--dora", o.train.dora, "Train the lengths of rows beside their directions (DoRA)");
  command.add_option("--dropout", o.train.dropout, "Of the adapter's inputs")
      .between(0.0, 0.99)
      .show_default();
  command.add_option("--targets", o.targets, "all-linear, ends of names (q_proj,v_proj), or an expression")
      .delimiter(',');
  command.add_option("--layers", o.layers, "Only these layers, from 0").delimiter(',');
  command.add_option("--rank-pattern", o.rank_pattern, "EXPRESSION=RANK of the modules whose names match");
  command.add_option("--alpha-pattern", o.alpha_pattern, "EXPRESSION=ALPHA of the modules whose names match");
  add_step_options(command, o);
  add_batch_options(command, o);
  command.add_option("--precision", o.precision, "Of the products: f32 or bf16")
      .one_of({"f32", "bf16"})
      .show_default();
  command.add_option("--recompute", o.recompute, "none, cheap, full, or auto: by the memory there is")
      .one_of({"auto", "none", "cheap", "full"})
      .show_default();
  command.add_option("--quantize", o.model.quantize, "Quantize a plain model while loading, as nf4:64");
  command.add_option("--threads", o.model.threads, "0: all").between(0, 4096);
  command.add_option("--log", o.log, "File for a line a step, .jsonl or .csv");
  command.add_option("--report", o.story.report, "HTML file with curves, losses and samples (works offline)");
  command.add_option("--sample", o.story.samples, "Text that is continued before and after");
  command.add_option("--also", o.story.also, "A text that is not trained on: its loss before and after");
  command.add_option("--dump-gradients", o.dump_gradients, "File for the gradients of the first step");
  command.add_flag("--overwrite", o.overwrite, "Replace the adapter in --out");
  command.add_flag("--dry-run", o.dry_run, "Say what would be done");
  command.callback([options] {
    check(*options);
    Job(*options).run();
  });
}

}  // namespace nfloat::cli
