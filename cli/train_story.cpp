// SPDX-License-Identifier: Apache-2.0
#include "train_story.h"

#include <cmath>

#include "nfloat/adapter.h"
#include "nfloat/error.h"
#include "nfloat/files.h"
#include "nfloat/generate.h"
#include "nfloat/train_data.h"
#include "notes.h"

namespace nfloat::cli {

double held_out_loss(Trainer& trainer, const std::vector<TrainRow>& rows, bool pairs, bool with_adapter) {
  return pairs ? trainer.evaluate_pairs(rows, with_adapter).loss
               : trainer.evaluate(rows, with_adapter).mean();
}

TrainStory::TrainStory(const Options& options, const Model& model, const std::string& folder, int64_t length)
    : options_(options), model_(model) {
  if (!options_.report.empty()) expect_writable_file(options_.report);
  if (!options_.also.empty())
    also_ = read_train_data(options_.also, folder, {.train_on = TrainOn::kAll, .length = length}).rows;
  if (options_.samples.empty()) return;
  tokenizer_ = Tokenizer::load(folder);
  const int64_t context = Session(model_).context();
  for (const std::string& prompt : options_.samples)
    if (const int64_t tokens = std::ssize(tokenizer_->encode(prompt)); tokens < 1 || tokens > context)
      throw Error(ErrorCode::kInvalidArgument,
                  fmt::format("--sample \"{}\": has {}, expected 1 to {}, the context", one_line(prompt, 40),
                              count_of(tokens, "token"), context));
}

void TrainStory::before(Trainer& trainer, const std::vector<TrainRow>& held_out) {
  for (const std::string& prompt : options_.samples)
    report_.samples.push_back({prompt, continued(prompt), ""});
  const int64_t step = trainer.finished_steps();
  if (!held_out.empty()) {
    held_out_at_ = report_.losses.size();
    const double loss = held_out_loss(trainer, held_out, options_.pairs, false);
    report_.losses.push_back({.name = "held-out rows", .values = {{step, loss}}, .pairs = options_.pairs});
    note("before    loss {:.4f} on the held-out rows{}\n", loss,
         options_.pairs ? "" : fmt::format(", perplexity {:.2f}", std::exp(loss)));
  }
  if (!also_.empty()) {
    also_at_ = report_.losses.size();
    report_.losses.push_back(
        {.name = options_.also, .values = {{step, trainer.evaluate(also_, false).mean()}}});
  }
}

void TrainStory::add(const TrainStep& step) {
  report_.steps.push_back(step);
}

void TrainStory::held_out(int64_t step, double loss) {
  report_.losses[held_out_at_].values.emplace_back(step, loss);
}

void TrainStory::after(Trainer& trainer, const std::string& adapter, const BestLoss& best) {
  const int64_t step = best.known() ? best.step : trainer.finished_steps();
  if (best.known()) report_.losses[held_out_at_].of_adapter = best.loss;
  if (!also_.empty()) {
    if (step != trainer.finished_steps()) trainer.start_from(adapter);
    auto& values = report_.losses[also_at_].values;
    values.emplace_back(step, trainer.evaluate(also_).mean());
    fmt::print("{}: loss {:.4f} before, {:.4f} after\n", printable(options_.also), values.front().second,
               values.back().second);
  }
  if (report_.samples.empty()) return;
  attach_adapters(model_, {{adapter}});
  for (TrainReport::Sample& sample : report_.samples) {
    sample.after = continued(sample.prompt);
    fmt::print("before: {}{}\nafter:  {}{}\n", printable(sample.prompt), one_line(sample.before),
               printable(sample.prompt), one_line(sample.after));
  }
  attach_adapters(model_, {});
}

void TrainStory::write(std::string model, std::string data,
                       std::vector<std::pair<std::string, std::string>> facts) {
  if (options_.report.empty()) return;
  if (report_.steps.empty()) {
    note("{}: not written, for all steps were done before\n", printable(options_.report));
    return;
  }
  report_.model = std::move(model);
  report_.data = std::move(data);
  report_.facts = std::move(facts);
  write_result_file(options_.report, train_page(report_));
}

std::string TrainStory::continued(const std::string& prompt) const {
  TokenSequence sequence{Session(model_)};
  Sampler sampler({.temperature = 0});
  Generation generation(sequence, *tokenizer_, sampler, tokenizer_->encode(prompt),
                        {.max_tokens = options_.sample_tokens, .end_tokens = model_.config().eos_tokens});
  std::string text;
  while (const auto piece = generation.next()) text += piece->text;
  return text;
}

}  // namespace nfloat::cli
