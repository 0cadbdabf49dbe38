// SPDX-License-Identifier: Apache-2.0
#include "train_options.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "commands.h"
#include "nfloat/error.h"
#include "numbers.h"

namespace nfloat::cli {
namespace {

double number(std::string_view text, const char* option) {
  const auto value = parse_number<double>(text);
  if (!value || !std::isfinite(*value)) throw UsageError(fmt::format("{} {}: not a number", option, text));
  return *value;
}

std::vector<double> numbers(const std::string& text, const char* option) {
  std::vector<double> values;
  for (const std::string_view part : split_at_commas(text)) {
    if (part.empty())
      throw UsageError(fmt::format("{} {}: has an empty value beside its commas", option, text));
    values.push_back(number(part, option));
  }
  return values;
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
void add_step_options(const Command& command, TrainArguments& o) {
  command.add_option("--steps", o.train.steps, "Steps; without it by --epochs").between(0, int64_t{1} << 40);
  command.add_option("--epochs", o.train.epochs, "Passes over the data").above_zero().show_default();
  command.add_option("--lr", o.learning_rates, "Learning rate (0.0002); several: compare them").list();
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

void add_batch_options(const Command& command, TrainArguments& o) {
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

std::optional<double> share(const std::string& text, const char* option) {
  if (!text.ends_with('%')) return std::nullopt;
  const double value = number(text.substr(0, text.size() - 1), option) / 100;
  if (value < 0 || value > 1) throw UsageError(fmt::format("{} {}: not between 0% and 100%", option, text));
  return value;
}

std::vector<double> learning_rates(const TrainArguments& options) {
  std::vector<double> rates;
  for (const std::string& rate : options.learning_rates) rates.push_back(number(rate, "--lr"));
  if (rates.empty()) rates.push_back(options.train.learning_rate);
  return rates;
}

TrainObjective train_objective(const std::string& loss) noexcept {
  return loss == "dpo"    ? TrainObjective::kDpo
         : loss == "orpo" ? TrainObjective::kOrpo
                          : TrainObjective::kTokens;
}

TrainOptions train_options(const TrainArguments& options) {
  TrainOptions result = options.train;
  result.objective = train_objective(options.loss);
  if (options.beta > 0) result.beta = options.beta;
  result.targets = options.targets;
  result.layers = options.layers;
  result.rank_pattern = patterns(options.rank_pattern, "--rank-pattern");
  result.alpha_pattern = patterns(options.alpha_pattern, "--alpha-pattern");
  result.shuffle = !options.no_shuffle;
  result.packing = !options.no_packing;
  result.schedule = options.schedule == "linear"   ? TrainSchedule::kLinear
                    : options.schedule == "cosine" ? TrainSchedule::kCosine
                                                   : TrainSchedule::kConstant;
  if (const auto part = share(options.warmup, "--warmup"))
    result.warmup_share = *part;
  else
    result.warmup_steps = static_cast<int64_t>(number(options.warmup, "--warmup"));
  const std::vector<double> betas = numbers(options.betas, "--betas");
  if (betas.size() != 2) throw UsageError("--betas takes two numbers, as 0.9,0.999");
  result.beta1 = betas[0], result.beta2 = betas[1];
  result.learning_rate = learning_rates(options)[0];
  result.bf16 = options.precision == "bf16";
  if (options.recompute != "auto")
    result.recompute = options.recompute == "none"    ? Recompute::kNone
                       : options.recompute == "cheap" ? Recompute::kCheap
                                                      : Recompute::kFull;
  result.threads = options.model.threads;
  return result;
}

void check_train_over_ranks(const TrainArguments& options) {
  const auto refuse = [](const char* what) {
    throw UsageError(fmt::format("train: {} not done by several ranks", what));
  };
  if (options.pairs()) refuse("--loss dpo and orpo are");
  if (options.learning_rates.size() > 1) refuse("several rates of --lr are");
  if (!options.dump_gradients.empty()) refuse("--dump-gradients is");
  if (options.loftq_rounds > 1) refuse("--loftq-rounds 2 and more are");
}

void check_train_arguments(const TrainArguments& options) {
  const bool sweep = options.learning_rates.size() > 1;
  if (options.out.empty() && options.dump_gradients.empty() && !options.dry_run && !sweep)
    throw UsageError("--out is required: the folder of the adapter");
  if (sweep && (!options.out.empty() || options.resume || !options.dump_gradients.empty()))
    throw UsageError("several rates of --lr are compared without --out, --resume and --dump-gradients");
  const TrainStory::Options& story = options.story;
  if (options.out.empty() && !(story.report.empty() && story.samples.empty() && story.also.empty()))
    throw UsageError("--report, --sample and --also go with --out");
  if (options.out.empty() && !options.dry_run && (!options.log.empty() || options.save_every > 0))
    throw UsageError("--log and --save-every go with --out");
  if (!options.pairs() && (options.beta > 0 || options.train.label_smoothing > 0))
    throw UsageError("--beta and --label-smoothing go with --loss dpo (--beta also with orpo)");
  if (options.loss == "orpo" && options.train.label_smoothing > 0)
    throw UsageError("--label-smoothing goes with --loss dpo");
  if (options.pairs() && options.train_on != "answers")
    throw UsageError("--train-on is for rows to learn as they are: of pairs the answers count");
  if (options.resume && options.out.empty()) throw UsageError("--resume goes with --out");
  if (options.resume && options.overwrite) throw UsageError("--resume and --overwrite exclude each other");
  if (options.resume && !options.init.empty()) throw UsageError("--resume and --init exclude each other");
  if (!options.loftq.empty() && (options.resume || !options.init.empty()))
    throw UsageError("--loftq starts an adapter: it goes with neither --resume nor --init");
  if (options.loftq.empty() && (options.loftq_rounds > 1 || !options.loftq_base.empty()))
    throw UsageError("--loftq-rounds and --loftq-base go with --loftq");
  if ((options.loftq_rounds > 1) == options.loftq_base.empty())
    throw UsageError(
        "--loftq-rounds 2 and more change the 4-bit weights: --loftq-base names the folder of the new model");
  if (options.loftq_rounds > 1 && options.train.dora)
    throw UsageError("--loftq-rounds and --dora exclude each other: an adapter with DoRA is no sum");
  if (share(options.eval, "--eval").value_or(0) > 0.5)
    throw UsageError(
        fmt::format("--eval {}: at most 50% is held out; the other rows are trained", options.eval));
  if (options.patience > 0 && options.eval_every == 0) throw UsageError("--patience goes with --eval-every");
}

void add_train_options(const Command& command, TrainArguments& o) {
  command.add_option("MODEL", o.model.model, "Model folder, 4-bit or plain").required();
  command.add_option("DATA", o.data, "What to learn").required();
  command.add_option("--out", o.out, "Folder of the adapter");
  command
      .add_option("--loss", o.loss,
                  "sft: of the rows' tokens; of pairs \"prompt\", \"chosen\", \"rejected\": dpo or orpo")
      .one_of({"sft", "dpo", "orpo"})
      .show_default();
  command
      .add_option("--beta,--lambda", o.beta,
                  "dpo: how much the model without the adapter holds; orpo: weight of the odds ratio (0.1)")
      .above_zero();
  command
      .add_option("--label-smoothing", o.train.label_smoothing,
                  "dpo: share of pairs taken to be the wrong way round")
      .between(0.0, 0.49);
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
  command
      .add_option("--loftq-rounds", o.loftq_rounds,
                  "From 2 on: quantize what the start leaves of the plain model, fit it anew, and so on")
      .between(1, 100)
      .show_default();
  command.add_option("--loftq-base", o.loftq_base,
                     "Folder of the 4-bit model that these rounds make, and train");
  command.add_option("--rank", o.train.rank, "Of the adapter").between(1, 65536).show_default();
  command.add_option("--alpha", o.train.alpha, "The adapter counts alpha / rank times").show_default();
  command.add_flag("--rslora", o.train.rank_stabilized, "... alpha / sqrt(rank) times");
  command.add_flag("--dora", o.train.dora, "Train the lengths of rows beside their directions (DoRA)");
  command.add_option("--dropout", o.train.dropout, "Of the adapter's inputs")
      .between(0.0, 0.99)
      .show_default();
  command.add_option("--targets", o.targets, "all-linear, ends of names (q_proj,v_proj), or an expression")
      .list();
  command.add_option("--layers", o.layers, "Only these layers, from 0").list();
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
  o.model.ranks.timeout = kLongestRankWait;
  add_rank_timeout(command, o.model.ranks);
  command.add_option("--device", o.model.device,
                     "Where the model is and the products with its matrices run: cpu, cuda, cuda:N, vulkan, "
                     "vulkan:N, or auto: the first card, else the CPU. All else is computed on the CPU");
  command.add_option("--log", o.log, "File for a line a step, .jsonl or .csv");
  command.add_option("--report", o.story.report, "HTML file with curves, losses and samples (works offline)");
  command.add_option("--sample", o.story.samples, "Text that is continued before and after");
  command.add_option("--also", o.story.also, "A text that is not trained on: its loss before and after");
  command.add_option("--dump-gradients", o.dump_gradients, "File for the gradients of the first step");
  command.add_flag("--overwrite", o.overwrite, "Replace the adapter in --out");
  command.add_flag("--dry-run", o.dry_run, "Say what would be done");
}

}  // namespace nfloat::cli
