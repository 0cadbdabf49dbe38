// SPDX-License-Identifier: Apache-2.0
#include "train_story.h"

#include <cmath>

#include "nfloat/adapter.h"
#include "nfloat/files.h"
#include "nfloat/sampler.h"
#include "nfloat/tokenizer.h"
#include "nfloat/train_data.h"
#include "notes.h"

namespace nfloat::cli {

TrainStory::TrainStory(const Options& options, const Model& model, const std::string& folder, int64_t length)
    : options_(options), model_(model), folder_(folder) {
  if (!options_.report.empty()) expect_writable_file(options_.report);
  if (!options_.also.empty())
    also_ = read_train_data(options_.also, folder, {.train_on = TrainOn::kAll, .length = length}).rows;
}

void TrainStory::before(Trainer& trainer, const std::vector<TrainRow>& held_out) {
  for (const std::string& prompt : options_.samples)
    report_.samples.push_back({prompt, continued(prompt), ""});
  const int64_t step = trainer.finished_steps();
  if (!held_out.empty()) {
    held_out_at_ = report_.losses.size();
    const TrainLoss loss = trainer.evaluate(held_out, false);
    report_.losses.push_back({"held-out rows", {{step, loss.mean()}}});
    note("before    loss {:.4f} on the held-out rows, perplexity {:.2f}\n", loss.mean(),
         std::exp(loss.mean()));
  }
  if (!also_.empty()) {
    also_at_ = report_.losses.size();
    report_.losses.push_back({options_.also, {{step, trainer.evaluate(also_, false).mean()}}});
  }
}

void TrainStory::add(const TrainStep& step) {
  report_.steps.push_back(step);
}

void TrainStory::held_out(int64_t step, double loss) {
  report_.losses[held_out_at_].values.emplace_back(step, loss);
}

void TrainStory::after(Trainer& trainer, const std::string& adapter) {
  if (!also_.empty()) {
    auto& values = report_.losses[also_at_].values;
    values.emplace_back(trainer.finished_steps(), trainer.evaluate(also_).mean());
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
  report_.model = std::move(model);
  report_.data = std::move(data);
  report_.facts = std::move(facts);
  write_result_file(options_.report, train_page(report_));
}

std::string TrainStory::continued(const std::string& prompt) const {
  const Tokenizer tokenizer = Tokenizer::load(folder_);
  std::vector<int32_t> tokens = tokenizer.encode(prompt);
  Session session(model_);
  Sampler sampler({.temperature = 0});
  TokenStream stream(tokenizer);
  stream.skip(tokens);
  std::string text;
  const std::vector<int32_t>& ends = model_.config().eos_tokens;
  std::span<const float> logits = session.prefill(tokens);
  for (int64_t i = 0; i < options_.sample_tokens; ++i) {
    tokens.push_back(sampler.sample(logits, tokens));
    if (std::find(ends.begin(), ends.end(), tokens.back()) != ends.end()) break;
    text += stream.push(tokens.back());
    logits = session.decode(tokens.back());
  }
  return text + stream.flush();
}

}  // namespace nfloat::cli
