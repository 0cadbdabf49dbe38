// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <sstream>

#include "base/json.h"
#include "cli/process.h"

namespace nfloat::cli_test {
namespace {

// The subcommands that `nfloat --help` lists.
std::vector<std::string> subcommands() {
  std::vector<std::string> names;
  std::istringstream help(nfloat({"--help"}).out);
  bool listed = false;
  for (std::string line; std::getline(help, line);) {
    if (line.find("ubcommands:") != std::string::npos) {
      listed = true;
    } else if (listed && line.starts_with("  ") && line.size() > 2 && line[2] != ' ') {
      names.push_back(line.substr(2, line.find(' ', 2) - 2));
    }
  }
  return names;
}

TEST_F(Cli, HelpAndVersionSucceedAndPrintToStandardOutput) {
  const Result help = nfloat({"--help"});
  EXPECT_TRUE(help.ok()) << help;
  EXPECT_NE(help.out.find("nfloat"), std::string::npos);
  EXPECT_EQ(help.err, "");
  const Result version = nfloat({"--version"});
  EXPECT_TRUE(version.ok()) << version;
  EXPECT_TRUE(version.out.starts_with("nfloat ")) << version;
}

TEST_F(Cli, EverySubcommandExplainsItself) {
  const std::vector<std::string> names = subcommands();
  for (const char* expected : {"quantize", "dequantize", "inspect", "plan"}) {
    EXPECT_NE(std::find(names.begin(), names.end(), expected), names.end())
        << expected << " is not in --help";
  }
  for (const std::string& name : names) {
    const Result help = nfloat({name, "--help"});
    EXPECT_TRUE(help.ok()) << name << help;
    EXPECT_NE(help.out.find(name), std::string::npos) << help;
    EXPECT_GT(std::count(help.out.begin(), help.out.end(), '\n'), 4) << name << " says too little:\n"
                                                                     << help.out;
    std::istringstream lines(help.out);
    for (std::string line; std::getline(lines, line);) {
      const bool option_without_text = line.starts_with("  --") && line.find("  ", 4) == std::string::npos &&
                                       line.size() < 30 && lines.peek() != ' ';
      EXPECT_FALSE(option_without_text) << name << ": an option without a word about it: " << line;
    }
  }
}

TEST_F(Cli, MisuseSaysWhatMayStandThere) {
  struct Case {
    std::string command;
    std::vector<std::string> wrong;
    std::string answer;
  };
  const Case cases[] = {
      {"evaluate", {"--limit", "-1"}, "must be 0 or more, not -1"},
      {"compare", {"--max-divergence", "0"}, "must be above 0, not 0"},
      {"bench", {"--depth", "-1"}, "must be 0 to 16777216, not -1"},
      {"quantize", {"--threads", "many"}, "must be a number, not many"},
      {"quantize", {"--scale", "best"}, "must be one of absmax, search, signed, not best"},
  };
  for (const Case& one : cases)
    EXPECT_EQ(nfloat({one.command, one.wrong[0], one.wrong[1]}).err,
              "nfloat " + one.command + ": " + one.wrong[0] + ": " + one.answer + "\nnfloat " + one.command +
                  " --help explains the options\n");
}

// Every option that takes a list: nothing between two commas, before the first or behind the last is
// somebody's mistake, not a shorter list.
TEST_F(Cli, ListsHaveNoEmptyValues) {
  const std::pair<std::vector<std::string>, std::string> lists[] = {
      {{"plan", model(), "--ranks"}, "16GB"},
      {{"plan", model(), "--ranks", "16GB,8GB", "--read"}, "20"},
      {{"plan", model(), "--train", "--targets"}, "q_proj"},
      {{"bench", model(), "--prefill"}, "8"},
      {{"bench", model(), "--generate"}, "8"},
      {{"bench", model(), "--threads-list"}, "1"},
      {{"bench", model(), "--precision-list"}, "int8"},
      {{"bench", "kernels", "--threads-list"}, "1"},
      {{"train", model(), "x.jsonl", "--out", path("out"), "--lr"}, "1e-4"},
      {{"train", model(), "x.jsonl", "--out", path("out"), "--targets"}, "q_proj"},
      {{"train", model(), "x.jsonl", "--out", path("out"), "--layers"}, "0"},
      {{"train", model(), "x.jsonl", "--out", path("out"), "--betas"}, "0.9"},
      {{"analyze", model(), "--codes"}, "nf4"},
      {{"quantize", model(), path("out"), "--max-size", "9MB", "--block-sizes"}, "64"},
      {{"codebook", "nf4", "--block-sizes"}, "64"},
      {{"codebook", "nf4", "--distribution"}, "normal"},
      {{"compare", model(), "--formats"}, "nf4"},
      {{"compare", model(), "--block-sizes"}, "64"},
      {{"compare", model(), "--tasks"}, "piqa=x"}};
  for (const auto& [command, value] : lists)
    for (const std::string& text : {value + ",," + value, "," + value, value + ",", std::string(",")}) {
      std::vector<std::string> arguments = command;
      arguments.push_back(text);
      const Result result = nfloat(arguments);
      EXPECT_EQ(result.exit_code, 2) << ::testing::PrintToString(arguments) << result;
      EXPECT_NE(result.err.find(command.back()), std::string::npos) << result;
      EXPECT_NE(result.err.find("has an empty value beside its commas"), std::string::npos) << result;
      EXPECT_NE(result.err.find(text), std::string::npos) << result;
    }
  const Result several = nfloat({"codebook", "nf4", "--errors", "--block-sizes", "32,64", "128", "--json"}),
               commas = nfloat({"codebook", "nf4", "--errors", "--block-sizes", "32,64,128", "--json"});
  EXPECT_TRUE(several.ok()) << several;
  EXPECT_EQ(several.out, commas.out);
  EXPECT_NE(nfloat({"codebook", "nf4", "--block-sizes", "64,1"}).err.find("not 1"), std::string::npos);
  EXPECT_NE(nfloat({"train", model(), "x", "--out", "y", "--layers", "0,x"}).err.find("--layers"),
            std::string::npos);
}

TEST_F(Cli, MisuseExitsWith2AndNamesWhatIsWrong) {
  struct Case {
    std::vector<std::string> arguments;
    std::string word;
  };
  const std::string out = path("out");
  const std::vector<Case> cases = {
      {{}, "subcommand"},
      {{"quantise"}, "quantise"},
      {{"quantize"}, "IN"},
      {{"quantize", model(), out, "--no-such-option"}, "--no-such-option"},
      {{"quantize", model(), out, "--format", "nf5"}, "--format"},
      {{"quantize", model(), out, "--block-size", "0"}, "--block-size"},
      {{"quantize", model(), out, "--block-size", "many"}, "--block-size"},
      {{"quantize", model(), out, "--scale", "best"}, "--scale"},
      {{"quantize", model(), out, "--preset", "worst"}, "--preset"},
      {{"quantize", model(), out, "--shard-size", "5 apples"}, "--shard-size"},
      {{"quantize", model(), out, "--threads", "-1"}, "--threads"},
      {{"quantize", model(), out, "one-too-many"}, "one-too-many"},
      {{"quantize", model()}, "OUT"},
      {{"quantize", model(), out, "--calibration-tokens", "512"}, "--calibrate"},
      {{"quantize", model(), out, "--part", "9/8"}, "such as 2/8"},
      {{"quantize", model(), out, "--part", "0/8"}, "such as 2/8"},
      {{"quantize", model(), out, "--part", "1/2x"}, "such as 2/8"},
      {{"quantize", model(), out, "--part", "1"}, "such as 2/8"},
      {{"quantize", model(), out, "--part", "1/2", "--finish"}, "--finish"},
      {{"quantize", model(), out, "--part", "1/2", "--fresh"}, "--fresh"},
      {{"quantize", model(), out, "--part", "1/2", "--fast"}, "calibration"},
      {{"dequantize", model(), out, "--finish", "--fresh"}, "--fresh"},
      {{"plan", model(), "--train", "--weight-bits", "nan"}, "--weight-bits"},
      {{"plan", model(), "--train", "--weight-bits", "-4"}, "--weight-bits"},
      {{"train", model(), "x.jsonl", "--out", out, "--eval", "80%"}, "--eval 80%"},
      {{"generate", model(), "-p", "x", "--seed", "-1"}, "0 to 18446744073709551615, not -1"},
      {{"generate", model(), "-p", "x", "--seed", "18446744073709551616"}, "not 18446744073709551616"},
      {{"generate", model(), "-p", "x", "--stop", ""}, "--stop: must not be empty"},
      {{"chat", model(), "--stop", ""}, "--stop: must not be empty"},
      {{"dequantize", model()}, "OUT"},
      {{"dequantize", model(), out, "--dtype", "f8"}, "--dtype"},
      {{"inspect"}, "PATH"},
      {{"plan"}, ""},
  };
  for (const Case& misuse : cases) {
    const Result result = nfloat(misuse.arguments);
    EXPECT_EQ(result.exit_code, 2) << ::testing::PrintToString(misuse.arguments) << "\n" << result;
    EXPECT_NE((result.err + result.out).find(misuse.word), std::string::npos)
        << ::testing::PrintToString(misuse.arguments) << "\n"
        << result;
    EXPECT_FALSE(std::filesystem::exists(out));
  }
}

// What `plan` would not look at is refused by name.
TEST_F(Cli, OptionsOfPlanThatWouldNotCount) {
  const auto refused = [](std::vector<std::string> more, const std::string& said) {
    more.insert(more.begin(), {"plan", model()});
    const Result result = nfloat(more);
    EXPECT_EQ(result.exit_code, 2) << ::testing::PrintToString(more) << result;
    EXPECT_NE(result.err.find(said), std::string::npos) << ::testing::PrintToString(more) << result;
  };
  const std::vector<std::pair<std::string, std::string>> of_training = {
      {"--loss", "sft"},         {"--rank", "16"},         {"--length", "1024"},
      {"--rows-per-batch", "1"}, {"--targets", "q_proj"},  {"--precision", "f32"},
      {"--dropout", "0"},        {"--weight-bits", "4.5"}, {"--threads", "1"}};
  for (const auto& [option, value] : of_training) refused({option, value}, option + " goes with --train");
  refused({"--dora"}, "--dora goes with --train");
  refused({"--rank", "16", "--ranks", "3GB,1GB"}, "--rank goes with --train");
  refused({"--train", "--context", "64"}, "--context does not go with --train");
  refused({"--train", "--read", "40"}, "--read does not go with --train");
  refused({"--train", "--latency", "1"}, "--latency does not go with --train");
  refused({"--read", "40"}, "--read goes with --ranks");
  refused({"--ranks", "3GB,1GB", "--latency", "1"}, "--latency goes with --read");
}

TEST_F(Cli, JsonParsesAndHasTheNamedKeys) {
  const std::string packed = path("packed");
  struct Case {
    std::vector<std::string> arguments;
    std::vector<std::string> keys;
  };
  const std::vector<Case> cases = {
      {{"quantize", model(), "--dry-run", "--json"},
       {"parameters", "bytes_before", "bytes_after", "tensors"}},
      {{"quantize", model(), packed, "--json"}, {"parameters", "files", "seconds"}},
      {{"inspect", packed, "--json"}, {"tensors"}},
      {{"inspect", packed, "--check", "--against", model(), "--json"}, {"tensors"}},
      {{"dequantize", packed, path("back"), "--json"}, {"parameters", "files"}},
      {{"plan", model(), "--memory", "16GB", "--context", "512", "--json"}, {"parameters"}},
  };
  for (const Case& command : cases) {
    const Result result = nfloat(command.arguments);
    ASSERT_TRUE(result.ok()) << ::testing::PrintToString(command.arguments) << "\n" << result;
    const auto json = Json::parse(result.out);
    ASSERT_TRUE(json.is_object()) << result;
    for (const std::string& key : command.keys) EXPECT_TRUE(json.contains(key)) << key << " in " << result;
  }
}

TEST_F(Cli, OutputThatCannotBeWrittenIsAnError) {
  Limits limits;
  limits.standard_output = "/dev/full";
  const Result result = nfloat({"inspect", model()}, limits);
  EXPECT_EQ(result.exit_code, 1) << result;
  EXPECT_NE(result.err.find("No space left"), std::string::npos) << result;
}

TEST_F(Cli, NoTerminalMeansNoProgressBarAndNoEscapes) {
  const Result result = nfloat({"quantize", model(), path("packed")});
  ASSERT_TRUE(result.ok()) << result;
  EXPECT_EQ(result.err, "");
  EXPECT_EQ(result.out.find('\x1b'), std::string::npos) << result;
  EXPECT_EQ(result.out.find('\r'), std::string::npos) << result;
}

}  // namespace
}  // namespace nfloat::cli_test
