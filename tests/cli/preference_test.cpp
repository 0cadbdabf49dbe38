// SPDX-License-Identifier: Apache-2.0
// `nfloat train --loss dpo|orpo`: pairs of answers in, an adapter out.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "base/json.h"
#include "cli/process.h"

namespace nfloat::cli_test {
namespace {

class Preference : public Cli {
 protected:
  std::string pairs() const {
    const std::string file = path("pairs.jsonl");
    std::string lines;
    const char* const kAnswers[][3] = {{"The cat", " sat on the mat.", " ate of of the."},
                                       {"Tom had", " a red ball.", " had had a."},
                                       {"A little bird", " sang in the tree.", " sang in the tree."},
                                       {"Once there was", " a small dog.", " was small."},
                                       {"Mia baked", " a cake for her friend.", " and the of."},
                                       {"The sun", " was warm and bright.", " the sun the."}};
    for (const auto& [prompt, chosen, rejected] : kAnswers)
      lines += Json{{"prompt", prompt}, {"chosen", chosen}, {"rejected", rejected}}.dump() + "\n";
    write_file(file, lines);
    return file;
  }
  Result train(const std::string& loss, std::vector<std::string> more) const {
    std::vector<std::string> arguments{"train",  model(),      pairs(),    "--quantize", "nf4",
                                       "--loss", loss,         "--lr",     "2e-3",       "--rank",
                                       "4",      "--schedule", "constant", "--threads",  "2"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return nfloat(arguments);
  }
};

TEST_F(Preference, DpoPrefersAndSaysSo) {
  write_file(path("also.txt"), "It was a dark and stormy night.");
  const Result result =
      train("dpo", {"--out", path("adapter"), "--steps", "12", "--log", path("log.jsonl"), "--eval", "34%",
                    "--also", path("also.txt"), "--report", path("page.html"), "--label-smoothing", "0.05"});
  ASSERT_TRUE(result.ok()) << result;
  for (const char* part : {"4 pairs,", "held out  2 pairs",
                           "same      1 pair twice the same answer, which teaches "
                           "nothing: line 3",
                           "example   <|begin_of_text|>The cat[[ sat on the mat.",
                           "rejected  <|begin_of_text|>The cat[[ ate of of the.", "reference 4 pairs"})
    EXPECT_NE(result.err.find(part), std::string::npos) << part << '\n' << result;
  EXPECT_NE(result.out.find("of the pairs right"), std::string::npos) << result;
  EXPECT_NE(result.out.find("also.txt: loss"), std::string::npos) << result;
  EXPECT_EQ(result.out.find("perplexity"), std::string::npos) << result;
  const std::vector<std::string> log = read_lines(path("log.jsonl"));
  ASSERT_EQ(12u, log.size());
  const Json first = Json::parse(log.front()), last = Json::parse(log.back());
  EXPECT_NEAR(first.at("loss").get<double>(), std::log(2.0), 1e-6);
  EXPECT_EQ(first.at("pairs").get<int>(), 4);
  EXPECT_NEAR(first.at("reward_margin").get<double>(), 0, 1e-6);
  EXPECT_GT(last.at("reward_margin").get<double>(), 0.1);
  EXPECT_GE(last.at("accuracy").get<double>(), 0.75);
  EXPECT_LT(last.at("loss").get<double>(), first.at("loss").get<double>());
  EXPECT_GT(last.at("logp_chosen").get<double>() - last.at("logp_rejected").get<double>(),
            first.at("logp_chosen").get<double>() - first.at("logp_rejected").get<double>());
  EXPECT_TRUE(last.contains("held_out_loss"));
  const std::string page = read_file(path("page.html"));
  for (const char* part : {"Reward margin", "Accuracy", "Log-probability of the answers", "held-out rows"})
    EXPECT_NE(page.find(part), std::string::npos) << part;
}

TEST_F(Preference, RunsGoOnWhereTheyWereStopped) {
  for (const char* loss : {"dpo", "orpo"}) {
    const auto out = [&](const std::string& name) { return path(loss + name); };
    const std::vector<std::string> steps{"--steps",          "6", "--save-every", "4",  "--no-packing",
                                         "--rows-per-batch", "2", "--dropout",    "0.1"};
    const auto run = [&](const std::string& name, const std::vector<std::string>& more) {
      std::vector<std::string> all = steps;
      all.insert(all.end(), {"--out", out(name)});
      all.insert(all.end(), more.begin(), more.end());
      return train(loss, all);
    };
    ASSERT_TRUE(run("straight", {"--log", out("log.csv")}).ok());
    const std::vector<std::string> log = read_lines(out("log.csv"));
    ASSERT_EQ(7u, log.size());
    EXPECT_TRUE(log[0].ends_with("held_out_loss,pairs,reward_margin,accuracy,logp_chosen,logp_rejected"));
    EXPECT_EQ(std::count(log[0].begin(), log[0].end(), ','), std::count(log[1].begin(), log[1].end(), ','));
    std::filesystem::create_directories(out("resumed"));
    std::filesystem::copy(out("straight") + "/checkpoint", out("resumed") + "/checkpoint",
                          std::filesystem::copy_options::recursive);
    const Result resumed = run("resumed", {"--resume"});
    ASSERT_TRUE(resumed.ok()) << resumed;
    EXPECT_EQ(read_file(out("straight") + "/adapter_model.safetensors"),
              read_file(out("resumed") + "/adapter_model.safetensors"));
    const Result other = run("resumed", {"--resume", "--beta", "0.7"});
    EXPECT_NE(other.err.find("\"beta\" was 0.1"), std::string::npos) << other;
  }
}

TEST_F(Preference, WhatDoesNotGoTogetherIsRefused) {
  write_file(path("rows.jsonl"), "{\"text\": \"a\"}\n");
  const auto with = [&](const std::string& data, const std::vector<std::string>& more) {
    std::vector<std::string> arguments{"train", model(), data, "--out", path("out")};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return nfloat(arguments);
  };
  expect_complaint(with(path("rows.jsonl"), {"--loss", "dpo"}), {"rows.jsonl:1", "\"chosen\" is missing"});
  expect_complaint(with(pairs(), {}), {"pairs.jsonl:1", "pair of answers", "dpo"});
  EXPECT_EQ(2, with(pairs(), {"--loss", "kto"}).exit_code);
  EXPECT_EQ(2, with(path("rows.jsonl"), {"--beta", "0.2"}).exit_code);
  EXPECT_EQ(2, with(pairs(), {"--loss", "orpo", "--label-smoothing", "0.1"}).exit_code);
  EXPECT_EQ(2, with(pairs(), {"--loss", "dpo", "--train-on", "all"}).exit_code);
  EXPECT_EQ(2, with(pairs(), {"--loss", "dpo", "--beta", "0"}).exit_code);
  EXPECT_FALSE(std::filesystem::exists(path("out")));
}

TEST_F(Preference, PlanCountsBothAnswers) {
  const auto tokens = [&](const std::string& loss) {
    const Result result = nfloat({"plan", model(), "--train", "--length", "128", "--loss", loss, "--json"});
    EXPECT_TRUE(result.ok()) << result;
    return Json::parse(result.out).at("tokens").get<int64_t>();
  };
  EXPECT_EQ(128, tokens("sft"));
  EXPECT_EQ(256, tokens("dpo"));
  EXPECT_EQ(256, tokens("orpo"));
}

}  // namespace
}  // namespace nfloat::cli_test
