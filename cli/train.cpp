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
#include "nfloat/checkpoint.h"
#include "nfloat/error.h"
#include "nfloat/model.h"
#include "nfloat/text.h"
#include "nfloat/train.h"
#include "nfloat/train_data.h"
#include "notes.h"
#include "progress.h"
#include "table.h"
#include "train_loftq.h"
#include "train_log.h"
#include "train_options.h"
#include "train_outputs.h"
#include "train_story.h"

namespace nfloat::cli {
namespace {

namespace fs = std::filesystem;

using Options = TrainArguments;

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

std::string listed(const std::vector<int64_t>& lines) {
  constexpr size_t kShown = 8;
  std::string text;
  for (size_t i = 0; i < std::min(lines.size(), kShown); ++i)
    text += fmt::format("{}{}", i == 0 ? "" : ", ", lines[i]);
  return lines.size() > kShown ? text + ", ..." : text;
}

// Tokens that a row can have.
int64_t context_of(const std::string& folder) {
  const Checkpoint checkpoint(folder);
  const std::string text = checkpoint.text_file("config.json");
  return text.empty() ? std::numeric_limits<int64_t>::max()
                      : parse_model_config(text, folder + "/config.json").context;
}

class Job {
 public:
  explicit Job(Options& options)
      : options_(options), train_(train_options(options)), rates_(learning_rates(options)) {}

  void run() {
    options_.model.device =
        chosen_device(options_.model.device);  // before data are read and a folder is made
    const std::string folder = model_folder(options_.model.model);
    if (options_.resume && !fs::exists(checkpoint()))
      throw Error(ErrorCode::kNotFound,
                  fmt::format("{}: there is no checkpoint to go on with (--save-every makes them); without "
                              "--resume the run begins anew",
                              checkpoint()));
    expect_train_outputs_apart(options_, folder);
    expect_room_for_loftq_base(options_);
    std::optional<OutputFolder> out;
    const bool writes = rank_place().rank == 0;  // all of them read and compute
    if (!options_.out.empty() && !options_.dry_run && writes) out.emplace(options_);
    train_.length = std::max<int64_t>(2, std::min(train_.length, context_of(folder)));
    const TrainDataOptions how{.train_on = options_.train_on == "all"    ? TrainOn::kAll
                                           : options_.train_on == "last" ? TrainOn::kLast
                                                                         : TrainOn::kAnswers,
                               .length = train_.length,
                               .pairs = options_.pairs()};
    data_ = read_train_data(options_.data, folder, how);
    read_held_out(folder, how);
    show_data(folder);
    options_.model.precision = "f32";
    if (options_.loftq_rounds > 1 && !options_.dry_run) {
      make_loftq_base(options_, train_, folder, data_.rows);
      options_.model.model = options_.loftq_base;
    }
    options_.model.whole = true;
    const Model model = load_model(options_.model);
    train_.threads = model.options().threads;
    train_.ranks = joined_ranks();
    if (rates_.size() > 1) return sweep(model);
    Trainer trainer(model, data_.rows, train_);
    start(trainer, true);
    if (options_.resume) go_on(trainer);
    show_plan(model, trainer);
    if (options_.dry_run) return;
    if (!options_.dump_gradients.empty()) {
      const TrainStep step = trainer.dump_gradients(options_.dump_gradients);
      note("gradients of {} targets, loss {:.6f}, norm {:.6f}, written to {}\n", step.tokens, step.loss,
           step.grad_norm, options_.dump_gradients);
    }
    if (options_.out.empty()) return;
    if (!writes) return follow(trainer);
    options_.story.pairs = options_.pairs();
    TrainStory story(options_.story, model, folder, train_.length);
    train(trainer, model, story);
  }

 private:
  using Clock = std::chrono::steady_clock;

  std::string checkpoint() const { return checkpoint_folder(options_); }
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
    const size_t together = options_.pairs() ? 2 : 1;
    std::vector<TrainRow> rest;
    for (size_t i = 0; i < data_.rows.size(); ++i)
      ((i / together + 1) % every == 0 ? held_out_ : rest).push_back(std::move(data_.rows[i]));
    data_.rows = std::move(rest);
    if (held_out_.empty() || data_.rows.empty())
      throw Error(ErrorCode::kInvalidArgument,
                  fmt::format("{}: too few rows to keep {} of them apart", options_.data, options_.eval));
  }

  // "3 rows", "3 pairs"
  std::string counted(size_t rows) const {
    return options_.pairs() ? count_of(static_cast<int64_t>(rows / 2), "pair")
                            : count_of(static_cast<int64_t>(rows), "row");
  }

  void show_data(const std::string& folder) {
    note("data      {}, {} tokens, {:.1f} % of them trained, the longest {} tokens\n",
         counted(data_.rows.size()), data_.tokens,
         100.0 * static_cast<double>(data_.trained) / static_cast<double>(std::max<int64_t>(1, data_.tokens)),
         data_.longest);
    if (!held_out_.empty()) note("held out  {}\n", counted(held_out_.size()));
    if (!data_.cut.empty())
      note("cut       {} at {} tokens{}: line {}\n",
           count_of(static_cast<int64_t>(data_.cut.size()), options_.pairs() ? "pair" : "row"), train_.length,
           options_.pairs() ? ", at the beginning of prompts first" : "", listed(data_.cut));
    if (!data_.same.empty())
      note("same      {} twice the same answer{}: line {}\n",
           count_of(static_cast<int64_t>(data_.same.size()), "pair"),
           options_.loss == "dpo" ? ", which teaches nothing" : "", listed(data_.same));
    if (!data_.dropped.empty())
      note("dropped   {} with nothing to predict: line {}\n",
           count_of(static_cast<int64_t>(data_.dropped.size()), "row"), listed(data_.dropped));
    if (quiet()) return;
    try {
      const Tokenizer tokenizer = Tokenizer::load(folder);
      note("example   {}\n", one_line(marked_text(tokenizer, data_.rows[0]), 600));
      if (options_.pairs()) note("rejected  {}\n", one_line(marked_text(tokenizer, data_.rows[1]), 600));
    } catch (const Error&) {
      // Rows of token ids need no tokenizer.
    }
  }

  void show_plan(const Model& model, Trainer& trainer) {
    const uint64_t own = trainer.memory_bytes();
    note("adapter   {} trained numbers, {} of {} steps to do\n", trainer.parameters(),
         trainer.total_steps() - trainer.finished_steps(), trainer.total_steps());
    if (const std::string& device = model.options().device; device != "cpu")
      note("device    {} has the model and computes the products with its matrices; all else the CPU\n",
           device_text(device));
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

  // Before the first step; a checkpoint has it.
  void score_reference(Trainer& trainer) const {
    ProgressBar bar("reference", "pairs");
    bool scored = false;
    trainer.compute_reference([&bar, &scored](int64_t done, int64_t total) {
      scored = true;
      if (interrupted()) throw Error(ErrorCode::kInterrupted, "interrupted before the first step");
      bar.update(static_cast<uint64_t>(done), static_cast<uint64_t>(total), "");
    });
    bar.finish();
    if (scored) note("reference {} by the model without its adapter\n", counted(data_.rows.size()));
  }

  double evaluate(Trainer& trainer) const { return held_out_loss(trainer, held_out_, options_.pairs()); }

  // "loss 0.5123, margin 0.4210, 81 % of the pairs right"
  static std::string said(const TrainStep& step) {
    std::string text = fmt::format("loss {:.4f}", step.loss);
    if (const auto& own = step.preference)
      text += fmt::format(", margin {:.4f}, {:.0f} % of the pairs right", own->margin, 100 * own->accuracy);
    return text;
  }

  // Rank 0 evaluates, writes and decides; the others do what it announces.
  static constexpr char kEnd = 0, kStep = 1, kGather = 2;
  void announce(char follows) const {
    if (train_.ranks) train_.ranks->broadcast(&follows, 1);
  }
  void follow(Trainer& trainer) const {
    for (char follows = kStep;;) {
      train_.ranks->broadcast(&follows, 1);
      if (follows == kEnd) return;
      if (follows == kGather)
        trainer.gather_state();
      else
        trainer.step();
    }
  }

  void train(Trainer& trainer, const Model& model, TrainStory& story) {
    TrainLog log(options_.log, options_.resume ? std::optional(trainer.finished_steps()) : std::nullopt,
                 options_.pairs());
    ProgressBar bar("train", "steps");
    catch_interrupts();
    int64_t tokens = 0;
    const bool held = !held_out_.empty();
    if (options_.loss == "dpo" && trainer.finished_steps() < trainer.total_steps()) score_reference(trainer);
    story.before(trainer, held_out_);
    const auto start = Clock::now();
    TrainStep last;
    const auto enough = [&] { return options_.patience > 0 && best_.others >= options_.patience; };
    bool stopped = enough();
    while (trainer.finished_steps() < trainer.total_steps() && !stopped) {
      announce(kStep);
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
                 fmt::format("{}{}, {:.0f} tokens/s", said(last),
                             best_.known() ? fmt::format(" (held out {:.4f})", best_.loss) : std::string(),
                             static_cast<double>(tokens) / seconds));
      const bool save = options_.save_every > 0 && last.step % options_.save_every == 0;
      const bool ended = interrupted();  // asked once: what is said to be saved is
      if (save || ended) {
        announce(kGather);
        trainer.gather_state();
        trainer.save_checkpoint(checkpoint(), base_name(), best_.note(held_out_));
      }
      if (ended) {
        bar.finish();
        throw Error(
            ErrorCode::kInterrupted,
            fmt::format("interrupted after step {}; {} goes on with --resume", last.step, checkpoint()));
      }
    }
    bar.finish();
    announce(kEnd);
    if (!best_.known()) {
      trainer.save_adapter(options_.out, base_name());
      if (held) best_.add(trainer.finished_steps(), evaluate(trainer));
    }
    const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
    fmt::print(
        "trained {} in {:.1f} s, {:.0f} tokens/s, {}{}\n", count_of(trainer.finished_steps(), "step"),
        seconds, static_cast<double>(tokens) / std::max(seconds, 1e-9), said(last),
        held ? fmt::format(", best on the held-out rows {:.4f}{}{}", best_.loss,
                           options_.pairs() ? "" : fmt::format(" (perplexity {:.2f})", std::exp(best_.loss)),
                           stopped ? ", stopped early" : "")
             : std::string());
    fmt::print("adapter in {}\n", printable(options_.out));
    story.after(trainer, options_.out, best_);
    story.write(base_name(), options_.data,
                {{"Trained", fmt::format("{} of {} targets each, {} trained numbers of rank {}",
                                         count_of(trainer.finished_steps(), "step"), last.tokens,
                                         trainer.parameters(), train_.rank)},
                 {"Last step", said(last)},
                 {"Time", fmt::format("{:.1f} s, {:.0f} tokens/s", seconds,
                                      static_cast<double>(tokens) / std::max(seconds, 1e-9))},
                 {"Memory", fmt::format("{} for the model, {} for training",
                                        format_bytes(model.memory().resident_bytes()),
                                        format_bytes(trainer.memory_bytes()))},
                 {"Adapter", options_.out}});
  }

  // With the adapter that the options name; `tell`: with what is to be said of it.
  void start(Trainer& trainer, bool tell) const {
    if (!options_.init.empty())
      if (const std::string missing = trainer.start_from(options_.init); tell && !missing.empty())
        warn(missing);
    if (!options_.loftq.empty()) trainer.start_from_original(model_folder(options_.loftq));
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
      start(trainer, rate == rates_[0]);
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

}  // namespace

void add_train_command(const Command& app) {
  auto options = std::make_shared<Options>();
  const Command command =
      app.add_subcommand("train", "Train a low-rank adapter beside a frozen model (LoRA, QLoRA)");
  command.footer(
      "Examples:\n"
      "  nfloat train ./base-nf4 stories.jsonl --out ./adapter --eval 5% --steps 200 --lr 2e-3\n"
      "  nfloat train ./base-nf4 chats.jsonl --out ./adapter --rank 64 --targets q_proj,v_proj --resume\n"
      "  nfloat train ./base-nf4 stories.jsonl --lr 1e-4,2e-4,4e-4 --steps 50\n"
      "  nfloat train ./base-nf4 pairs.jsonl --out ./adapter --loss dpo --beta 0.1 --lr 5e-5\n"
      "DATA: a .jsonl file with \"text\", \"prompt\" and \"completion\", \"instruction\" and \"output\", "
      "\"messages\",\n"
      "\"conversations\" or \"input_ids\" and \"labels\" in each line; a .txt file; a folder with "
      "train.jsonl.\n"
      "With --loss dpo or orpo: \"prompt\", \"chosen\" and \"rejected\", texts or lists of messages.\n"
      "The adapter is a folder as PEFT writes it. The results do not depend on --threads or --recompute.");
  add_train_options(command, *options);
  command.callback_of_ranks([options] {
    check_train_arguments(*options);
    if (rank_place().count > 1) check_train_over_ranks(*options);
    Job(*options).run();
  });
}

}  // namespace nfloat::cli
