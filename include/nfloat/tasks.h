// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_TASKS_H_
#define NFLOAT_TASKS_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "nfloat/api.h"
#include "nfloat/model.h"
#include "nfloat/tokenizer.h"

// Tests with known answers, scored by likelihood as EleutherAI's lm-evaluation-harness does it.
namespace nfloat {

// One possible answer, scored by the probability of `continuation` after `context`.
struct TaskOption {
  std::string context, continuation;
  int64_t characters = 0;  // of the answer, for the length-normalised accuracy
};

struct TaskQuestion {
  std::vector<TaskOption> options;  // one: right if every token of it is the most likely one
  size_t gold = 0;
};

struct Task {
  std::string name;
  std::vector<TaskQuestion> questions;
  bool normalises = false;  // whether length-normalised accuracy is defined for it
  double chance = 0;        // accuracy of guessing, over these questions
};

// "lambada", "arc-easy", "piqa", "winogrande", "hellaswag".
NFLOAT_API std::vector<std::string> task_names();

// Questions from a file, one JSON object a line:
//   lambada     {"text"}: the last word is to be guessed
//   arc-easy    {"query", "choices", "gold"}
//   piqa        a folder with valid.jsonl {"goal", "sol1", "sol2"} and valid-labels.lst, a number a line
//   winogrande  {"context_options", "continuation", "gold"}
//   hellaswag   {"activity_label", "ctx_a", "ctx_b", "endings", "label"}
// `limit`: the first so many, 0 all. Throws kNotFound, kIo, kMalformedFile naming file, line and field.
NFLOAT_API Task load_task(std::string_view name, const std::string& path, int64_t limit = 0);

struct TaskOptions {
  bool add_bos = false;  // before each context; the default of the harness is false
  std::optional<Precision> precision = std::nullopt;
  // Called with questions done and in all; may throw to cancel.
  std::function<void(int64_t, int64_t)> progress = nullptr;
  // Looked at before each layer; true ends the call with kInterrupted.
  std::function<bool()> cancelled = nullptr;
};

struct TaskResult {
  std::string name;
  int64_t questions = 0;
  double accuracy = 0, accuracy_error = 0;    // standard errors as the harness takes them
  double low = 0, high = 0;                   // Wilson's 95 % interval of the accuracy
  std::optional<double> normalised_accuracy;  // of log-likelihoods over the characters of the answer
  double normalised_error = 0;
  std::optional<double> perplexity;  // of the answers, where there is one option
  double chance = 0;
};

// Contexts that are too long are cut at their beginning. Throws kInvalidArgument for a task without questions
// or a vocabulary smaller than the tokenizer's ids.
NFLOAT_API TaskResult evaluate_task(const Model& model, const Tokenizer& tokenizer, const Task& task,
                                    const TaskOptions& options = {});

}  // namespace nfloat

#endif  // NFLOAT_TASKS_H_
