// SPDX-License-Identifier: Apache-2.0
// Calibration of the embedded model, end to end: both levels, the same bytes for any number of threads, runs
// that go on after their end, and inputs that it refuses.
#include <gtest/gtest.h>

#include <sys/stat.h>

#include <csignal>
#include <cstring>

#include "base/json.h"
#include "cli/process.h"
#include "nfloat/calibrate.h"

namespace nfloat::cli_test {
namespace {

namespace fs = std::filesystem;

class Calibrate : public Cli {
 protected:
  // Level 1, the quick way, on a part of a text.
  Result quick(const std::string& model, const std::string& output, const std::string& text,
               std::vector<std::string> more = {}) const {
    std::vector<std::string> all = {"quantize", model,    path(output),           "--calibrate",
                                    text,       "--fast", "--calibration-tokens", "1500"};
    all.insert(all.end(), more.begin(), more.end());
    return nfloat(all);
  }
  std::string stories() const { return model() + "/stories.txt"; }
  // Kills a run when it has written down two layers.
  ::testing::AssertionResult killed_behind_a_layer(const std::vector<std::string>& arguments,
                                                   const std::string& output) const {
    const std::string state = path(output + ".calibration"), word = "\"kept_plain\":";
    const auto two_layers = [&] {
      const std::string text = read_file(state);
      return text.find(word) != text.rfind(word);
    };
    Limits limits;
    limits.signal = SIGKILL;
    limits.once = [&](const std::string&) { return two_layers(); };
    for (int turn = 0; turn < 10; ++turn) {  // a busy machine may look too late
      nfloat(arguments, limits);
      if (fs::exists(path(output)))
        fs::remove_all(path(output));
      else
        return two_layers() ? ::testing::AssertionSuccess()
                            : ::testing::AssertionFailure() << "no two layers in " << state;
    }
    return ::testing::AssertionFailure() << "every run ended before it was killed";
  }
};

void expect_refusal(const Result& result, const std::vector<std::string>& words, int exit_code = 1) {
  EXPECT_EQ(result.exit_code, exit_code) << result;
  EXPECT_EQ(result.out, "") << result;
  for (const std::string& word : words) EXPECT_NE(result.err.find(word), std::string::npos) << word << result;
}

TEST_F(Calibrate, BothLevelsWriteSoundFilesWithLessDivergence) {
  for (const std::string level : {"1", "2"}) {
    for (const std::string threads : {"1", "2"}) {
      const Result result =
          nfloat({"quantize", model(), path(level + threads), "--calibrate", stories(),
                  "--calibration-tokens", "2500", "--level", level, "--fast", "--threads", threads});
      ASSERT_TRUE(result.ok()) << result;
      EXPECT_NE(result.out.find("Calibrated at level " + level), std::string::npos) << result;
      EXPECT_NE(result.err.find("of memory"), std::string::npos) << result;
      EXPECT_FALSE(fs::exists(path(level + threads + ".calibration")));
    }
    EXPECT_EQ(read_file(path(level + "1/model.safetensors")), read_file(path(level + "2/model.safetensors")));
    const Result check = nfloat({"inspect", path(level + "1"), "--check"});
    EXPECT_TRUE(check.ok()) << check;
  }
  const std::string card = read_file(path("11/README.md"));
  for (const char* word : {"level 1 (fast)", "stories.txt, FNV-1a ", "held back", "nats"})
    EXPECT_NE(card.find(word), std::string::npos) << word << card;
  // What the original's card says comes first.
  EXPECT_EQ(card.find(read_file(model() + "/README.md")), 0u) << card;
  const Result against = nfloat({"inspect", path("11"), "--against", model()});
  EXPECT_NE(against.out.find("larger by design"), std::string::npos) << against;
}

TEST_F(Calibrate, TheThirdLevelWritesTheSameLayoutWithItsOwnNorms) {
  const Result result = quick(model(), "out", stories(), {"--level", "3"});
  ASSERT_TRUE(result.ok()) << result;
  EXPECT_NE(result.out.find("Calibrated at level 3"), std::string::npos) << result;
  EXPECT_NE(result.out.find("distillation"), std::string::npos) << result;
  EXPECT_NE(read_file(path("out/README.md")).find("| distillation |"), std::string::npos);
  const Result check = nfloat({"inspect", path("out"), "--check"});
  EXPECT_TRUE(check.ok()) << check;
  const Result best = nfloat({"quantize", model(), path("best"), "--preset", "best"});
  ASSERT_TRUE(best.ok()) << best;
  const auto size = [&](const std::string& folder) {
    return static_cast<int64_t>(fs::file_size(path(folder + "/model.safetensors")));
  };
  EXPECT_LT(std::abs(size("out") - size("best")), 2048);
}

TEST_F(Calibrate, TakesTheGeneralTextWithoutOneOfItsOwn) {
  const Result result = nfloat({"quantize", model(), path("out"), "--preset", "calibrated", "--fast",
                                "--calibration-tokens", "1500", "--json"});
  ASSERT_TRUE(result.ok()) << result;
  const Json calibration = Json::parse(result.out).at("calibration");
  EXPECT_EQ(calibration.at("level").get<int>(), 2);
  EXPECT_NE(calibration.at("text").get<std::string>().find("comes with nfloat"), std::string::npos);
  EXPECT_LT(calibration.at("mean_kl").get<double>(), calibration.at("mean_kl_of_best").get<double>());
}

TEST_F(Calibrate, SomeOfTheGeneralTextStandsBesideOnesOwn) {
  const auto report = [&](const std::string& output, const std::vector<std::string>& more) {
    std::vector<std::string> all = {"--json"};
    all.insert(all.end(), more.begin(), more.end());
    const Result result = quick(model(), output, stories(), all);
    EXPECT_TRUE(result.ok()) << result;
    EXPECT_EQ(result.err.find("general text") != std::string::npos, more.empty()) << result;
    return Json::parse(result.out).at("calibration");
  };
  const Json both = report("both", {}), alone = report("alone", {"--text-alone"});
  const auto all_own = both.at("tokens").get<int64_t>() + both.at("held_back_tokens").get<int64_t>();
  EXPECT_EQ(both.at("general_tokens").get<int64_t>(), all_own / 8 + 1);  // one begins the window
  EXPECT_EQ(alone.at("general_tokens").get<int64_t>(), 0);
  // What is judged by is the same.
  for (const char* member : {"tokens", "held_back_tokens", "mean_kl_of_best", "text_fnv1a"})
    EXPECT_EQ(both.at(member), alone.at(member)) << member;
  EXPECT_NE(both.at("mean_kl"), alone.at("mean_kl"));
  EXPECT_NE(
      read_file(path("both/README.md")).find("of the general text that comes with nfloat calibrated on"),
      std::string::npos);
  EXPECT_EQ(read_file(path("alone/README.md")).find("general text"), std::string::npos);
  expect_refusal(nfloat({"quantize", model(), path("out"), "--level", "1", "--text-alone"}),
                 {"--text-alone", "--calibrate"}, 2);
}

TEST_F(Calibrate, IdsNeedNoTokenizer) {
  fs::copy(model(), path("bare"), fs::copy_options::recursive);
  fs::remove(path("bare/tokenizer.json"));
  fs::remove(path("bare/tokenizer.model"));
  std::string ids = "{\"token_ids\": [";
  for (int window = 0; window < 2; ++window) {
    ids += window > 0 ? ", [1" : "[1";
    for (int i = 0; i < 199; ++i) ids += ", " + std::to_string(5 + (i * 37 + window) % 900);
    ids += "]";
  }
  write_file(path("ids.json"), ids + "]}");
  const Result result = quick(path("bare"), "out", path("ids.json"), {"--json"});
  ASSERT_TRUE(result.ok()) << result;
  EXPECT_NE(result.err.find("without the general text beside the ids: "), std::string::npos) << result;
  EXPECT_EQ(Json::parse(result.out).at("calibration").at("general_tokens").get<int64_t>(), 0);
}

TEST_F(Calibrate, LimitsChooseBlockSizes) {
  const std::vector<std::string> some = {"--only", "layers.5.", "--json"};
  const auto with = [&](const std::string& output, std::vector<std::string> more) {
    more.insert(more.end(), some.begin(), some.end());
    return quick(model(), output, stories(), more);
  };
  const Result bits = with("bits", {"--bits", "4.2"});
  ASSERT_TRUE(bits.ok()) << bits;
  const Json report = Json::parse(bits.out);
  double stored = 0, weights = 0;
  std::map<int64_t, int> sizes;
  for (const Json& tensor : report.at("tensors")) {
    if (tensor.at("name").get<std::string>().find("proj") == std::string::npos) continue;
    if (!tensor.at("quantized").get<bool>()) continue;
    ++sizes[tensor.at("block_size").get<int64_t>()];
    stored += 8 * tensor.at("bytes_after").get<double>();
    weights += tensor.at("shape")[0].get<double>() * tensor.at("shape")[1].get<double>();
  }
  EXPECT_GT(sizes.size(), 1u);
  EXPECT_LE(stored / weights, 4.2);
  EXPECT_GT(report.at("calibration").at("predicted_mean_kl").get<double>(), 0);
  const Result check = nfloat({"inspect", path("bits"), "--check"});
  EXPECT_TRUE(check.ok()) << check;
  EXPECT_NE(read_file(path("bits/README.md")).find("chosen by what each weight costs"), std::string::npos);

  const Result budget = with("budget", {"--budget", "10.6MB", "--block-sizes", "64,256"});
  ASSERT_TRUE(budget.ok()) << budget;
  EXPECT_LE(fs::file_size(path("budget/model.safetensors")), 10600000u);
  EXPECT_GT(fs::file_size(path("budget/model.safetensors")), 10400000u);
  for (const Json& tensor : Json::parse(budget.out).at("tensors"))
    if (tensor.at("quantized").get<bool>()) {
      const auto size = tensor.at("block_size").get<int64_t>();
      EXPECT_TRUE(size == 64 || size == 256) << size;
    }

  const Result divergence = with("divergence", {"--max-divergence", "0.0008"});
  ASSERT_TRUE(divergence.ok()) << divergence;
  EXPECT_LE(Json::parse(divergence.out).at("calibration").at("mean_kl").get<double>(), .0008);

  expect_refusal(with("no", {"--budget", "1MB"}), {"is the least"});
  expect_refusal(with("no", {"--bits", "4.2", "--budget", "9MB"}), {"do not go together"}, 2);
}

TEST_F(Calibrate, ConvertWritesCalibratedBlocks) {
  const auto convert = [&](const std::string& type, std::vector<std::string> more) {
    std::vector<std::string> all = {"convert", model(), path(type + ".gguf"), "--type", type, "--overwrite"};
    all.insert(all.end(), more.begin(), more.end());
    return nfloat(all);
  };
  write_file(path("judge"), read_file(stories()).substr(40000, 6000));
  const auto divergence = [&](const std::string& type) {
    const Result result = nfloat({"perplexity", path(type + ".gguf"), "--text", path("judge"), "--reference",
                                  model(), "--precision", "f32", "--json"});
    EXPECT_TRUE(result.ok()) << result;
    return Json::parse(result.out).at("divergence").at("mean_kl").get<double>();
  };
  const std::vector<std::string> some = {"--calibrate", stories(), "--calibration-tokens", "3000"};
  for (const std::string type : {"q4_0", "iq4_nl", "q4_k", "iq4_xs"}) {
    ASSERT_TRUE(convert(type, {}).ok());
    const double before = divergence(type);
    std::vector<std::string> more = some;
    more.emplace_back("--check");
    const Result result = convert(type, more);
    ASSERT_TRUE(result.ok()) << result;
    EXPECT_NE(result.out.find("Calibrated at level 1"), std::string::npos) << result;
    EXPECT_LT(divergence(type), .8 * before) << type;
  }
  // An importance matrix of the text alone: both forms give the same bytes but for what rounding of the means
  // in the older one changes.
  std::string measured;
  for (const std::string name : {"imatrix.dat", "imatrix.gguf"}) {
    std::vector<std::string> more = some;
    more.insert(more.end(), {"--fast", "--write-imatrix", path(name)});
    ASSERT_TRUE(convert("q4_k", more).ok());
    const Result result = convert("q4_k", {"--imatrix", path(name)});
    ASSERT_TRUE(result.ok()) << result;
    EXPECT_NE(result.out.find("importance matrix: 42 tensors"), std::string::npos) << result;
    if (measured.empty()) measured = read_file(path("q4_k.gguf"));
    const std::string bytes = read_file(path("q4_k.gguf"));
    ASSERT_EQ(bytes.size(), measured.size());
    size_t others = 0;
    for (size_t i = 0; i < bytes.size(); ++i) others += bytes[i] != measured[i] ? 1 : 0;
    EXPECT_LT(others, bytes.size() / 1000);
  }
  expect_refusal(convert("q8_0", some), {"--type q4_0"}, 2);
  expect_refusal(convert("q4_k", {"--imatrix", stories()}), {"is no imatrix file"});
  expect_refusal(convert("q4_k", {"--fresh"}), {"--fresh", "--calibrate"}, 2);
}

TEST_F(Calibrate, GoesOnAfterItsEnd) {
  const Result whole = quick(model(), "whole", stories());
  ASSERT_TRUE(whole.ok()) << whole;
  const std::vector<std::string> arguments = {
      "quantize", model(), path("out"), "--calibrate", stories(), "--fast", "--calibration-tokens", "1500"};
  ASSERT_TRUE(killed_behind_a_layer(arguments, "out"));
  const Result other = quick(model(), "out", stories(), {"--level", "2"});
  expect_refusal(other, {"out.calibration", "another calibration"});
  expect_refusal(quick(model(), "out", stories(), {"--text-alone"}),
                 {"out.calibration", "another calibration"});
  const Result rest = nfloat(arguments);
  ASSERT_TRUE(rest.ok()) << rest;
  EXPECT_NE(rest.err.find("going on behind "), std::string::npos) << rest;
  EXPECT_EQ(read_file(path("out/model.safetensors")), read_file(path("whole/model.safetensors")));
  EXPECT_FALSE(fs::exists(path("out.calibration")));
}

TEST_F(Calibrate, ConvertGoesOnAfterItsEnd) {
  const auto arguments = [&](const std::string& output) {
    return std::vector<std::string>{"convert",     model(),   path(output),           "--type", "q4_k",
                                    "--calibrate", stories(), "--calibration-tokens", "1500"};
  };
  const Result whole = nfloat(arguments("whole.gguf"));
  ASSERT_TRUE(whole.ok()) << whole;
  EXPECT_FALSE(fs::exists(path("whole.gguf.calibration")));
  ASSERT_TRUE(killed_behind_a_layer(arguments("out.gguf"), "out.gguf"));
  std::vector<std::string> other = arguments("out.gguf");
  other.insert(other.end(), {"--level", "2"});
  expect_refusal(nfloat(other), {"out.gguf.calibration", "another calibration"});
  const Result rest = nfloat(arguments("out.gguf"));
  ASSERT_TRUE(rest.ok()) << rest;
  EXPECT_NE(rest.err.find("going on behind "), std::string::npos) << rest;
  EXPECT_EQ(read_file(path("out.gguf")), read_file(path("whole.gguf")));
  EXPECT_FALSE(fs::exists(path("out.gguf.calibration")));
}

TEST_F(Calibrate, LooksAtTheOutputFirst) {
  fs::create_directories(path("out"));
  write_file(path("out/notes.txt"), "mine");
  const Result there = quick(model(), "out", stories());
  expect_refusal(there, {"out", "exists already"});
  EXPECT_EQ(there.err.find("of memory"), std::string::npos) << there;
  expect_refusal(quick(model(), "out", stories(), {"--overwrite"}), {"out"});
  EXPECT_EQ(read_file(path("out/notes.txt")), "mine");
}

TEST_F(Calibrate, RefusesTextsThatAreNotUsable) {
  write_file(path("short.txt"), "Once upon a time");
  expect_refusal(quick(model(), "out", path("short.txt")), {"short.txt", "at least 256"});
  write_file(path("empty.txt"), "");
  expect_refusal(quick(model(), "out", path("empty.txt")), {"empty.txt"});
  expect_refusal(quick(model(), "out", path("missing.txt")), {"missing.txt"});
  write_file(path("bad.jsonl"), "{\"text\": \"Once\"}\n{\"text\": 5}\n");
  expect_refusal(quick(model(), "out", path("bad.jsonl")), {"bad.jsonl", "line 2"});
  write_file(path("torn.jsonl"), "{\"text\": \"Once\"}\n{\"text\": \"up");
  expect_refusal(quick(model(), "out", path("torn.jsonl")), {"torn.jsonl", "line 2"});
  write_file(path("torn.json"), "{\"token_ids\": [[1, 2");
  expect_refusal(quick(model(), "out", path("torn.json")), {"torn.json"});
  write_file(path("other.json"), "{\"tokens\": [[1, 2]]}");
  expect_refusal(quick(model(), "out", path("other.json")), {"other.json", "token_ids"});
  write_file(path("large.json"), "{\"token_ids\": [[1, 2], [1, 999999]]}");
  expect_refusal(quick(model(), "out", path("large.json")), {"large.json", "999999"});
  write_file(path("bytes.txt"), std::string("\x7f"
                                            "ELF\0\1\2\3",
                                            8) +
                                    std::string(5000, '\xff'));
  expect_refusal(quick(model(), "out", path("bytes.txt")), {"bytes.txt"});
  EXPECT_FALSE(fs::exists(path("out")));
  EXPECT_FALSE(fs::exists(path("out.calibration")));
}

TEST_F(Calibrate, OneOutputIsOneRunsAtATime) {
  const CalibrationFile other(path("out.calibration"), "another run", {});
  for (const std::vector<std::string>& more : {std::vector<std::string>{}, {"--fresh"}})
    expect_refusal(quick(model(), "out", stories(), more),
                   {"out.calibration", "another calibration to the same output"});
  EXPECT_TRUE(fs::exists(path("out.calibration")));
  EXPECT_FALSE(fs::exists(path("out")));
}

// By whatever name: the state of two runs to one place is one file.
TEST_F(Calibrate, ALinkToTheOutputIsThatOutput) {
  fs::create_symlink("out", path("link"));
  const CalibrationFile other(path("out.calibration"), "another run", {});
  for (const char* name : {"link", "out/", "./out"})
    expect_refusal(quick(model(), name, stories()),
                   {"out.calibration", "another calibration to the same output"});
}

// In place of the state: what would be written into it or removed with it is another's.
TEST_F(Calibrate, LinksPipesAndFilesWithOtherNamesAreNamedAndStay) {
  const std::string state = path("out.calibration"), mine = "nfloat calibration 1: of something else\n";
  const auto refused = [&](const std::string& why) {
    for (const std::vector<std::string>& more : {std::vector<std::string>{}, {"--fresh"}})
      expect_refusal(quick(model(), "out", stories(), more), {"out.calibration", why});
    EXPECT_TRUE(fs::exists(fs::symlink_status(state)));
    EXPECT_FALSE(fs::exists(path("out")));
    fs::remove(state);
  };
  write_file(path("mine"), mine);
  fs::create_symlink(path("mine"), state);
  refused("is a link");
  fs::create_symlink(path("nowhere"), state);
  refused("is a link");
  EXPECT_FALSE(fs::exists(path("nowhere")));
  fs::create_hard_link(path("mine"), state);
  refused("other names");
  ASSERT_EQ(::mkfifo(state.c_str(), 0600), 0);
  refused("not a regular file");
  fs::create_directory(state);
  refused("not a regular file");
  EXPECT_EQ(read_file(path("mine")), mine);
}

TEST_F(Calibrate, FreshRemovesNothingOfOthers) {
  write_file(path("out.calibration"), "mine");
  expect_refusal(quick(model(), "out", stories(), {"--fresh"}), {"out.calibration", "is not the state"});
  EXPECT_EQ(read_file(path("out.calibration")), "mine");
  write_file(path("out.calibration"), "nfloat calibration 1: of something else\n");
  EXPECT_EQ(quick(model(), "out", stories(), {"--fresh"}).exit_code, 0);
  EXPECT_FALSE(fs::exists(path("out.calibration")));
}

TEST_F(Calibrate, RefusesModelsThatItCannotRun) {
  expect_refusal(quick(model() + "/model.safetensors", "out.safetensors", stories()), {"config.json"});
  ASSERT_TRUE(nfloat({"quantize", model(), path("nf4")}).ok());
  expect_refusal(quick(path("nf4"), "out", stories()), {"quantized"});
  EXPECT_FALSE(fs::exists(path("out.calibration")));
  fs::copy(model(), path("nan"), fs::copy_options::recursive);
  std::string file = read_file(path("nan/model.safetensors"));
  uint64_t length = 0;
  std::memcpy(&length, file.data(), 8);
  const Json entry = Json::parse(file.substr(8, length)).at("model.layers.1.mlp.down_proj.weight");
  file.replace(8 + length + entry.at("data_offsets").at(0).get<uint64_t>() + 20, 2, "\xc0\x7f");
  write_file(path("nan/model.safetensors"), file);
  expect_refusal(quick(path("nan"), "out", stories()), {"layer 1", "down_proj"});
  expect_refusal(quick(path("nan"), "out2", stories(), {"--level", "2"}),
                 {"layer 1", "'model.layers.1.mlp.down_proj.weight' holds NaN at index 10"});
  expect_refusal(quick(model(), "out", stories(), {"--preset", "qlora"}), {"--preset qlora"}, 2);
  expect_refusal(quick(model(), "out", stories(), {"--allow-nonfinite"}), {"--allow-nonfinite"});
  EXPECT_FALSE(fs::exists(path("out")));
}

}  // namespace
}  // namespace nfloat::cli_test
