// SPDX-License-Identifier: Apache-2.0
// `nfloat train`: data in, an adapter out.
#include <gtest/gtest.h>

#include <sys/stat.h>

#include <filesystem>
#include <iterator>
#include <sstream>

#include "base/json.h"
#include "cli/process.h"
#include "nfloat/checkpoint.h"

namespace nfloat::cli_test {
namespace {

class Train : public Cli {
 protected:
  std::string stories() const {
    const std::string file = path("stories.jsonl");
    std::string lines;
    for (const char* text :
         {"The cat sat on the mat.", "Tom had a red ball. He lost it.", "A little bird sang in the tree.",
          "Once there was a small dog named Max.", "Mia baked a cake for her friend."})
      lines += Json{{"text", text}}.dump() + "\n";
    write_file(file, lines);
    return file;
  }
  static std::vector<Json> log_lines(const std::string& file) {
    std::vector<Json> lines;
    for (const std::string& line : read_lines(file)) lines.push_back(Json::parse(line));
    return lines;
  }
  Result train(std::vector<std::string> more) const {
    std::vector<std::string> arguments{"train", model(), stories(), "--quantize", "nf4", "--threads", "2"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return nfloat(arguments);
  }
};

TEST_F(Train, WritesAnAdapterThatConvertReads) {
  const Result result = train({"--out", path("adapter"), "--steps", "3", "--rank", "4", "--lr", "1e-3",
                               "--log", path("log.jsonl"), "--schedule", "linear", "--warmup", "1"});
  ASSERT_TRUE(result.ok()) << result;
  EXPECT_NE(result.out.find("trained 3 steps"), std::string::npos) << result;
  EXPECT_NE(result.err.find("[[The cat sat on the mat."), std::string::npos) << result;
  const std::vector<Json> log = log_lines(path("log.jsonl"));
  ASSERT_EQ(3u, log.size());
  for (size_t i = 0; i < log.size(); ++i) {
    EXPECT_EQ(i + 1, log[i].at("step").get<size_t>());
    EXPECT_GT(log[i].at("loss").get<double>(), 0);
    EXPECT_GT(log[i].at("grad_norm").get<double>(), 0);
    EXPECT_GT(log[i].at("tokens").get<int64_t>(), 0);
  }
  EXPECT_EQ(0, log[0].at("learning_rate").get<double>());
  EXPECT_LT(log[2].at("loss").get<double>(), log[0].at("loss").get<double>());
  const Json config = Json::parse(read_file(path("adapter/adapter_config.json")));
  EXPECT_EQ(4, config.at("r").get<int>());
  EXPECT_EQ(7u, config.at("target_modules").size());
  const Checkpoint file(path("adapter/adapter_model.safetensors"));
  EXPECT_EQ(84u, file.tensors().size());
  EXPECT_NE(nullptr, file.find("base_model.model.model.layers.5.mlp.down_proj.lora_B.weight"));
  // The text that the adapter has seen surprises the model less with it.
  write_file(path("text.txt"), "The cat sat on the mat. Tom had a red ball. He lost it.");
  const std::vector<std::string> score{"perplexity", model(), "--text", path("text.txt"),
                                       "--protocol", "bos",   "--json"};
  std::vector<std::string> beside = score;
  beside.insert(beside.end(), {"--lora", path("adapter")});
  const Result without = nfloat(score), with = nfloat(beside);
  ASSERT_TRUE(without.ok() && with.ok()) << without << with;
  EXPECT_LT(Json::parse(with.out).at("perplexity").get<double>(),
            Json::parse(without.out).at("perplexity").get<double>());
  EXPECT_TRUE(
      nfloat({"generate", model(), "-p", "The cat", "--lora", path("adapter") + ":0.5", "-n", "4"}).ok());
  expect_complaint(nfloat({"generate", model(), "-p", "The cat", "--lora", path("none")}), {"none"});
  const Result merged = nfloat({"convert", model(), path("merged"), "--lora", path("adapter")});
  EXPECT_TRUE(merged.ok()) << merged;
  EXPECT_TRUE(temporaries(folder_).empty());
}

TEST_F(Train, GoesOnWhereACheckpointWasSavedAndKeepsTheBest) {
  const std::vector<std::string> options{
      "--no-packing", "--rows-per-batch", "2", "--steps", "6", "--save-every", "4", "--lr",
      "1e-3",         "--rank",           "4"};
  std::vector<std::string> straight = options, resumed = options;
  straight.insert(straight.end(), {"--out", path("straight")});
  ASSERT_TRUE(train(straight).ok());
  std::filesystem::create_directories(path("resumed"));
  std::filesystem::copy(path("straight/checkpoint"), path("resumed/checkpoint"),
                        std::filesystem::copy_options::recursive);
  resumed.insert(resumed.end(), {"--out", path("resumed"), "--resume"});
  const Result result = train(resumed);
  ASSERT_TRUE(result.ok()) << result;
  EXPECT_EQ(read_file(path("straight/adapter_model.safetensors")),
            read_file(path("resumed/adapter_model.safetensors")));
  const Result held = train({"--out", path("held"), "--steps", "4", "--eval", "40%", "--eval-every", "2"});
  ASSERT_TRUE(held.ok()) << held;
  EXPECT_NE(held.out.find("best on the held-out rows"), std::string::npos) << held;
}

// The rate is far too high: the held-out loss is least after the first steps. A run that goes on behind them
// ends with the same adapter, and both say the same of one text that is held out under two names.
TEST_F(Train, TheBestAdapterIsKeptAndReportedOverAResume) {
  write_file(path("held.txt"), "A little cat sang in the tree. Mia had a dog named Tom.");
  write_file(path("also.txt"), read_file(path("held.txt")));
  const auto run = [&](const std::string& out, const std::vector<std::string>& more) {
    const std::string options =
        "--steps 20 --no-packing --rows-per-batch 2 --lr 3e-2 --schedule constant --rank 4 --save-every 5 "
        "--eval-every 1 --patience 6";
    std::istringstream words(options);
    std::vector<std::string> all{std::istream_iterator<std::string>(words), {}};
    all.insert(all.end(), more.begin(), more.end());
    for (const auto& [option, file] : {std::pair{"--out", path(out)},
                                       {"--eval", path("held.txt")},
                                       {"--also", path("also.txt")},
                                       {"--report", path(out + ".html")}})
      all.insert(all.end(), {option, file});
    return train(all);
  };
  const auto behind = [](const Result& result, const std::string& words) {
    const size_t at = result.out.find(words);
    return at == std::string::npos ? "" : result.out.substr(at + words.size(), 6);
  };
  const Result straight = run("straight", {});
  ASSERT_TRUE(straight.ok()) << straight;
  ASSERT_NE(straight.out.find("stopped early"), std::string::npos) << straight;
  std::filesystem::copy(path("straight"), path("resumed"), std::filesystem::copy_options::recursive);
  const Result resumed = run("resumed", {"--resume"});
  ASSERT_TRUE(resumed.ok()) << resumed;
  EXPECT_EQ(read_file(path("straight/adapter_model.safetensors")),
            read_file(path("resumed/adapter_model.safetensors")));
  EXPECT_EQ(behind(straight, "trained "), behind(resumed, "trained "));
  for (const Result* result : {&straight, &resumed}) {
    const std::string best = behind(*result, "best on the held-out rows ");
    EXPECT_EQ(best, behind(straight, "best on the held-out rows ")) << *result;
    EXPECT_EQ(best, behind(*result, " before, ")) << *result;
    const std::string page = read_file(path(result == &straight ? "straight.html" : "resumed.html"));
    const std::string cell = "<td>" + best + "</td>";
    EXPECT_NE(page.find(cell), std::string::npos) << best;
    EXPECT_NE(page.find(cell), page.rfind(cell)) << best;
  }
}

TEST_F(Train, SamplesThatDoNotFitAreRefusedFirst) {
  std::string text;
  for (int i = 0; i < 3000; ++i) text += "The cat sat. ";
  expect_complaint(train({"--out", path("x"), "--steps", "1", "--sample", text, "--quiet"}),
                   {"--sample", "expected 1 to"});
  EXPECT_FALSE(std::filesystem::exists(path("x")));
}

TEST_F(Train, NothingThatIsThereIsLost) {
  const std::vector<std::string> steps{"--steps", "1", "--rank", "2"};
  const auto into = [&](const std::string& out, const std::vector<std::string>& more = {}) {
    std::vector<std::string> arguments{"--out", out};
    arguments.insert(arguments.end(), steps.begin(), steps.end());
    arguments.insert(arguments.end(), more.begin(), more.end());
    return train(arguments);
  };
  ASSERT_TRUE(into(path("adapter")).ok());
  const std::string file = path("adapter/adapter_model.safetensors"), first = read_file(file);
  expect_complaint(into(path("adapter"), {"--seed", "7"}), {"adapter", "exists already"});
  EXPECT_EQ(read_file(file), first);
  ASSERT_TRUE(into(path("adapter"), {"--seed", "7", "--overwrite"}).ok());
  EXPECT_NE(read_file(file), first);
  // Only adapters are replaced.
  std::filesystem::create_directories(path("mine"));
  write_file(path("mine/notes.txt"), "x");
  expect_complaint(into(path("mine"), {"--overwrite"}), {"mine", "adapter"});
  write_file(path("plain"), "x");
  expect_complaint(into(path("plain"), {"--overwrite"}), {"plain", "folder"});
  // A run that fails leaves nothing behind.
  EXPECT_FALSE(into(path("new"), {"--targets", "no_such_module"}).ok());
  EXPECT_FALSE(std::filesystem::exists(path("new")));
}

// Nothing that is read, and nothing that is written besides, is written over; before anything is begun.
TEST_F(Train, OutputsThatWouldMeetAreRefused) {
  const std::string data = stories(), text = read_file(data);
  std::filesystem::create_symlink(data, path("link"));
  std::filesystem::copy(model(), path("model"));
  write_file(path("also.txt"), "The cat sat.");
  const auto refused = [&](const std::vector<std::string>& more, const std::vector<std::string>& words) {
    std::vector<std::string> all{"train", path("model"), data, "--steps", "1", "--rank", "2", "--quiet"};
    all.insert(all.end(), more.begin(), more.end());
    const auto before = snapshot(folder_);
    expect_complaint(nfloat(all), words);
    EXPECT_TRUE(before == snapshot(folder_));
  };
  const std::string out = path("out");
  refused({"--out", out, "--log", data}, {"--log ", "the same as DATA"});
  refused({"--out", out, "--log", path("link")}, {"--log ", "the same as DATA"});
  refused({"--out", out, "--report", path("model/config.json")}, {"--report ", "lies in MODEL"});
  refused({"--dump-gradients", path("model/model.safetensors")}, {"--dump-gradients ", "lies in MODEL"});
  refused({"--out", out, "--log", path("x"), "--report", path("./x")}, {"--report ", "the same as --log"});
  refused({"--out", out, "--log", out + "/adapter_model.safetensors"}, {"--out ", "the same as --log"});
  refused({"--out", out, "--log", out + "/checkpoint/log"}, {"--out ", "lies around --log"});
  refused({"--out", out, "--also", path("also.txt"), "--log", path("also.txt")}, {"the same as --also"});
  refused({"--out", out, "--eval", path("link"), "--report", path("link")}, {"--report ", "DATA"});
  refused({"--out", path("model"), "--overwrite"}, {"--out ", "is the same as MODEL"});
  EXPECT_TRUE(train({"--out", out, "--steps", "1", "--rank", "2", "--log", path("log.jsonl"), "--report",
                     path("page.html"), "--dump-gradients", path("gradients.safetensors")})
                  .ok());
  // An adapter is trained on in its own folder, where its log is.
  EXPECT_TRUE(train({"--out", out, "--init", out, "--overwrite", "--steps", "1", "--rank", "2", "--log",
                     out + "/log.jsonl"})
                  .ok());
  refused({"--out", path("next"), "--init", out, "--log", out + "/adapter_config.json"},
          {"--log ", "the same as --init"});
  // Several rates write nothing.
  EXPECT_EQ(2, train({"--lr", "1e-4,1e-3", "--log", path("log.jsonl")}).exit_code);
}

// They would be waited for without end.
TEST_F(Train, PipesInTheFoldersOfARunAreNamed) {
  const std::string out = path("out");
  const std::vector<std::string> run{"--out", out,      "--steps", "2",      "--save-every",
                                     "1",     "--rank", "2",       "--quiet"};
  ASSERT_TRUE(train(run).ok());
  const std::string state = out + "/checkpoint/train_state.json", config = out + "/adapter_config.json";
  Json json = parse_json_object(read_file(state), state);
  json["step"] = "two";
  write_file(state, json.dump());
  std::vector<std::string> resume = run;
  resume.push_back("--resume");
  expect_complaint(train(resume), {"train_state.json", "\"step\""});
  for (const std::string& file : {state, config}) {
    std::filesystem::remove(file);
    ASSERT_EQ(0, ::mkfifo(file.c_str(), 0600));
  }
  expect_complaint(train(resume), {"train_state.json", "not a regular file"});
  expect_complaint(train({"--out", path("next"), "--init", out, "--steps", "1", "--quiet"}),
                   {"adapter_config.json", "not a regular file"});
  expect_complaint(nfloat({"generate", model(), "--prompt", "x", "-n", "1", "--lora", out}),
                   {"adapter_config.json", "not a regular file"});
}

// A disk that is full when a checkpoint is saved: the one before stays, and the run goes on from it.
TEST_F(Train, AFullDiskLosesNoCheckpoint) {
  const auto run = [&](const std::string& out, const std::vector<std::string>& more, const Limits& limits) {
    std::vector<std::string> all{"train",   model(),   stories(), "--no-packing", "--rows-per-batch",
                                 "2",       "--steps", "6",       "--rank",       "4",
                                 "--quiet", "--out",   path(out)};
    all.insert(all.end(), more.begin(), more.end());
    return nfloat(all, limits);
  };
  ASSERT_TRUE(run("straight", {"--save-every", "4"}, {}).ok());
  std::filesystem::create_directories(path("mine"));
  std::filesystem::copy(path("straight/checkpoint"), path("mine/checkpoint"),
                        std::filesystem::copy_options::recursive);
  const auto before = snapshot(path("mine"));
  Limits full;
  full.file_bytes = 600000;  // the adapter fits, the optimizer's moments do not
  ASSERT_LT(std::filesystem::file_size(path("straight/adapter_model.safetensors")), full.file_bytes);
  ASSERT_GT(std::filesystem::file_size(path("straight/checkpoint/optimizer.safetensors")), full.file_bytes);
  expect_complaint(run("mine", {"--resume", "--save-every", "1"}, full), {"optimizer.safetensors"});
  EXPECT_TRUE(before == snapshot(path("mine")));
  ASSERT_TRUE(run("mine", {"--resume"}, {}).ok());
  EXPECT_EQ(read_file(path("straight/adapter_model.safetensors")),
            read_file(path("mine/adapter_model.safetensors")));
}

TEST_F(Train, ALossThatIsNotFiniteIsNamedAndTheCheckpointStays) {
  const Result result =
      train({"--out", path("out"), "--steps", "4", "--rank", "2", "--lr", "1e38", "--schedule", "constant",
             "--save-every", "1", "--quiet", "--no-packing", "--rows-per-batch", "1", "--no-shuffle"});
  expect_complaint(result, {"step 2: row 2 of the data: the hidden state behind layer 0 is not finite"});
  EXPECT_EQ(1, Json::parse(read_file(path("out/checkpoint/train_state.json"))).at("step").get<int>());
  EXPECT_FALSE(std::filesystem::exists(path("out/adapter_model.safetensors")));
}

// What a run is resumed with must be what it began with.
TEST_F(Train, AnotherBaseIsNotTrainedOn) {
  ASSERT_TRUE(nfloat({"quantize", model(), path("nf4")}).ok());
  const auto run = [&](const std::string& base, const std::vector<std::string>& more) {
    std::vector<std::string> all{"train", base,     stories(), "--steps", "2",     "--save-every",
                                 "1",     "--rank", "2",       "--quiet", "--out", path("out")};
    all.insert(all.end(), more.begin(), more.end());
    return nfloat(all);
  };
  ASSERT_TRUE(run(path("nf4"), {}).ok());
  const auto refused = [&](const Result& result, const char* words) {
    expect_complaint(result, {"train_state.json", words});
  };
  const char* other = "the weights of the model are not those";
  refused(run(model(), {"--resume"}), other);
  refused(run(model(), {"--resume", "--quantize", "nf4"}), other);
  // The same model by another name; then one scale of it differs.
  std::filesystem::rename(path("nf4"), path("renamed"));
  ASSERT_TRUE(run(path("renamed"), {"--resume"}).ok());
  std::string bytes = read_file(path("renamed/model.safetensors"));
  bytes[bytes.size() / 3] = static_cast<char>(bytes[bytes.size() / 3] ^ 1);
  write_file(path("renamed/model.safetensors"), bytes);
  refused(run(path("renamed"), {"--resume"}), other);
  bytes[bytes.size() / 3] = static_cast<char>(bytes[bytes.size() / 3] ^ 1);
  write_file(path("renamed/model.safetensors"), bytes);
  refused(run(path("renamed"), {"--resume", "--alpha", "7"}), "\"alpha\" was 32");
  refused(run(path("renamed"), {"--resume", "--train-on", "all", "--eval", "20%"}), "rows of the data");
  EXPECT_TRUE(run(path("renamed"), {"--resume"}).ok());
}

TEST_F(Train, TextsAreCutWhereTheContextEnds) {
  std::string text;
  for (int i = 0; i < 3; ++i) text += read_file(model() + "/stories.txt").substr(0, 3000);
  write_file(path("long.txt"), text);
  const Result result = nfloat({"train", model(), path("long.txt"), "--dry-run"});
  ASSERT_TRUE(result.ok()) << result;
  EXPECT_NE(result.err.find("the longest 512 tokens"), std::string::npos) << result;
}

TEST_F(Train, ComparesRates) {
  const Result result = train({"--lr", "1e-4,1e-3", "--steps", "2"});
  ASSERT_TRUE(result.ok()) << result;
  EXPECT_NE(result.out.find("0.001"), std::string::npos) << result;
  EXPECT_EQ(2, train({"--lr", "1e-4,1e-3", "--out", path("x")}).exit_code);
}

TEST_F(Train, GradientsOfTokenIds) {
  write_file(path("ids.jsonl"),
             R"({"input_ids": [0, 50, 86, 440, 15, 1], "labels": [-100, -100, -100, 440, 15, 1]})"
             "\n");
  const Result result = nfloat({"train", model(), path("ids.jsonl"), "--steps", "0", "--dump-gradients",
                                path("gradients.safetensors"), "--rank", "2"});
  ASSERT_TRUE(result.ok()) << result;
  EXPECT_EQ(84u, Checkpoint(path("gradients.safetensors")).tensors().size());
}

TEST_F(Train, TokenIdsAreWholeNumbers) {
  for (const auto& [row, part] :
       {std::pair(R"({"input_ids": [0, 50.5, 86]})",
                  R"(ids.jsonl:2: "input_ids" has 50.5, which is no whole)"),
        std::pair(R"({"input_ids": [0, 50, 86], "labels": [0, 1e1, 86]})", R"(ids.jsonl:2: "labels" has)"),
        std::pair(R"({"input_ids": [0, true]})", R"(ids.jsonl:2: "input_ids" has true)"),
        std::pair(R"({"input_ids": [0, 4294967346]})", R"(ids.jsonl:2: "input_ids")"),
        std::pair(R"({"input_ids": 50})", R"(ids.jsonl:2: "input_ids" is not a list)")}) {
    write_file(path("ids.jsonl"), "{\"input_ids\": [0, 50, 86]}\n" + std::string(row) + "\n");
    const Result result = nfloat({"train", model(), path("ids.jsonl"), "--steps", "1", "--out", path("no")});
    EXPECT_EQ(1, result.exit_code) << row;
    EXPECT_NE(result.err.find(part), std::string::npos) << row << result;
    EXPECT_FALSE(std::filesystem::exists(path("no")));
  }
}

// The adapter belongs to the new base. That each round loses less is in the golden values of tune.
TEST_F(Train, LoftqRoundsMakeABaseOfTheirOwn) {
  ASSERT_TRUE(nfloat({"quantize", model(), path("nf4"), "--double-quantization"}).ok());
  const auto run = [&](const std::vector<std::string>& more) {
    std::vector<std::string> all{"train",   path("nf4"), stories(), "--threads", "2",       "--rank", "8",
                                 "--steps", "1",         "--lr",    "1e-9",      "--loftq", model()};
    all.insert(all.end(), more.begin(), more.end());
    return nfloat(all);
  };
  const Result one = run({"--out", path("one")});
  const Result four = run({"--out", path("four"), "--loftq-rounds", "4", "--loftq-base", path("base")});
  ASSERT_TRUE(one.ok() && four.ok()) << one << four;
  EXPECT_NE(four.err.find("round 4: 42 weights quantized again"), std::string::npos) << four;
  EXPECT_NE(read_file(path("four/adapter_config.json")).find("base"), std::string::npos);
  EXPECT_TRUE(temporaries(folder_).empty());
  EXPECT_TRUE(nfloat({"inspect", path("base"), "--check"}).ok());
  // Refused: no place for the base, one that is there, rounds without an original.
  const auto expect_usage = [](const Result& result, const std::string& option) {
    EXPECT_EQ(result.exit_code, 2) << result;
    EXPECT_NE(result.err.find(option), std::string::npos) << result;
  };
  expect_usage(run({"--out", path("x"), "--loftq-rounds", "2"}), "--loftq-base");
  expect_complaint(run({"--out", path("x"), "--loftq-rounds", "2", "--loftq-base", path("base")}),
                   {"base", "exists already"});
  expect_usage(run({"--out", path("x"), "--loftq-rounds", "2", "--loftq-base", path("y"), "--dora"}),
               "--dora");
  EXPECT_FALSE(std::filesystem::exists(path("x")));
  EXPECT_FALSE(std::filesystem::exists(path("y")));
  // What is read is not replaced.
  std::filesystem::copy(model(), path("plain"), std::filesystem::copy_options::recursive);
  const Result onto =
      nfloat({"train", path("nf4"), stories(), "--steps", "1", "--loftq", path("plain"), "--out", path("z"),
              "--loftq-rounds", "2", "--loftq-base", path("plain"), "--overwrite"});
  EXPECT_EQ(onto.exit_code, 1) << onto;
  EXPECT_NE(onto.err.find("is the same as --loftq "), std::string::npos) << onto;
  EXPECT_EQ(read_file(path("plain/config.json")), read_file(model() + "/config.json"));
}

// A kill comes behind steps that the log tells of and the checkpoint does not, and in the middle of a line.
TEST_F(Train, AResumedRunsLogHasEachStepOnce) {
  for (const std::string type : {"jsonl", "csv"}) {
    const std::string log = path("log." + type), out = path("out_" + type);
    const std::vector<std::string> run{"--out", out,       "--steps",      "3", "--rank", "2", "--log",
                                       log,     "--quiet", "--save-every", "2"};
    ASSERT_TRUE(train(run).ok());
    const std::vector<std::string> whole = read_lines(log);
    std::string killed;
    for (const std::string& line : whole) killed += line + "\n";
    write_file(log, killed + whole.back().substr(0, 3));
    std::vector<std::string> resume = run;
    resume.push_back("--resume");
    const auto steps = [](const std::vector<std::string>& lines) {  // without their times
      std::vector<std::string> kept;
      for (const std::string& line : lines) {
        kept.push_back(line.starts_with('{') ? Json::parse(line).at("loss").dump()
                                             : line.substr(0, line.find(',', line.find(',') + 1)));
      }
      return kept;
    };
    Result result = train(resume);
    ASSERT_TRUE(result.ok()) << result;
    EXPECT_EQ(steps(whole), steps(read_lines(log))) << type;
    EXPECT_EQ(whole[type == "csv" ? 2 : 1], read_lines(log)[type == "csv" ? 2 : 1]) << "a line that stays";
    // A new file has the steps that are done now, columns with their names.
    std::filesystem::remove(log);
    result = train(resume);
    ASSERT_TRUE(result.ok()) << result;
    ASSERT_EQ(type == "csv" ? 2u : 1u, read_lines(log).size());
    EXPECT_EQ(type == "csv", read_lines(log)[0] == whole[0]);
    // What is no log is named and stays.
    write_file(log, "a shopping list\n");
    expect_complaint(train(resume), {"log." + type + ":1", "is not a line of this run's log"});
    EXPECT_EQ("a shopping list\n", read_file(log));
  }
}

TEST_F(Train, BadDataIsNamedByItsLine) {
  const auto complains = [&](const std::string& text, const std::vector<std::string>& words) {
    write_file(path("bad.jsonl"), text);
    expect_complaint(nfloat({"train", model(), path("bad.jsonl"), "--out", path("out"), "--quiet"}), words);
  };
  complains("", {"bad.jsonl", "empty"});
  complains("{\"text\": \"a\"}\n{\"text\": ", {"bad.jsonl:2"});
  complains("[1]\n", {"bad.jsonl:1", "not a JSON object"});
  complains("{\"text\": \"a b c\"}\n{\"text\": \"a\", \"text\": \"b\"}\n",
            {"bad.jsonl:2", "two members of one object have the name \"text\""});
  complains("{\"text\": \"a b\", \"weight\": 2}\n", {"bad.jsonl:1", "\"weight\""});
  complains("{\"prompt\": \"a\"}\n", {"bad.jsonl:1", "\"completion\""});
  complains("{\"input_ids\": [0, 5], \"labels\": [-100, -100]}\n", {"nothing is trained", "1 of them"});
  complains("{\"input_ids\": [0, 5, 99999]}\n", {"row 1", "99999", "4095"});
  complains("{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}]}\n", {"bad.jsonl:1", "chat template"});
  write_file(path("bad.txt"), "Caf\xc3\xa9.\nCaf\xe9.\n");
  expect_complaint(nfloat({"train", model(), path("bad.txt"), "--out", path("out"), "--quiet"}),
                   {"bad.txt:2", "byte 10", "UTF-8"});
  EXPECT_FALSE(std::filesystem::exists(path("out")));
  EXPECT_EQ(2, nfloat({"train", model(), path("bad.jsonl")}).exit_code);
}

TEST_F(Train, ShowsWhatWasLearned) {
  write_file(path("also.txt"), "It was a dark and stormy night; the rain fell in torrents.");
  const Result result = train({"--out",           path("adapter"),
                               "--steps",         "2",
                               "--rank",          "4",
                               "--rank-pattern",  "q_proj=8",
                               "--alpha-pattern", ".*\\.1\\..*=3",
                               "--sample",        "The <cat>",
                               "--sample",        "a\x1b[31m",
                               "--also",          path("also.txt"),
                               "--report",        path("report.html"),
                               "--eval",          "20%"});
  ASSERT_TRUE(result.ok()) << result;
  EXPECT_NE(result.out.find("before: The <cat>"), std::string::npos) << result;
  EXPECT_NE(result.out.find("after:  The <cat>"), std::string::npos) << result;
  EXPECT_NE(result.out.find("before: a\\x1b[31m"), std::string::npos) << result;
  EXPECT_EQ(result.out.find('\x1b'), std::string::npos) << result;
  EXPECT_NE(result.out.find("also.txt: loss "), std::string::npos) << result;
  const std::string page = read_file(path("report.html"));
  for (const char* text : {"<!DOCTYPE html>", "The &lt;cat&gt;", "held-out rows", "also.txt",
                           "Norm of the gradients", "Learning rate", "Tokens a second"})
    EXPECT_NE(page.find(text), std::string::npos) << text;
  EXPECT_EQ(page.find("<cat>"), std::string::npos);
  EXPECT_EQ(page.find("<script"), std::string::npos);
  const Checkpoint file(path("adapter/adapter_model.safetensors"));
  const std::string layer = "base_model.model.model.layers.0.self_attn.";
  EXPECT_EQ(8, file.find(layer + "q_proj.lora_A.weight")->shape[0]);
  EXPECT_EQ(4, file.find(layer + "k_proj.lora_A.weight")->shape[0]);
  const Json config = Json::parse(read_file(path("adapter/adapter_config.json")));
  EXPECT_EQ(6u, config.at("rank_pattern").size());
  EXPECT_EQ(7u, config.at("alpha_pattern").size());

  EXPECT_NE(train({"--out", path("x"), "--rank-pattern", "q_proj"}).err.find("EXPRESSION=NUMBER"),
            std::string::npos);
  EXPECT_FALSE(train({"--lr", "1,2", "--report", path("r.html")}).ok());
  for (const char* option : {"--rank-pattern", "--alpha-pattern"}) {
    const Result unmet = train({"--out", path("x"), option, "zzz=3"});
    EXPECT_EQ(1, unmet.exit_code) << unmet;
    EXPECT_NE(unmet.err.find("'zzz'"), std::string::npos) << unmet;
  }
  const Result nothing = train({"--out", path("x"), "--resume"});
  EXPECT_EQ(1, nothing.exit_code) << nothing;
  EXPECT_NE(nothing.err.find("there is no checkpoint to go on with"), std::string::npos) << nothing;
  EXPECT_FALSE(std::filesystem::exists(path("x")));
}

TEST_F(Train, PlanSaysWhatItTakes) {
  const Result result = nfloat({"plan", model(), "--train", "--rank", "16", "--length", "256", "--json"});
  ASSERT_TRUE(result.ok()) << result;
  const Json json = Json::parse(result.out);
  EXPECT_EQ(466944, json.at("trained_parameters").get<int64_t>());
  const Json& levels = json.at("levels");
  ASSERT_EQ(3u, levels.size());
  EXPECT_GT(levels[0].at("peak_bytes").get<int64_t>(), levels[1].at("peak_bytes").get<int64_t>());
  EXPECT_GT(levels[1].at("peak_bytes").get<int64_t>(), levels[2].at("peak_bytes").get<int64_t>());
  // In bf16 nowhere more; half of it where what products read is kept so, which dropout prevents.
  const auto bytes = [&](const std::string& precision, const std::string& dropout) {
    const Result planned = nfloat({"plan", model(), "--train", "--length", "256", "--json", "--precision",
                                   precision, "--dropout", dropout});
    EXPECT_TRUE(planned.ok()) << planned;
    return Json::parse(planned.out).at("levels").at(0).at("peak_bytes").get<int64_t>();
  };
  EXPECT_LE(bytes("bf16", "0"), bytes("bf16", "0.1"));
  EXPECT_LT(bytes("f32", "0"), bytes("f32", "0.1"));
  // What config.json says of plain weights; nothing: those of which most is kept.
  const auto of_dtype = [&](const std::string& dtype) {
    Json config = Json::parse(read_file(model() + "/config.json"));
    config["torch_dtype"] = dtype.empty() ? Json() : Json(dtype);
    write_file(path("config.json"), config.dump());
    const Result planned = nfloat(
        {"plan", path("config.json"), "--train", "--precision", "bf16", "--weight-bits", "16", "--json"});
    EXPECT_TRUE(planned.ok()) << planned;
    return Json::parse(planned.out).at("levels").at(0).at("peak_bytes").get<int64_t>();
  };
  EXPECT_LE(of_dtype("bfloat16"), of_dtype("float16"));
  EXPECT_EQ(of_dtype(""), of_dtype("float16"));
  EXPECT_LT(of_dtype("float16"), of_dtype("float32"));
  const Result table = nfloat({"plan", model(), "--train", "--memory", "1MB"});
  EXPECT_NE(table.out.find("cheap"), std::string::npos) << table;
  EXPECT_NE(table.out.find("no"), std::string::npos) << table;
  EXPECT_FALSE(nfloat({"plan", model(), "--train", "--targets", "nothing"}).ok());
}

// llama.cpp's order of rows and one alpha, and back; what a GGUF adapter cannot say is refused.
TEST_F(Train, AdaptersGoToGgufAndBack) {
  ASSERT_TRUE(train({"--out", path("adapter"), "--steps", "2", "--rank", "4", "--lr", "1e-2",
                     "--rank-pattern", "k_proj=2", "--rslora", "--warmup", "0"})
                  .ok());
  const Result out = nfloat({"convert", path("adapter"), path("adapter.gguf"), "--adapter-of", model()});
  ASSERT_TRUE(out.ok()) << out;
  EXPECT_NE(out.out.find("42 low-rank pairs"), std::string::npos) << out;
  const Result back = nfloat({"convert", path("adapter.gguf"), path("back"), "--adapter-of", model()});
  ASSERT_TRUE(back.ok()) << back;
  const auto score = [&](const char* adapter) {
    const Result result = nfloat({"perplexity", model(), "--text", stories(), "--lora", path(adapter),
                                  "--precision", "f32", "--context", "32"});
    EXPECT_TRUE(result.ok()) << result;
    return std::stod(result.out.substr(std::string_view("perplexity ").size()));
  };
  EXPECT_NEAR(1, score("adapter") / score("back"), 1e-5);  // B is rounded anew

  EXPECT_NE(nfloat({"convert", path("adapter"), path("x"), "--adapter-of", model()}).err.find("back"),
            std::string::npos);
  EXPECT_FALSE(
      nfloat({"convert", path("adapter.gguf"), path("adapter2.gguf"), "--adapter-of", model()}).ok());
  // Half a pair is none.
  std::string halves = read_file(path("adapter.gguf"));
  const size_t b = halves.find("blk.0.attn_q.weight.lora_b");
  ASSERT_NE(b, std::string::npos);
  halves[b + 4] = '9';
  write_file(path("halves.gguf"), halves);
  expect_complaint(nfloat({"convert", path("halves.gguf"), path("half"), "--adapter-of", model()}),
                   {"halves.gguf", "blk.0.attn_q.weight", "lora_a alone"});
  // What is there stays without --overwrite, and with it what is no adapter's.
  write_file(path("back/notes.txt"), "mine");
  write_file(path("mine.gguf"), "mine");
  std::filesystem::create_directory(path("empty"));
  const auto before = snapshot(path("back"));
  const auto convert = [&](const char* from, const char* to, bool overwrite) {
    std::vector<std::string> command{"convert", path(from), path(to), "--adapter-of", model()};
    if (overwrite) command.push_back("--overwrite");
    return nfloat(command);
  };
  for (const char* there : {"back", "empty"})
    expect_complaint(convert("adapter.gguf", there, false), {there, "exists already", "--overwrite"});
  expect_complaint(convert("adapter", "mine.gguf", false), {"mine.gguf", "exists already", "--overwrite"});
  expect_complaint(convert("adapter.gguf", "back", true), {"back", "notes.txt"});
  EXPECT_EQ(before, snapshot(path("back")));
  EXPECT_EQ("mine", read_file(path("mine.gguf")));
  std::filesystem::remove(path("back/notes.txt"));
  for (const char* there : {"back", "empty"}) EXPECT_TRUE(convert("adapter.gguf", there, true).ok()) << there;
  EXPECT_EQ(snapshot(path("back")), snapshot(path("empty")));
  expect_complaint(convert("adapter", "mine.gguf", true), {"mine.gguf", "not a GGUF adapter"});
  EXPECT_EQ("mine", read_file(path("mine.gguf")));
  std::filesystem::copy_file(path("adapter.gguf"), path("mine.gguf"),
                             std::filesystem::copy_options::overwrite_existing);
  EXPECT_TRUE(convert("adapter", "mine.gguf", true).ok());
  expect_complaint(nfloat({"convert", model(), path("mine.gguf"), "--overwrite"}), {"not a GGUF model"});
  EXPECT_EQ(read_file(path("adapter.gguf")), read_file(path("mine.gguf")));
  std::filesystem::rename(path("mine.gguf"), path("back/mine.gguf"));
  expect_complaint(convert("back/mine.gguf", "back", true), {"lies around it"});
  EXPECT_TRUE(temporaries(folder_).empty());
  expect_complaint(nfloat({"generate", model(), "-p", "The", "--lora", path("adapter.gguf")}),
                   {"adapter.gguf", "--adapter-of"});
  // Every command that reads an adapter says what contradicts its tensors.
  std::filesystem::copy(path("adapter"), path("wrong"));
  Json wrong = Json::parse(read_file(path("wrong/adapter_config.json")));
  wrong["rank_pattern"] = Json::object();
  write_file(path("wrong/adapter_config.json"), wrong.dump());
  for (const std::vector<std::string>& command : std::vector<std::vector<std::string>>{
           {"convert", path("wrong"), path("w.gguf"), "--adapter-of", model()},
           {"convert", model(), path("w"), "--lora", path("wrong")},
           {"generate", model(), "-p", "The", "--lora", path("wrong")},
           {"perplexity", model(), "--text", stories(), "--lora", path("wrong")},
           {"train", model(), stories(), "--out", path("w"), "--init", path("wrong"), "--quiet"}})
    expect_complaint(nfloat(command), {"adapter_config.json", "rank_pattern", "k_proj"});
  // So does what a GGUF adapter says.
  const std::string sound = read_file(path("adapter.gguf")), key = "adapter.lora.alpha";
  const auto changed = [&](const std::string& name) {
    std::string bytes = sound;
    bytes.replace(bytes.find(key), key.size(), name);
    write_file(path("odd.gguf"), bytes);
    return convert("odd.gguf", "odd", false);
  };
  expect_complaint(changed("adapter.lora.omega"), {"odd.gguf", "adapter.lora.omega", "not understood"});
  expect_complaint(changed("adapter.alora.omeg"), {"odd.gguf", "adapter.alora.omeg", "some tokens only"});
  std::string bytes = sound;
  bytes.replace(bytes.find(key) + key.size() + 4, 4, std::string("\0\0\xc0\x7f", 4));
  write_file(path("odd.gguf"), bytes);
  expect_complaint(convert("odd.gguf", "odd", false), {"odd.gguf", "adapter.lora.alpha"});
  // Pairs that count for nothing, the first of them or all.
  const auto with = [&](const char* name, const std::function<void(Json&)>& change) {
    std::filesystem::copy(path("adapter"), path(name));
    const std::string file = path(name) + "/adapter_config.json";
    Json config = Json::parse(read_file(file));
    change(config);
    write_file(file, config.dump());
    const std::string folder = name;
    EXPECT_TRUE(convert(name, (folder + ".gguf").c_str(), false).ok());
    EXPECT_TRUE(convert((folder + ".gguf").c_str(), (folder + "-back").c_str(), false).ok());
    EXPECT_NEAR(1, score(name) / score((folder + "-back").c_str()), 1e-5) << name;
  };
  with("part", [](Json& config) { config["alpha_pattern"]["model.layers.0.mlp.down_proj"] = 0; });
  with("silent", [](Json& config) { config["lora_alpha"] = 0; });

  ASSERT_TRUE(train({"--out", path("dora"), "--steps", "1", "--rank", "2", "--dora"}).ok());
  const Result dora = nfloat({"convert", path("dora"), path("dora.gguf"), "--adapter-of", model()});
  EXPECT_FALSE(dora.ok());
  EXPECT_NE(dora.err.find("use_dora"), std::string::npos) << dora;
}

}  // namespace
}  // namespace nfloat::cli_test
