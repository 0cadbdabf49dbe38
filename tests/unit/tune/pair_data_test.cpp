// SPDX-License-Identifier: Apache-2.0
// Pairs of answers as rows of tokens: what is trained of them, what is cut, what is refused.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "nfloat/error.h"
#include "nfloat/train_data.h"
#include "support/paths.h"
#include "tune/batch.h"
#include "unit/model/random_model.h"

namespace nfloat {
namespace {

class PairData : public ::testing::Test {
 protected:
  void SetUp() override {
    for (const char* name : {"config.json", "tokenizer.json", "tokenizer_config.json"})
      std::filesystem::copy(testing::source_path("/models/nfloat-tiny/") + name, model());
    write("/chat_template.jinja",
          "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}\n{% endfor %}"
          "{% if add_generation_prompt %}assistant: {% endif %}");
  }
  std::string model() const { return folder_.path(); }
  void write(const std::string& name, const std::string& text) const {
    std::ofstream(folder_.path() + name, std::ios::binary) << text;
  }
  TrainData read(const std::string& lines, int64_t length = 1024) const {
    write("/pairs.jsonl", lines);
    return read_train_data(model() + "/pairs.jsonl", model(), {.length = length, .pairs = true});
  }
  std::vector<std::string> marked(const TrainData& data) const {
    const Tokenizer tokenizer = Tokenizer::load(model());
    std::vector<std::string> texts;
    for (const TrainRow& row : data.rows) texts.push_back(marked_text(tokenizer, row));
    return texts;
  }
  void expect_refused(const std::string& lines, const std::vector<std::string>& words,
                      bool pairs = true) const {
    write("/pairs.jsonl", lines);
    try {
      read_train_data(model() + "/pairs.jsonl", model(), {.pairs = pairs});
      FAIL() << "taken: " << lines;
    } catch (const Error& error) {
      for (const std::string& word : words)
        EXPECT_NE(std::string(error.what()).find(word), std::string::npos) << error.what();
    }
  }
  const testing::OwnFolder folder_;
};

TEST_F(PairData, TextsAreTrainedBehindThePrompt) {
  const TrainData data = read(R"({"prompt": "The sky is", "chosen": " blue.", "rejected": " green."})"
                              "\n"
                              R"({"prompt": "Tom", "chosen": " ran", "rejected": " ran"})"
                              "\n");
  ASSERT_EQ(4u, data.rows.size());
  EXPECT_EQ((std::vector<int64_t>{1, 1, 2, 2}), data.lines);
  EXPECT_EQ((std::vector<int64_t>{2}), data.same);
  const std::vector<std::string> texts = marked(data);
  EXPECT_NE(texts[0].find("The sky is[[ blue."), std::string::npos) << texts[0];
  EXPECT_NE(texts[1].find("The sky is[[ green."), std::string::npos) << texts[1];
  EXPECT_TRUE(texts[0].ends_with("]]")) << texts[0];
  const std::optional<int32_t> end = Tokenizer::load(model()).eos_id();
  for (const TrainRow& row : data.rows) {
    EXPECT_EQ(end, std::optional<int32_t>(row.tokens.back()));
    EXPECT_EQ(end, std::optional<int32_t>(row.labels.back()));
  }
}

TEST_F(PairData, MessagesGoThroughTheChatTemplate) {
  const char* const kPrompt = R"([{"role": "user", "content": "What colour?"}])";
  const std::string blue = R"({"role": "assistant", "content": "Blue"})",
                    green = R"({"role": "assistant", "content": "Green"})";
  const std::string user = std::string(kPrompt).substr(1, std::string(kPrompt).size() - 2);
  const TrainData with = read(std::string("{\"prompt\": ") + kPrompt + ", \"chosen\": [" + blue +
                              "], \"rejected\": [" + green + "]}\n"),
                  without = read("{\"chosen\": [" + user + "," + blue + "], \"rejected\": [" + user + "," +
                                 green + "]}\n");
  ASSERT_EQ(2u, with.rows.size());
  EXPECT_NE(marked(with)[0].find("user: What colour?"), std::string::npos) << marked(with)[0];
  EXPECT_NE(marked(with)[0].find("assistant:[[ Blue"), std::string::npos) << marked(with)[0];
  EXPECT_NE(marked(with)[1].find("assistant:[[ Green"), std::string::npos) << marked(with)[1];
  for (size_t i = 0; i < 2; ++i) {
    EXPECT_EQ(with.rows[i].tokens, without.rows[i].tokens);
    EXPECT_EQ(with.rows[i].labels, without.rows[i].labels);
  }
}

TEST_F(PairData, LongPromptsLoseTheirBeginning) {
  std::string prompt = "Once there was";
  for (int i = 0; i < 40; ++i) prompt += " a dog and";
  const std::string line =
      "{\"prompt\": \"" + prompt + "\", \"chosen\": \" a cat.\", \"rejected\": \" a very big horse.\"}\n";
  const TrainData whole = read(line), cut = read(line, 24),
                  tiny = read(line + R"({"prompt": "It", "chosen": " a", "rejected": " the"})", 4);
  EXPECT_TRUE(whole.cut.empty());
  EXPECT_EQ((std::vector<int64_t>{1}), cut.cut);
  EXPECT_EQ(cut.longest, static_cast<int64_t>(whole.rows[1].tokens.size()));
  const auto labels = [](const TrainRow& row) {
    return std::count_if(row.labels.begin() + 1, row.labels.end(), [](int32_t l) { return l >= 0; });
  };
  std::vector<int64_t> prompts;
  for (size_t i = 0; i < 2; ++i) {
    EXPECT_LE(cut.rows[i].tokens.size(), 24u);
    EXPECT_EQ(whole.rows[i].tokens[0], cut.rows[i].tokens[0]) << "BOS";
    EXPECT_EQ(labels(whole.rows[i]), labels(cut.rows[i])) << "the answers are whole";
    EXPECT_TRUE(
        std::equal(cut.rows[i].tokens.begin() + 1, cut.rows[i].tokens.end(),
                   whole.rows[i].tokens.end() - static_cast<std::ptrdiff_t>(cut.rows[i].tokens.size()) + 1));
    prompts.push_back(static_cast<int64_t>(cut.rows[i].tokens.size()) - labels(cut.rows[i]));
    EXPECT_EQ(4u, tiny.rows[i].tokens.size());
    EXPECT_EQ(2, labels(tiny.rows[i])) << "one token of the prompt stays";
  }
  EXPECT_EQ((std::vector<int64_t>{1}), tiny.cut);
  EXPECT_THROW(read(line, 2), Error) << "no end of an answer is left";
  EXPECT_EQ(24u, cut.rows[1].tokens.size());
  EXPECT_EQ(prompts[0], prompts[1]) << "the same prompt for both";
}

TEST_F(PairData, WhatIsNoPairIsRefusedByItsLine) {
  const std::string good = "{\"prompt\": \"a\", \"chosen\": \" b\", \"rejected\": \" c\"}\n";
  expect_refused(good + "{\"prompt\": \"a\", \"completion\": \"b\"}\n", {":2:", "\"chosen\" is missing"});
  expect_refused("{\"text\": \"a\"}\n", {":1:", "pair of answers"});
  expect_refused("{\"messages\": []}\n", {":1:", "pair of answers"});
  expect_refused("{\"chosen\": \"b\", \"rejected\": \"c\"}\n", {":1:", "\"prompt\" is not a text"});
  expect_refused("{\"prompt\": \"a\", \"chosen\": \"b\"}\n", {":1:", "\"rejected\" is missing"});
  expect_refused(good + "{\"prompt\": \"a\", \"chosen\": \"\", \"rejected\": \"c\"}\n",
                 {":2:", "\"chosen\" is empty"});
  expect_refused("{\"prompt\": \"a\", \"chosen\": \"b\", \"rejected\": \"\"}\n",
                 {":1:", "\"rejected\" is empty"});
  expect_refused("{\"prompt\": \"a\", \"chosen\": \"b\", \"rejected\": \"c\", \"score\": 2}\n",
                 {":1:", "\"score\" is not understood"});
  expect_refused("{\"prompt\": \"a\", \"chosen\": [], \"rejected\": []}\n",
                 {":1:", "\"prompt\" is not a list"});
  const std::string user = R"({"role": "user", "content": "a"})",
                    no = R"({"role": "assistant", "content": ""})",
                    yes = R"({"role": "assistant", "content": "b"})";
  const auto messages = [](const std::string& prompt, const std::string& chosen,
                           const std::string& rejected) {
    return "{\"prompt\": [" + prompt + "], \"chosen\": [" + chosen + "], \"rejected\": [" + rejected + "]}\n";
  };
  expect_refused(messages(user, "", yes), {":1:", "\"chosen\" has no message"});
  expect_refused(messages(user, yes, no), {":1:", "\"rejected\" is empty"});
  expect_refused(messages(user, yes, user), {":1:", "\"rejected\" does not end"});
  expect_refused(messages("", yes, yes), {":1:", "\"prompt\" is not a list of messages"});
  // The other way round: pairs where rows are asked for.
  expect_refused(good, {":1:", "pair of answers", "dpo"}, false);
  write("/pairs.txt", "a text");
  EXPECT_THROW(read_train_data(model() + "/pairs.txt", model(), {.pairs = true}), Error);
}

}  // namespace
}  // namespace nfloat
