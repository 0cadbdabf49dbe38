// SPDX-License-Identifier: Apache-2.0
#include "nfloat/tasks.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmath>
#include <fstream>

#include "nfloat/error.h"
#include "nfloat/sampler.h"
#include "support/paths.h"

namespace nfloat {
namespace {

class Tasks : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = ::testing::TempDir() + "nfloat_tasks_" + std::to_string(::getpid());
    ::mkdir(folder_.c_str(), 0700);
  }
  std::string write(const std::string& name, const std::string& text) {
    const std::string path = folder_ + "/" + name;
    std::ofstream(path, std::ios::binary) << text;
    return path;
  }
  void expect_error(const std::string& task, const std::string& path, const std::vector<std::string>& parts) {
    try {
      load_task(task, path);
      ADD_FAILURE() << task << " " << path << ": no error";
    } catch (const Error& error) {
      for (const std::string& part : parts)
        EXPECT_NE(std::string(error.what()).find(part), std::string::npos)
            << error.what() << " lacks " << part;
    }
  }
  std::string folder_;
};

TEST_F(Tasks, ReadsEachFormat) {
  const Task lambada =
      load_task("lambada", write("l", "{\"text\": \"The caf\u00e9 is blue\"}\n\n{\"text\": \"a b\"}\r\n"));
  ASSERT_EQ(lambada.questions.size(), 2u);
  EXPECT_EQ(lambada.questions[0].options[0].context, "The caf\u00e9 is");
  EXPECT_EQ(lambada.questions[0].options[0].continuation, " blue");
  EXPECT_EQ(lambada.chance, 0);

  const Task arc = load_task(
      "arc-easy",
      write("a", R"({"query": "Question: Why?", "choices": ["so", "\u00e9t\u00e9", "no"], "gold": 1})"));
  ASSERT_EQ(arc.questions[0].options.size(), 3u);
  EXPECT_EQ(arc.questions[0].options[1].context, "Question: Why?\nAnswer:");
  EXPECT_EQ(arc.questions[0].options[1].continuation, " \u00e9t\u00e9");
  EXPECT_EQ(arc.questions[0].options[1].characters, 3);
  EXPECT_EQ(arc.questions[0].gold, 1u);
  EXPECT_NEAR(arc.chance, 1.0 / 3, 1e-15);
  EXPECT_TRUE(arc.normalises);

  write("valid.jsonl",
        "{\"goal\": \"g\", \"sol1\": \"x\", \"sol2\": \"y\"}\n{\"goal\": \"h\", \"sol1\": \"x\", \"sol2\": "
        "\"y\"}\n");
  write("valid-labels.lst", "1\n0\n");
  const Task piqa = load_task("piqa", folder_);
  ASSERT_EQ(piqa.questions.size(), 2u);
  EXPECT_EQ(piqa.questions[0].options[1].context, "Question: g\nAnswer:");
  EXPECT_EQ(piqa.questions[0].gold, 1u);
  EXPECT_EQ(piqa.questions[1].gold, 0u);
  EXPECT_EQ(load_task("piqa", folder_, 1).questions.size(), 1u);

  const Task winogrande = load_task(
      "winogrande", write("w", R"({"context_options": ["Ann", "Bea"], "continuation": "won. ", "gold": 0})"));
  EXPECT_EQ(winogrande.questions[0].options[1].context, "Bea");
  EXPECT_EQ(winogrande.questions[0].options[1].continuation, " won.");
  EXPECT_FALSE(winogrande.normalises);

  const Task hellaswag = load_task(
      "hellaswag",
      write(
          "h",
          R"({"activity_label": "Baking", "ctx_a": "[header] How to bake [title] Mix.", "ctx_b": "then HE", "endings": ["eats. [step] Good", "b", "c", "d"], "label": "2"})"));
  EXPECT_EQ(hellaswag.questions[0].options[0].context, "Baking: How to bake. Mix. Then he");
  EXPECT_EQ(hellaswag.questions[0].options[0].continuation, " eats. Good");
  EXPECT_EQ(hellaswag.questions[0].gold, 2u);
}

TEST_F(Tasks, MalformedLinesAreNamed) {
  const std::string good = R"({"query": "q", "choices": ["a", "b"], "gold": 1})";
  const auto arc = [&](const std::string& line) { return write("bad", good + "\n" + line + "\n" + good); };
  expect_error("arc-easy", arc("{\"query\": "), {"bad", "line 2", "JSON"});
  expect_error("arc-easy", arc("[1]"), {"line 2", "object"});
  expect_error("arc-easy", arc(R"({"query": "q", "query": "r", "choices": ["a", "b"], "gold": 1})"),
               {"line 2", "two members", "query"});
  expect_error("arc-easy", arc(R"({"query": "q", "gold": 1})"), {"line 2", "choices"});
  expect_error("arc-easy", arc(R"({"query": 3, "choices": ["a", "b"], "gold": 1})"),
               {"line 2", "query", "number"});
  expect_error("arc-easy", arc(R"({"query": "q", "choices": ["a"], "gold": 0})"), {"line 2", "choices"});
  expect_error("arc-easy", arc(R"({"query": "q", "choices": ["a", "b"], "gold": 2})"),
               {"line 2", "gold", "2"});
  expect_error("arc-easy", arc("{\"query\": \"\xff\", \"choices\": [\"a\", \"b\"], \"gold\": 0}"),
               {"line 2"});
  expect_error("lambada", write("one", "{\"text\": \"word\"}"), {"line 1", "word"});
  expect_error("lambada", write("none", "\n"), {"no questions"});
  expect_error("lambada", folder_, {"folder"});
  expect_error("lambada", folder_ + "/absent", {"absent"});
  expect_error("mmlu", folder_, {"mmlu", "hellaswag"});
  write("valid.jsonl", "{\"goal\": \"g\", \"sol1\": \"x\", \"sol2\": \"y\"}\n");
  write("valid-labels.lst", "");
  expect_error("piqa", folder_, {"valid-labels.lst", "0 labels for 1"});
  write("valid-labels.lst", "1\n1\n");
  expect_error("piqa", folder_, {"valid-labels.lst", "line 2"});
  write("valid-labels.lst", "yes\n");
  expect_error("piqa", folder_, {"line 1", "yes"});
  expect_error("piqa", folder_ + "/bad", {"folder"});
}

TEST_F(Tasks, ScoresAreTheModelsLikelihoods) {
  const std::string path = testing::source_path("/models/nfloat-tiny");
  ModelOptions load;
  load.precision = Precision::kF32;
  const Model model = Model::load(path, load);
  const Tokenizer tokenizer = Tokenizer::load(path);
  const auto likelihood = [&](const std::string& context, const std::string& end) {
    const std::vector<int32_t> whole = tokenizer.encode(context + end, EncodeOptions{false, false});
    const size_t split = tokenizer.encode(context, EncodeOptions{false, false}).size();
    Session session(model);
    session.prefill(std::span(whole).first(split));
    double sum = 0;
    for (size_t i = split; i < whole.size(); ++i) {
      sum += log_probability(session.logits(), whole[i]);
      session.decode(whole[i]);
    }
    return sum;
  };
  const std::string context = "The king sat on his";
  Task task{"lambada", {}, false, 0};
  task.questions.push_back({{{context, " throne", 6}}, 0});
  const TaskResult word = evaluate_task(model, tokenizer, task);
  EXPECT_NEAR(std::log(word.perplexity.value()), -likelihood(context, " throne"), 1e-4);
  EXPECT_EQ(word.questions, 1);

  // The gold answer is the likelier one in the first question and the less likely one in the second.
  const double longer = likelihood(context, " throne and looked at the sea."),
               brief = likelihood(context, " cup");
  Task two{"arc-easy", {}, true, 0.5};
  const std::vector<TaskOption> options = {{context, " throne and looked at the sea.", 29},
                                           {context, " cup", 3}};
  two.questions.push_back({options, longer > brief ? 0u : 1u});
  two.questions.push_back({options, longer > brief ? 1u : 0u});
  two.questions.push_back({options, longer / 29 > brief / 3 ? 0u : 1u});
  int64_t seen = 0;
  TaskOptions own;
  own.progress = [&](int64_t done, int64_t total) {
    EXPECT_EQ(total, 3);
    seen = done;
  };
  const TaskResult result = evaluate_task(model, tokenizer, two, own);
  EXPECT_EQ(seen, 3);
  const bool agree = (longer > brief) == (longer / 29 > brief / 3);
  EXPECT_NEAR(result.accuracy, agree ? 2.0 / 3 : 1.0 / 3, 1e-12);
  EXPECT_NEAR(result.normalised_accuracy.value(), 2.0 / 3, 1e-12);
  EXPECT_NEAR(result.accuracy_error, std::sqrt(result.accuracy * (1 - result.accuracy) / 2), 1e-12);
  EXPECT_LT(result.low, result.accuracy);
  EXPECT_GT(result.high, result.accuracy);
  EXPECT_THROW(evaluate_task(model, tokenizer, Task{}), Error);
}

}  // namespace
}  // namespace nfloat
