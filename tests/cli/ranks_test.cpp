// SPDX-License-Identifier: Apache-2.0
// One model by several processes that mpirun starts: what one process gives, byte for byte. Faults of ranks:
// tests/ranks/run.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include <sched.h>

#include <algorithm>
#include <filesystem>
#include <sstream>

#include "cli/process.h"

namespace nfloat::cli_test {
namespace {

namespace fs = std::filesystem;

class RanksCli : public Cli {
 protected:
  void SetUp() override {
    Cli::SetUp();
    static const std::string reason = no_ranks();
    if (!reason.empty()) GTEST_SKIP() << reason;
  }
  static std::vector<std::string> with(std::vector<std::string> command,
                                       const std::vector<std::string>& more) {
    command.insert(command.end(), more.begin(), more.end());
    return command;
  }
};

TEST_F(RanksCli, GenerateTheTextOfOneProcess) {
  const std::vector<std::string> plain = {
      "generate", model(),      "-p",  "The old lighthouse", "-n",        "24", "--seed", "7",
      "--quiet",  "--quantize", "nf4", "--double-quant",     "--threads", "1"};
  const std::vector<std::string> command = with(plain, {"--temperature", "0.8"});
  const Result one = nfloat(command);
  ASSERT_TRUE(one.ok()) << one;
  for (const int ranks : {2, 3}) {
    const Result several = nfloat_by_ranks(ranks, command);
    EXPECT_TRUE(several.ok()) << several;
    EXPECT_EQ(several.out, one.out) << ranks;
  }
  for (const char* share : {"3,1", "1e12,1"}) {  // of which the second leaves a rank without rows
    const Result uneven = nfloat_by_ranks(2, with(command, {"--share", share}));
    EXPECT_TRUE(uneven.ok()) << uneven;
    EXPECT_EQ(uneven.out, one.out) << share;
  }
  // Of these logits the best alone travel.
  for (const std::vector<std::string>& choice :
       {with(command, {"--top-k", "20", "--top-p", "0.9"}), with(plain, {"--temperature", "0"})}) {
    const Result alone = nfloat(choice), together = nfloat_by_ranks(2, choice);
    EXPECT_TRUE(together.ok()) << together;
    EXPECT_EQ(together.out, alone.out);
    EXPECT_FALSE(alone.out.empty());
  }
}

// Log-probabilities too, to the last digit; the prompt comes from standard input, which only rank 0 has.
TEST_F(RanksCli, GenerateTheSameDocumentFromStandardInput) {
  const std::vector<std::string> command = {"generate", model(),      "-n", "6",         "--seed", "1",
                                            "--json",   "--logprobs", "3",  "--threads", "1"};
  write_file(path("prompt"), "Once upon a time");
  Limits limits;
  limits.standard_input = path("prompt");
  const auto without_times = [](const std::string& text) {
    std::string kept;
    for (size_t at = 0; at < text.size();) {
      const size_t end = std::min(text.find('\n', at), text.size() - 1) + 1;
      const std::string line = text.substr(at, end - at);
      if (line.find("seconds") == std::string::npos && line.find("per_second") == std::string::npos)
        kept += line;
      at = end;
    }
    return kept;
  };
  const Result one = nfloat(command, limits), two = nfloat_by_ranks(2, command, limits);
  ASSERT_TRUE(one.ok()) << one;
  ASSERT_TRUE(two.ok()) << two;
  EXPECT_EQ(without_times(two.out), without_times(one.out));
}

// How much is guessed follows times, which each rank measures for itself: they have to agree.
TEST_F(RanksCli, GuessTheSame) {
  const std::vector<std::string> command = {
      "generate", model(),     "-p",      "The king and the king and the king",
      "-n",       "48",        "--quiet", "--temperature",
      "0",        "--threads", "1",       "--precision",
      "int8"};
  const Result one = nfloat(command);
  ASSERT_TRUE(one.ok()) << one;
  for (const auto& more : {std::vector<std::string>{"--look-up", "7"}, {"--draft", model()}})
    for (int run = 0; run < 4; ++run) {
      std::vector<std::string> guessing = command;
      guessing.insert(guessing.end(), more.begin(), more.end());
      const Result two = nfloat_by_ranks(2, guessing);
      EXPECT_TRUE(two.ok()) << two;
      EXPECT_EQ(two.out, one.out) << two;
    }
}

// Rank 0 alone reads the lines; --quiet leaves the answers.
TEST_F(RanksCli, ChatGivesTheAnswersOfOneProcess) {
  write_file(path("turns"),
             "Once upon a time\n/again\nThe dog\n/undo\n/load " + path("nowhere") + "\nAnd then\n");
  Limits limits;
  limits.standard_input = path("turns");
  const std::vector<std::string> command = {"chat",    model(),       "-n",   "12",        "--seed", "3",
                                            "--quiet", "--precision", "int8", "--threads", "1"};
  const Result one = nfloat(command, limits), three = nfloat_by_ranks(3, command, limits);
  EXPECT_EQ(one.exit_code, 1) << one;
  EXPECT_EQ(three.out, one.out) << three;
  EXPECT_GE(std::count(three.out.begin(), three.out.end(), '\n'), 4) << three;
  EXPECT_EQ(three.exit_code, 1) << three;
  // mpirun writes of its own between a rank's lines.
  std::istringstream lines(one.err);
  for (std::string line; std::getline(lines, line);)
    EXPECT_NE(three.err.find(line + '\n'), std::string::npos) << line << three;
}

TEST_F(RanksCli, PerplexityIsTheSame) {
  write_file(path("text"), read_file(model() + "/stories.txt").substr(0, 3000));
  const std::vector<std::string> command = {"perplexity", model(), "--text",    path("text"),
                                            "--quantize", "nf4",   "--threads", "1"};
  const Result one = nfloat(command), two = nfloat_by_ranks(2, command);
  ASSERT_TRUE(one.ok()) << one;
  ASSERT_TRUE(two.ok()) << two;
  EXPECT_EQ(two.out.substr(0, two.out.find('\n')), one.out.substr(0, one.out.find('\n')));
}

// The text of rank 0 counts: standard input, which only it has, and a file that is another one elsewhere.
TEST_F(RanksCli, PerplexityIsOfTheFirstRanksText) {
  const std::string text = read_file(model() + "/stories.txt");
  write_file(path("text"), text.substr(0, 3000));
  write_file(path("other"), text.substr(500, 2900));
  Limits limits;
  limits.standard_input = path("text");
  const auto command = [&](const std::string& from) {
    return std::vector<std::string>{"perplexity", model(), "--text", from, "--threads", "1"};
  };
  const Result one = nfloat(command("-"), limits), two = nfloat_by_ranks(2, command("-"), limits),
               differing = nfloat_by_ranks(2, command(path("text")), {}, command(path("other")));
  ASSERT_TRUE(one.ok()) << one;
  for (const Result& several : {two, differing}) {
    EXPECT_TRUE(several.ok()) << several;
    EXPECT_EQ(several.out.substr(0, several.out.find('\n')), one.out.substr(0, one.out.find('\n')));
  }
  write_file(path("tokens"), R"({"token_ids": [[1, 2, 3, 4, 5]]})");
  write_file(path("more"), R"({"token_ids": [[5, 4, 3, 2, 1, 7], [9, 8, 7]]})");
  const auto sequences = [&](const std::string& from) {
    return std::vector<std::string>{"perplexity", model(), "--tokens", from, "--threads", "1"};
  };
  const Result scored = nfloat(sequences(path("tokens"))),
               shared = nfloat_by_ranks(2, sequences(path("tokens")), {}, sequences(path("more")));
  EXPECT_TRUE(shared.ok()) << shared;
  EXPECT_EQ(shared.out.substr(0, shared.out.find('\n')), scored.out.substr(0, scored.out.find('\n')));
}

TEST_F(RanksCli, WhatAllFindIsSaidOnce) {
  for (const std::vector<std::string>& command :
       {std::vector<std::string>{"generate", path("nowhere"), "-p", "x"},
        {"generate", model(), "-p", "x", "--share", "3,1,1"},
        {"train", model(), path("rows.jsonl"), "--out", path("out")}}) {
    const Result result = nfloat_by_ranks(2, command);
    EXPECT_NE(result.exit_code, 0) << result;
    EXPECT_EQ(result.out, "") << result;
    size_t said = 0;
    for (size_t at = result.err.find("nfloat: "); at != std::string::npos;
         at = result.err.find("nfloat: ", at + 1))
      ++said;
    EXPECT_EQ(said, 1u) << result;
  }
}

TEST_F(RanksCli, CommandsSayThemselvesWhetherRanksRunThem) {
  for (const std::vector<std::string>& command :
       {std::vector<std::string>{"bench", "kernels"}, {"cache"}, {"tokenize", model(), "-p", "text"}}) {
    const Result refused = nfloat_by_ranks(2, command);
    EXPECT_EQ(refused.exit_code, 2) << refused;
    EXPECT_NE(refused.err.find("nfloat: " + command[0] +
                               ": is not run by several ranks (2 were started): mpirun -n 1, or none\n"),
              std::string::npos)
        << refused;
  }
  const Result helped = nfloat_by_ranks(2, {"help", "tokenize"});
  EXPECT_TRUE(helped.ok()) << helped;
  EXPECT_NE(helped.out.find("tokenize"), std::string::npos) << helped;
  const Result misused = nfloat_by_ranks(2, {"generate", "--nothing-like-it"});
  EXPECT_EQ(misused.exit_code, 2) << misused;
  EXPECT_NE(misused.err.find("nfloat generate --help explains"), std::string::npos) << misused;
}

TEST_F(RanksCli, WhatOneFindsIsSaidWithItsName) {
  const Result missing =
      nfloat_by_ranks(2, {"generate", model(), "-p", "x"}, {}, {"generate", path("nowhere"), "-p", "x"});
  EXPECT_EQ(missing.exit_code, 1) << missing;
  EXPECT_NE(missing.err.find("nfloat: rank 1 on "), std::string::npos) << missing;
  EXPECT_NE(missing.err.find("nowhere"), std::string::npos) << missing;
  fs::copy(model(), path("other"), fs::copy_options::recursive);
  std::string config = read_file(path("other/config.json"));
  write_file(path("other/config.json"), config + " ");
  const Result differing =
      nfloat_by_ranks(2, {"generate", model(), "-p", "x"}, {}, {"generate", path("other"), "-p", "x"});
  EXPECT_EQ(differing.exit_code, 1) << differing;
  EXPECT_NE(differing.err.find("has other files than rank 0"), std::string::npos) << differing;
  EXPECT_EQ(differing.out, "") << differing;
  write_file(path("other/config.json"), config);
  write_file(path("other/generation_config.json"), R"({"do_sample": true, "temperature": 5})");
  const Result drawing =
      nfloat_by_ranks(2, {"generate", model(), "-p", "x"}, {}, {"generate", path("other"), "-p", "x"});
  EXPECT_NE(drawing.err.find("has other files than rank 0"), std::string::npos) << drawing;
  const Result cached = nfloat_by_ranks(2, {"generate", model(), "-p", "x"}, {},
                                        {"generate", model(), "-p", "x", "--kv-cache", "int8"});
  EXPECT_EQ(cached.exit_code, 2) << cached;
  EXPECT_NE(cached.err.find("all ranks take the same options"), std::string::npos) << cached;
  EXPECT_EQ(cached.out, "") << cached;
}

// Each measures some of the formats; what a rank found is kept until rank 0 has it.
TEST_F(RanksCli, CompareFindsTheNumbersOfOneProcess) {
  write_file(path("text"), read_file(model() + "/stories.txt").substr(0, 2000));
  Limits limits;
  limits.environment = {{"XDG_CACHE_HOME", path("cache")}};
  const auto command = [&](const std::string& name, const std::string& folder) {
    return std::vector<std::string>{
        "compare", folder,     "--text",    path("text"), "--formats", "nf4:64,fp4:64,q4_0",
        "--json",  path(name), "--threads", "1"};
  };
  // All but times: lines of numbers that are measured with a clock.
  const auto numbers = [&](const std::string& name) {
    std::string kept;
    for (const std::string& line : read_lines(path(name)))
      if (line.find("seconds") == std::string::npos && line.find("per_second") == std::string::npos)
        kept += line + "\n";
    return kept;
  };
  const Result one = nfloat(command("one", model()), limits);
  ASSERT_TRUE(one.ok()) << one;
  for (const int ranks : {2, 4}) {
    const Result several = nfloat_by_ranks(ranks, command("several", model()), limits);
    EXPECT_TRUE(several.ok()) << several;
    EXPECT_EQ(numbers("several"), numbers("one")) << ranks;
  }
  EXPECT_TRUE(snapshot(path("cache")).empty());
  // The last byte of a weight: another model.
  fs::copy(model(), path("other"), fs::copy_options::recursive);
  std::string weights = read_file(path("other/model.safetensors"));
  for (size_t i = weights.size() / 2; i < weights.size(); i += 2) weights[i] = 0;
  write_file(path("other/model.safetensors"), weights);
  const Result differing =
      nfloat_by_ranks(2, command("differing", model()), limits, command("differing", path("other")));
  EXPECT_EQ(differing.exit_code, 1) << differing;
  EXPECT_NE(differing.err.find("has other files than rank 0"), std::string::npos) << differing;
  EXPECT_FALSE(fs::exists(path("differing")));
}

// Gradients are added in another order: losses agree to many places. Rank 0 writes, and a run goes on.
TEST_F(RanksCli, TrainToTheLossesOfOneProcess) {
  const auto command = [&](const std::string& out, const std::vector<std::string>& more) {
    return with({"train",
                 model(),
                 model() + "/stories.txt",
                 "--out",
                 path(out),
                 "--log",
                 path(out + ".log"),
                 "--steps",
                 "4",
                 "--length",
                 "64",
                 "--rows-per-batch",
                 "1",
                 "--accumulate",
                 "3",
                 "--lr",
                 "1e-3",
                 "--threads",
                 "1",
                 "--save-every",
                 "2"},
                more);
  };
  const auto losses = [&](const std::string& out) {
    std::vector<double> all;
    for (const std::string& line : read_lines(path(out + ".log")))
      all.push_back(std::stod(line.substr(line.find("\"loss\"") + 7)));
    return all;
  };
  const Result one = nfloat(command("one", {})), two = nfloat_by_ranks(2, command("two", {}));
  ASSERT_TRUE(one.ok()) << one;
  ASSERT_TRUE(two.ok()) << two;
  ASSERT_EQ(losses("two").size(), 4u);
  for (size_t i = 0; i < 4; ++i) EXPECT_NEAR(losses("two")[i], losses("one")[i], 1e-5 * losses("one")[i]);
  EXPECT_NE(losses("two")[0], losses("two")[3]);
  EXPECT_TRUE(fs::exists(path("two/adapter_model.safetensors")));
  const Result resumed = nfloat_by_ranks(2, command("two", {"--resume"}));
  EXPECT_TRUE(resumed.ok()) << resumed;
  const Result refused = nfloat_by_ranks(2, command("three", {"--loss", "dpo"}));
  EXPECT_EQ(refused.exit_code, 2) << refused;
  EXPECT_FALSE(fs::exists(path("three")));
}

// What is told of the tensors too: each was measured by one rank.
TEST_F(RanksCli, ConvertTheBytesOfOneProcess) {
  const std::vector<std::string> more = {"--type", "bf16", "--part-size", "1MB", "--all"};
  ASSERT_TRUE(nfloat({"quantize", model(), path("nf4")}).ok());
  const Result one = nfloat(with({"convert", path("nf4"), path("one")}, more));
  ASSERT_TRUE(one.ok()) << one;
  const Result three = nfloat_by_ranks(3, with({"convert", path("nf4"), path("three")}, more));
  EXPECT_TRUE(three.ok()) << three;
  EXPECT_TRUE(snapshot(path("three")) == snapshot(path("one")));
  EXPECT_FALSE(fs::exists(path("three.partial")));
  EXPECT_NE(one.out.find("SQNR"), std::string::npos) << one;
  EXPECT_EQ(three.out.substr(0, three.out.rfind('\n', three.out.size() - 2))
                .substr(0, three.out.find(path("three"))),
            one.out.substr(0, one.out.find(path("one"))));
  const Result refused = nfloat_by_ranks(
      2, {"convert", path("nf4"), path("four.gguf"), "--type", "q4_k", "--calibrate", path("t")});
  EXPECT_EQ(refused.exit_code, 2) << refused;
  EXPECT_NE(refused.err.find("calibrations are not made by several ranks"), std::string::npos) << refused;
}

// One file, of which each rank writes some tensors; several; what fails on one leaves nothing.
TEST_F(RanksCli, ConvertToTheGgufFileOfOneProcess) {
  ASSERT_TRUE(nfloat({"quantize", model(), path("nf4")}).ok());
  for (const std::vector<std::string>& more : {std::vector<std::string>{"--type", "q4_0", "--all", "--check"},
                                               {"--type", "bf16", "--part-size", "3MB", "--all"}}) {
    for (const char* folder : {"one", "three"}) fs::create_directory(path(folder));
    const Result one = nfloat(with({"convert", path("nf4"), path("one/x.gguf")}, more));
    ASSERT_TRUE(one.ok()) << one;
    const Result three = nfloat_by_ranks(3, with({"convert", path("nf4"), path("three/x.gguf")}, more));
    EXPECT_TRUE(three.ok()) << three;
    EXPECT_TRUE(snapshot(path("three")) == snapshot(path("one"))) << more[1];
    EXPECT_EQ(snapshot(path("one")).size() > 1, more[1] == "bf16");
    EXPECT_EQ(three.out.substr(0, three.out.find(path("three"))),
              one.out.substr(0, one.out.find(path("one"))));
    if (more[1] == "q4_0") {
      const Result again = nfloat_by_ranks(2, with({"convert", path("nf4"), path("three/x.gguf")}, more));
      EXPECT_EQ(again.exit_code, 1) << again;
      EXPECT_NE(again.err.find("exists already"), std::string::npos) << again;
      EXPECT_TRUE(snapshot(path("three")) == snapshot(path("one"))) << more[1];
    }
    for (const char* folder : {"one", "three"}) fs::remove_all(path(folder));
  }
  fs::copy(path("nf4"), path("other"), fs::copy_options::recursive);
  write_file(path("other/config.json"), read_file(path("other/config.json")) + " ");
  const auto before = snapshot(path(""));
  const Result differing = nfloat_by_ranks(2, {"convert", path("nf4"), path("five.gguf")}, {},
                                           {"convert", path("other"), path("five.gguf")});
  EXPECT_EQ(differing.exit_code, 1) << differing;
  EXPECT_NE(differing.err.find("has other files than rank 0"), std::string::npos) << differing;
  Limits limits;
  limits.file_bytes = 4 << 20;
  const Result full =
      nfloat_by_ranks(2, {"convert", path("nf4"), path("five.gguf"), "--type", "f32"}, limits);
  EXPECT_EQ(full.exit_code, 1) << full;
  EXPECT_NE(full.err.find("five.gguf: cannot write"), std::string::npos) << full;
  EXPECT_TRUE(snapshot(path("")) == before);
}

TEST_F(RanksCli, QuantizeTheBytesOfOneProcess) {
  ASSERT_TRUE(nfloat({"quantize", model(), path("one"), "--shard-size", "1MB"}).ok());
  const Result result = nfloat_by_ranks(3, {"quantize", model(), path("three"), "--shard-size", "1MB"});
  EXPECT_TRUE(result.ok()) << result;
  EXPECT_TRUE(snapshot(path("three")) == snapshot(path("one")));
  EXPECT_FALSE(fs::exists(path("three.partial")));
  const Result refused = nfloat_by_ranks(2, {"quantize", model(), path("four"), "--part", "1/2"});
  EXPECT_EQ(refused.exit_code, 2) << refused;
}

// Of two processors each rank takes one, whether mpirun has bound it or not, and however many there are.
TEST_F(RanksCli, ShareTheProcessorsThatTheyMayUse) {
  cpu_set_t all, two;
  if (::sched_getaffinity(0, sizeof all, &all) != 0 || CPU_COUNT(&all) < 2)
    GTEST_SKIP() << "needs two processors, of which each rank may take one";
  CPU_ZERO(&two);
  for (size_t i = 0; CPU_COUNT(&two) < 2; ++i)
    if (CPU_ISSET(i, &all)) CPU_SET(i, &two);
  ASSERT_EQ(::sched_setaffinity(0, sizeof two, &two), 0);
  for (const char* const bound : {"none", "core"}) {
    Limits limits;
    limits.environment = {{"OMPI_MCA_hwloc_base_binding_policy", bound},
                          {"PRTE_MCA_hwloc_default_binding_policy", bound}};
    const Result result = nfloat_by_ranks(2, {"generate", model(), "-p", "x", "-n", "1"}, limits);
    EXPECT_TRUE(result.ok()) << result;
    for (const char* const rank : {"rank 0 on ", "rank 1 on "}) {
      const size_t at = result.err.find(rank);
      ASSERT_NE(at, std::string::npos) << result;
      EXPECT_NE(result.err.substr(at, result.err.find('\n', at) - at).find(", 1 thread"), std::string::npos)
          << result;
    }
    EXPECT_EQ(result.err.find(" threads"), std::string::npos) << result;
  }
  ::sched_setaffinity(0, sizeof all, &all);
}

TEST_F(RanksCli, TheirExchangesAreMeasured) {
  const Result result = nfloat_by_ranks(2, {"bench", "ranks", "--seconds", "0.2", "--json"});
  EXPECT_TRUE(result.ok()) << result;
  EXPECT_NE(result.out.find("\"ranks\": 2"), std::string::npos) << result;
  EXPECT_EQ(nfloat({"bench", "ranks"}).exit_code, 2);
}

// The rest needs no MPI.
class RankPlan : public Cli {};

TEST_F(RankPlan, SharesFollowTheMemory) {
  const Result result = nfloat({"plan", model(), "--ranks", "3MB,1MB,1MB", "--context", "16", "--json"});
  ASSERT_TRUE(result.ok()) << result;
  EXPECT_NE(result.out.find("\"fits\": false"), std::string::npos) << result;
  const Result large =
      nfloat({"plan", model(), "--ranks", "30GB,10GB", "--read", "40,20", "--context", "16"});
  ASSERT_TRUE(large.ok()) << large;
  EXPECT_NE(large.out.find("750,250"), std::string::npos) << large;
  // Keys and values are shared out; of this model's two heads no rank holds less than one.
  const auto needs = [&](const std::string& ranks, const std::string& context) {
    const Result found = nfloat({"plan", model(), "--ranks", ranks, "--context", context, "--json"});
    return nlohmann::json::parse(found.out)["formats"][0]["rank_bytes"].get<std::vector<double>>();
  };
  const auto growth = [&](const std::string& ranks, size_t rank) {
    return needs(ranks, "2048")[rank] - needs(ranks, "1024")[rank];
  };
  const double whole = growth("1GB", 0);
  EXPECT_NEAR(growth("1GB,1GB", 1), whole / 2, whole / 100);
  EXPECT_NEAR(growth("1GB,1GB,1GB,1GB", 3), whole / 2, whole / 100);
  EXPECT_EQ(nfloat({"plan", model(), "--ranks", "3GB,1GB", "--read", "40"}).exit_code, 2);
  EXPECT_EQ(nfloat({"plan", model(), "--ranks", "3GB,1GB", "--memory", "4GB"}).exit_code, 2);
}

}  // namespace
}  // namespace nfloat::cli_test
