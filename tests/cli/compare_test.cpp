// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cmath>
#include <cstdlib>

#include "base/json.h"
#include "cli/process.h"

namespace nfloat::cli_test {
namespace {

using Compare = Cli;

TEST_F(Compare, MeasuresRecommendsAndGoesOn) {
  const std::string stories = read_file(model() + "/stories.txt");
  write_file(path("text"), stories.substr(0, 2000));
  std::vector<std::string> command{"compare",         model(),  "--text",  path("text"), "--formats",
                                   "nf4,q8_0,nf4:64", "--work", path("w"), "--json",     path("json")};
  const Result first = nfloat(command);
  ASSERT_TRUE(first.ok()) << first;
  EXPECT_NE(first.err.find("2 formats on"), std::string::npos) << first;
  EXPECT_NE(first.out.find("Recommendation: nf4:64,"), std::string::npos) << first;
  EXPECT_NE(first.out.find("nfloat quantize"), std::string::npos) << first;
  const Json json = Json::parse(read_file(path("json")));
  ASSERT_EQ(json["formats"].size(), 2u);
  const Json &nf4 = json["formats"][0], &q8 = json["formats"][1];
  EXPECT_GT(nf4["divergence"]["mean_kl"].get<double>(), q8["divergence"]["mean_kl"].get<double>());
  EXPECT_LT(nf4["model_bytes"].get<double>(), q8["model_bytes"].get<double>());
  EXPECT_TRUE(nf4["pareto"].get<bool>());
  EXPECT_TRUE(q8["pareto"].get<bool>());
  // A finished format is not run again; a line that was changed or torn is passed over.
  std::string lines = read_file(path("w") + "/formats.jsonl");
  const size_t place = lines.find("\"perplexity\":{\"perplexity\":");
  ASSERT_NE(place, std::string::npos);
  lines.insert(place + 27, "1");
  write_file(path("w") + "/formats.jsonl", lines + "{\"name\": \"q8_");
  command[5] = "nf4,q8_0,mxfp4";
  const Result second = nfloat(command);
  ASSERT_TRUE(second.ok()) << second;
  const Json again = Json::parse(read_file(path("json")));
  ASSERT_EQ(again["formats"].size(), 3u);
  EXPECT_NE(second.err.find("1 done already"), std::string::npos) << second;
  EXPECT_EQ(again["formats"][0]["perplexity"], nf4["perplexity"]);
  EXPECT_EQ(again["formats"][1], q8);
  command.push_back("--fresh");
  ASSERT_TRUE(nfloat(command).ok());
  EXPECT_EQ(Json::parse(read_file(path("json")))["formats"][0]["perplexity"], nf4["perplexity"]);
}

TEST_F(Compare, TheTimeOfACalibrationCounts) {
  const std::string stories = read_file(model() + "/stories.txt");
  write_file(path("text"), stories.substr(0, 1500));
  write_file(path("other.txt"), stories.substr(1500, 6000));
  for (const bool calibrates : {true, false}) {
    const Result result =
        nfloat({"compare", model(), "--text", path("text"), "--calibrate", path("other.txt"), "--formats",
                calibrates ? "nf4:64:signed:dq:calibrated1" : "nf4", "--json", "-", "--work",
                path(calibrates ? "a" : "b")});
    ASSERT_TRUE(result.ok()) << result;
    EXPECT_EQ(result.err.find(" for calibration\n") != std::string::npos, calibrates) << result;
  }
}

TEST_F(Compare, LimitsDecide) {
  write_file(path("text"), read_file(model() + "/stories.txt").substr(0, 1500));
  const auto recommended = [&](const std::vector<std::string>& more) {
    std::vector<std::string> command{"compare",  model(),  "--text",  path("text"), "--formats",
                                     "nf4,q8_0", "--work", path("w"), "--json",     "-"};
    command.insert(command.end(), more.begin(), more.end());
    const Result result = nfloat(command);
    EXPECT_TRUE(result.ok()) << result;
    return Json::parse(result.out)["recommendation"]["format"];
  };
  EXPECT_EQ(recommended({"--report", path("report.html"), "--figure", path("bars.svg")}), "nf4:64");
  EXPECT_NE(read_file(path("bars.svg")).find("nf4:64, 4.50 bits"), std::string::npos);
  const std::string page = read_file(path("report.html"));
  for (const char* part : {"\"limit\"", "\"quantiles\":[[", "\"sweep\":{\"best\":0.936", "\"name\":\"q8_0\""})
    EXPECT_NE(page.find(part), std::string::npos) << part;
  EXPECT_EQ(recommended({"--budget", "10 MB"}), "q8_0");
  EXPECT_EQ(recommended({"--budget", "5MB"}), "nf4:64");
  EXPECT_EQ(recommended({"--max-divergence", "0.001"}), "q8_0");
  EXPECT_EQ(recommended({"--max-divergence", "0.001", "--budget", "5MB"}), nullptr);
}

TEST_F(Compare, RecommendsWhatItsUserCanHave) {
  write_file(path("text"), read_file(model() + "/stories.txt").substr(0, 1500));
  const auto recommendation = [&](const std::string& reader) {
    const Result result =
        nfloat({"compare", model(), "--text", path("text"), "--formats", "nf4,nf4:32:dq,bof4-s:32,q4_k,mxfp4",
                "--work", path("w"), "--json", "-", "--for", reader});
    EXPECT_TRUE(result.ok()) << result;
    return Json::parse(result.out);
  };
  const struct {
    const char *reader, *command;
  } kCases[] = {{"nfloat", " OUT.gguf --type q4_k"},
                {"llama.cpp", " OUT.gguf --type q4_k"},
                {"transformers", " OUT --format nf4 --block-size 64"}};
  for (const auto& one : kCases) {
    const Json json = recommendation(one.reader);
    const Json& found = json.at("recommendation");
    EXPECT_EQ(found.at("for"), one.reader);
    const std::string command = found.at("command").get<std::string>();
    EXPECT_TRUE(command.ends_with(one.command)) << one.reader << ": " << command;
    for (const Json& format : json.at("formats"))
      if (format.at("name") == "mxfp4" || format.at("name") == "bof4-s:32") {
        EXPECT_EQ(format.at("command"), nullptr);
      }
  }
  // q4_k is better than nf4, and Transformers does not load it here.
  EXPECT_EQ(recommendation("transformers").at("recommendation").at("out_of_reach"), "q4_k");
  EXPECT_EQ(nfloat({"compare", model(), "--for", "ollama"}).exit_code, 2);
}

TEST_F(Compare, BadInputIsNamed) {
  write_file(path("empty"), " \n");
  write_file(path("latin1"), "caf\xe9 au lait");
  const auto with = [&](const std::vector<std::string>& more) {
    std::vector<std::string> command{"compare", model(), "--formats", "nf4", "--work", path("w")};
    command.insert(command.end(), more.begin(), more.end());
    return nfloat(command);
  };
  expect_complaint(with({"--text", path("empty")}), {"empty"});
  expect_complaint(with({"--text", path("latin1")}), {"latin1", "byte 3", "UTF-8"});
  expect_complaint(with({"--text", path("absent")}), {"absent"});
  write_file(path("short"), "One word");
  expect_complaint(with({"--text", path("short"), "--protocol", "paper"}), {"tokens", "window", "256"});
  expect_complaint(with({"--json", path("no/such/folder.json")}), {"no/such"});
  expect_complaint(with({"--report", path("no/such/report.html")}), {"no/such"});
  // A report that cannot be written after all loses nothing: the next run finds the formats done.
  write_file(path("text"), read_file(model() + "/stories.txt").substr(0, 800));
  ASSERT_EQ(::setenv("XDG_CACHE_HOME", path("cache").c_str(), 1), 0);
  const std::vector<std::string> start{"compare", model(), "--formats", "nf4", "--text", path("text")};
  std::vector<std::string> onto_full = start;
  onto_full.insert(onto_full.end(), {"--report", "/dev/stdout"});
  Limits full;
  full.standard_output = "/dev/full";
  const Result refused = nfloat(onto_full, full);
  EXPECT_EQ(refused.exit_code, 1);
  EXPECT_NE(refused.err.find("/dev/stdout: cannot write"), std::string::npos) << refused;
  ASSERT_EQ(::mkdir(path("taken").c_str(), 0700), 0);
  expect_complaint(with({"--report", path("taken")}), {"taken", "is a folder"});
  const Result after = nfloat(start);
  ::unsetenv("XDG_CACHE_HOME");
  EXPECT_NE(after.err.find("1 done already"), std::string::npos) << after;
  expect_complaint(nfloat({"compare", model(), "--formats", "nf4,zf4"}), {"zf4", "iq4_nl"});
  ASSERT_TRUE(nfloat({"quantize", model(), path("packed")}).ok());
  expect_complaint(nfloat({"compare", path("packed"), "--formats", "nf4"}), {"packed", "already quantized"});
  ASSERT_TRUE(nfloat({"convert", model(), path("packed.gguf"), "--type", "q4_0"}).ok());
  expect_complaint(nfloat({"compare", path("packed.gguf"), "--formats", "nf4"}), {"packed.gguf", "original"});
  expect_complaint(with({"--tasks", "arc-easy=" + path("latin1")}), {"latin1", "line 1"});
  EXPECT_EQ(with({"--tasks", "arc-easy"}).exit_code, 2);
  EXPECT_EQ(with({"--budget", "much"}).exit_code, 2);
}

TEST_F(Compare, TasksAreScoredWithEveryFormat) {
  write_file(path("text"), read_file(model() + "/stories.txt").substr(0, 1000));
  write_file(
      path("arc"),
      "{\"query\": \"Question: What is blue?\", \"choices\": [\"the sky\", \"of of of\"], \"gold\": 0}\n");
  const std::vector<std::string> command{
      "compare",  model(),  "--text",  path("text"), "--formats",
      "nf4,q8_0", "--work", path("w"), "--tasks",    "arc-easy=" + path("arc"),
      "--json",   "-"};
  const Result first = nfloat(command);
  ASSERT_TRUE(first.ok()) << first;
  const Json json = Json::parse(first.out);
  EXPECT_EQ(json["plain_tasks"][0]["accuracy"], 1.0);
  EXPECT_EQ(json["formats"][1]["tasks"][0]["task"], "arc-easy");
  const Json again = Json::parse(nfloat(command).out);
  EXPECT_EQ(again["formats"], json["formats"]);
  EXPECT_EQ(again["plain_tasks"], json["plain_tasks"]);
}

TEST_F(Compare, AdaptersAreBesideTheModelAndEveryFormat) {
  write_file(path("text"), read_file(model() + "/stories.txt").substr(0, 1200));
  write_file(path("rows.jsonl"), "{\"text\": \"Tom had a red ball. He lost it.\"}\n");
  for (const char* seed : {"1", "2"}) {
    const Result trained =
        nfloat({"train", model(), path("rows.jsonl"), "--out", path("adapter") + seed, "--steps", "6", "--lr",
                "2e-3", "--schedule", "constant", "--rank", "4", "--seed", seed});
    ASSERT_TRUE(trained.ok()) << trained;
  }
  const std::string one = path("adapter1"), two = path("adapter2") + ":-0.5";
  const auto compared = [&](const std::vector<std::string>& more) {
    std::vector<std::string> command{"compare",  model(),  "--text",  path("text"), "--formats",
                                     "nf4,q8_0", "--work", path("w"), "--json",     "-"};
    command.insert(command.end(), more.begin(), more.end());
    const Result result = nfloat(command);
    EXPECT_TRUE(result.ok()) << result;
    return result.ok() ? Json::parse(result.out) : Json();
  };
  const auto scored = [&](const std::vector<std::string>& more) {
    std::vector<std::string> command{"perplexity", model(), "--text", path("text"),  "--protocol", "bos",
                                     "--context",  "256",   "--json", "--precision", "f32"};
    command.insert(command.end(), more.begin(), more.end());
    const Result result = nfloat(command);
    EXPECT_TRUE(result.ok()) << result;
    return result.ok() ? Json::parse(result.out)["perplexity"].get<double>() : 0.0;
  };
  const Json alone = compared({}), with = compared({"--lora", one}),
             both = compared({"--lora", one, "--lora", two, "--report", path("report.html")});
  const auto plain = [](const Json& json) { return json["plain"]["perplexity"].get<double>(); };
  const auto nf4 = [](const Json& json) {
    return json["formats"][0]["perplexity"]["perplexity"].get<double>();
  };
  EXPECT_GT(std::fabs(plain(with) / plain(alone) - 1), 1e-3);
  EXPECT_NEAR(plain(with) / scored({"--lora", one}), 1, 1e-5);
  EXPECT_NEAR(plain(both) / scored({"--lora", one, "--lora", two}), 1, 1e-5);
  EXPECT_NEAR(nf4(with) / scored({"--lora", one, "--quantize", "nf4:64"}), 1, 1e-5);
  EXPECT_NEAR(nf4(both) / scored({"--lora", one, "--lora", two, "--quantize", "nf4:64"}), 1, 1e-5);
  // Against the adapted original, the base's format is as near as against the original without.
  const auto kl = [](const Json& json) { return json["formats"][0]["divergence"]["mean_kl"].get<double>(); };
  EXPECT_LT(kl(with), 2 * kl(alone));
  EXPECT_EQ(with["formats"][0]["model_bytes"], alone["formats"][0]["model_bytes"]);
  EXPECT_TRUE(alone["adapters"].empty());
  ASSERT_EQ(both["adapters"].size(), 2u);
  EXPECT_EQ(both["adapters"][1]["adapter"], path("adapter2"));
  EXPECT_EQ(both["adapters"][1]["weight"], -0.5);
  EXPECT_NE(both["findings"][0].get<std::string>().find("adapter2 times -0.5 beside"), std::string::npos);
  EXPECT_NE(read_file(path("report.html")).find("adapter2 times -0.5 beside"), std::string::npos);
  expect_complaint(nfloat({"compare", model(), "--formats", "nf4", "--lora", path("absent")}), {"absent"});
  EXPECT_EQ(nfloat({"compare", model(), "--formats", "nf4", "--lora", one + ":1e9"}).exit_code, 2);
}

TEST_F(Compare, AnalyzeDescribesEveryTensor) {
  const Result result = nfloat({"analyze", model(), "--json", "--only", "layers.0", "--codes", "nf4,int4"});
  ASSERT_TRUE(result.ok()) << result;
  const Json json = Json::parse(result.out);
  ASSERT_EQ(json["tensors"].size(), 7u);
  double elements = 0;
  for (const Json& tensor : json["tensors"]) {
    elements += tensor["elements"].get<double>();
    EXPECT_EQ(tensor["codes"].size(), 2u);
    if (!tensor["fit"]["accepted"].get<bool>()) continue;
    for (const Json& code : tensor["codes"])
      EXPECT_NEAR(code["predicted"].get<double>() / code["measured"].get<double>(), 1, 0.05) << tensor;
  }
  EXPECT_EQ(json["total"]["elements"], elements);
  EXPECT_NEAR(json["total"]["codes"][0]["measured"].get<double>(), .0085, .0002);
  const Result table = nfloat({"analyze", model(), "--only", "layers.1.mlp"});
  EXPECT_NE(table.out.find("all 3 tensors"), std::string::npos) << table;
  EXPECT_NE(table.out.find("Outliers in 1 of 3 tensors:\n  model.layers.1.mlp.down_proj"), std::string::npos)
      << table;
  expect_complaint(nfloat({"analyze", model(), "--codes", "nf9"}), {"nf9"});
  expect_complaint(nfloat({"analyze", model(), "--codes", "nf5"}), {"nf5", "16"});
  expect_complaint(nfloat({"analyze", model(), "--only", "nothing"}), {"no tensor"});
}

TEST_F(Compare, PerplexityAgainstTheOriginal) {
  write_file(path("text"), read_file(model() + "/stories.txt").substr(0, 3000));
  const std::vector<std::string> command{
      "perplexity",        model(),       "--quantize", "nf4:64", "--text",      path("text"),
      "--protocol",        "bos",         "--context",  "128",    "--reference", model(),
      "--reference-cache", path("cache"), "--json"};
  const Result first = nfloat(command);
  ASSERT_TRUE(first.ok()) << first;
  EXPECT_NE(first.err.find("cache"), std::string::npos) << first;
  const Json json = Json::parse(first.out);
  EXPECT_GT(json["perplexity"].get<double>(), json["reference"]["perplexity"].get<double>());
  for (const char* field : {"mean_kl", "median_kl", "kl_99", "max_kl", "rms_delta_p", "log_perplexity_ratio"})
    EXPECT_GT(json["divergence"][field].get<double>(), 0) << field;
  const Result second = nfloat(command);
  ASSERT_TRUE(second.ok()) << second;
  EXPECT_EQ(second.err.find("cache"), std::string::npos) << second;
  EXPECT_EQ(Json::parse(second.out), json);
  expect_complaint(nfloat({"perplexity", model(), "--text", path("text"), "--reference", path("absent")}),
                   {"absent"});
  write_file(path("latin1"), "caf\xe9 au lait");
  expect_complaint(nfloat({"perplexity", model(), "--text", path("latin1")}), {"latin1", "byte 3", "UTF-8"});
  EXPECT_EQ(nfloat({"perplexity", model(), "--text", path("text"), "--reference-cache", path("c")}).exit_code,
            2);
}

TEST_F(Compare, EvaluateScoresTasks) {
  write_file(
      path("arc"),
      "{\"query\": \"Question: What is blue?\", \"choices\": [\"the sky\", \"of of of\"], \"gold\": 0}\n");
  const Result result = nfloat({"evaluate", model(), "--task", "arc-easy", "--data", path("arc"), "--json"});
  ASSERT_TRUE(result.ok()) << result;
  const Json task = Json::parse(result.out)["tasks"][0];
  EXPECT_EQ(task["accuracy"], 1.0);
  EXPECT_EQ(task["normalised_accuracy"], 1.0);
  EXPECT_EQ(task["chance"], 0.5);
  write_file(path("rows.jsonl"), "{\"text\": \"of of of of of\"}\n");
  ASSERT_TRUE(nfloat({"train", model(), path("rows.jsonl"), "--out", path("adapter"), "--steps", "20", "--lr",
                      "1e-2", "--schedule", "constant", "--rank", "4"})
                  .ok());
  const Result adapted = nfloat({"evaluate", model(), "--task", "arc-easy", "--data", path("arc"), "--json",
                                 "--lora", path("adapter") + ":1.0"});
  ASSERT_TRUE(adapted.ok()) << adapted;
  EXPECT_EQ(Json::parse(adapted.out)["tasks"][0]["accuracy"], 0.0);
  write_file(path("bad"), "{\"text\": \"two words\"}\n{\"text\": 3}\n");
  expect_complaint(nfloat({"evaluate", model(), "--task", "lambada", "--data", path("bad")}),
                   {"bad", "line 2", "text"});
  EXPECT_EQ(nfloat({"evaluate", model(), "--task", "piqa"}).exit_code, 2);
}

}  // namespace
}  // namespace nfloat::cli_test
