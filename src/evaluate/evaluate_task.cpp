// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>

#include "base/fail.h"
#include "evaluate/scoring.h"
#include "nfloat/sampler.h"
#include "nfloat/tasks.h"

namespace nfloat {
namespace {

// What the model says about one option.
struct Score {
  double log_likelihood = 0;
  int64_t tokens = 0;
  bool greedy = true;  // every token was the most likely one
};

std::vector<int32_t> encoded(const Tokenizer& tokenizer, const std::string& text) {
  return tokenizer.encode(text, EncodeOptions{false, false});
}

// Context and continuation are cut where the context alone would end, as the harness does it: spaces at the
// end of a context belong to the continuation.
Window window_of(const Tokenizer& tokenizer, const TaskOption& option, const ModelConfig& config,
                 const TaskOptions& options) {
  const size_t end = option.context.find_last_not_of(' ') + 1;  // 0 where there is none
  const std::string context = option.context.substr(0, end);
  std::vector<int32_t> whole = encoded(tokenizer, context + option.context.substr(end) + option.continuation);
  size_t split = std::min(encoded(tokenizer, context).size(), whole.size());
  for (const int32_t token : whole)
    if (token < 0 || token >= config.vocabulary)
      fail(ErrorCode::kInvalidArgument, "the tokenizer gives the id {}, the model's vocabulary has {}", token,
           config.vocabulary);
  // Gemma reads nothing well without BOS; the harness always puts it there.
  if (options.add_bos || split == 0 || config.family.starts_with("gemma")) {
    const int32_t bos = config.bos_token >= 0 ? config.bos_token : tokenizer.bos_id().value_or(-1);
    if (bos < 0) fail(ErrorCode::kInvalidArgument, "a BOS token is needed and this model names none");
    whole.insert(whole.begin(), bos);
    ++split;
  }
  if (split == whole.size())
    fail(ErrorCode::kInvalidArgument, "the answer \"{}\" adds no token of its own", option.continuation);
  const auto most = static_cast<size_t>(config.context) + 1;
  if (whole.size() > most) {
    const size_t cut = whole.size() - most;
    whole.erase(whole.begin(), whole.begin() + static_cast<int64_t>(cut));
    split = split > cut ? split - cut : 1;
  }
  Window window;
  window.input.assign(whole.begin(), whole.end() - 1);
  window.targets.assign(whole.begin() + 1, whole.end());
  window.first = static_cast<int64_t>(split) - 1;
  return window;
}

template <typename Key>
size_t best_of(size_t count, Key&& key) {
  size_t best = 0;
  for (size_t i = 1; i < count; ++i)
    if (key(i) > key(best)) best = i;
  return best;
}

// Of a mean of zeros and ones, as the harness takes it.
double standard_error(double share, double count) {
  return count > 1 ? std::sqrt(share * (1 - share) / (count - 1)) : 0;
}

}  // namespace

TaskResult evaluate_task(const Model& model, const Tokenizer& tokenizer, const Task& task,
                         const TaskOptions& options) {
  if (task.questions.empty()) fail(ErrorCode::kInvalidArgument, "{}: no questions", task.name);
  std::vector<Window> windows;
  for (const TaskQuestion& question : task.questions)
    for (const TaskOption& option : question.options)
      windows.push_back(window_of(tokenizer, option, model.config(), options));
  std::vector<Score> scores(windows.size());
  SequenceRunner runner(
      model, {.precision = options.precision, .expect_finite = true, .cancelled = options.cancelled});
  size_t done = 0, question = 0, of_question = 0;
  for (const WindowBatch& batch : cut_batches(model, windows)) {
    visit_windows(runner, batch, [&](size_t entry, int64_t index, std::span<const float> logits) {
      const Window& window = batch[entry];
      if (index < window.first) return;
      const int32_t target = window.targets[static_cast<size_t>(index)];
      Score& score = scores[done + entry];
      score.log_likelihood += log_probability(logits, target);
      ++score.tokens;
      score.greedy =
          score.greedy && std::max_element(logits.begin(), logits.end()) - logits.begin() == target;
    });
    done += batch.size();
    while (question < task.questions.size() && of_question + task.questions[question].options.size() <= done)
      of_question += task.questions[question++].options.size();
    if (options.progress)
      options.progress(static_cast<int64_t>(question), static_cast<int64_t>(task.questions.size()));
  }

  TaskResult result;
  result.name = task.name;
  result.questions = static_cast<int64_t>(task.questions.size());
  result.chance = task.chance;
  const auto count = static_cast<double>(task.questions.size());
  double right = 0, normalised = 0, loss = 0;
  int64_t tokens = 0;
  const Score* score = scores.data();
  for (const TaskQuestion& q : task.questions) {
    if (q.options.size() == 1) {
      right += score->greedy ? 1 : 0;
      loss -= score->log_likelihood;
      ++tokens;
    } else {
      right += best_of(q.options.size(), [&](size_t i) { return score[i].log_likelihood; }) == q.gold ? 1 : 0;
      const size_t best = best_of(q.options.size(), [&](size_t i) {
        return score[i].log_likelihood / static_cast<double>(q.options[i].characters);
      });
      normalised += best == q.gold ? 1 : 0;
    }
    score += q.options.size();
  }
  result.accuracy = right / count;
  result.accuracy_error = standard_error(result.accuracy, count);
  constexpr double kZ = 1.959963984540054;
  const double p = result.accuracy, z2 = kZ * kZ / count;
  const double middle = (p + z2 / 2) / (1 + z2),
               half = kZ / (1 + z2) * std::sqrt(p * (1 - p) / count + z2 / count / 4);
  result.low = middle - half;
  result.high = middle + half;
  if (task.normalises) {
    result.normalised_accuracy = normalised / count;
    result.normalised_error = standard_error(normalised / count, count);
  }
  if (tokens > 0) result.perplexity = std::exp(loss / static_cast<double>(tokens));
  return result;
}

}  // namespace nfloat
