// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_CLI_TRAIN_OPTIONS_H_
#define NFLOAT_CLI_TRAIN_OPTIONS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "command_line.h"
#include "model_options.h"
#include "nfloat/train.h"
#include "train_story.h"

namespace nfloat::cli {

// What `nfloat train` is asked for.
struct TrainArguments {
  ModelArguments model;
  std::string data, out, eval, init, loftq, loftq_base, log, dump_gradients;
  std::string schedule = "cosine", warmup = "3%", betas = "0.9,0.999", precision = "f32", recompute = "auto",
              train_on = "answers", loss = "sft";
  std::vector<std::string> targets, learning_rates, rank_pattern, alpha_pattern;
  std::vector<int64_t> layers;
  TrainOptions train;
  TrainStory::Options story;
  double beta = 0;  // 0: the library's
  int64_t loftq_rounds = 1;
  int64_t eval_every = 0, save_every = 0, patience = 0;
  bool pairs() const noexcept { return loss != "sft"; }  // of answers
  bool no_shuffle = false, no_packing = false, resume = false, dry_run = false, overwrite = false;
};

// Declares them.
void add_train_options(const Command& command, TrainArguments& arguments);
// Throws UsageError for options that do not go together.
void check_train_arguments(const TrainArguments& arguments);

// Throws UsageError for what several ranks do not do together.
void check_train_over_ranks(const TrainArguments& arguments);

// Of --loss: sft, dpo or orpo.
TrainObjective train_objective(const std::string& loss) noexcept;
// The same for the library, with the first of the rates. Throws UsageError.
TrainOptions train_options(const TrainArguments& arguments);
// At least one.
std::vector<double> learning_rates(const TrainArguments& arguments);

// "5%" to 0.05; nothing for what is no share. Throws UsageError outside 0% to 100%.
std::optional<double> share(const std::string& text, const char* option);

}  // namespace nfloat::cli

#endif  // NFLOAT_CLI_TRAIN_OPTIONS_H_
