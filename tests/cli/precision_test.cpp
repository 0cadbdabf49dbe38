// SPDX-License-Identifier: Apache-2.0
// What --precision auto takes: measured once, kept, repeated, and never an error.
#include <gtest/gtest.h>

#include <sys/stat.h>

#include "base/json.h"
#include "cli/process.h"

namespace nfloat::cli_test {
namespace {

namespace fs = std::filesystem;

class AutomaticPrecision : public Cli {
 protected:
  void SetUp() override {
    Cli::SetUp();
    limits_.environment["XDG_CACHE_HOME"] = path("cache");
    limits_.environment["NFLOAT_PRECISION"] = "";
  }
  std::string kept() const { return path("cache/nfloat/precisions.json"); }
  Result generate(const std::vector<std::string>& more = {}) const {
    std::vector<std::string> command = {"generate",  model(),        "-p",         "The old lighthouse stood",
                                        "--verbose", "--quantize",   "nf4",        "--temperature",
                                        "0",         "--max-tokens", "12",         "--threads",
                                        "1",         "--json",       "--logprobs", "1"};
    command.insert(command.end(), more.begin(), more.end());
    return nfloat(command, limits_);
  }
  static bool says(const Result& result, const std::string& text) {
    return result.err.find(text) != std::string::npos;
  }
  // The document without its times.
  static std::string timeless(const Result& result) {
    const Json json = Json::parse(result.out);
    return json["text"].dump() + json["precision"].dump() + json["logprobs"].dump();
  }
  // What is kept, with other rates in its first measurement.
  void pretend(double one_bf16, double one_int8, double many_bf16, double many_int8) const {
    Json all = Json::parse(read_file(kept()));
    Json entry = *all["measurements"].begin();
    entry["one_row_bf16"] = one_bf16;
    entry["one_row_int8"] = one_int8;
    entry["many_rows_bf16"] = many_bf16;
    entry["many_rows_int8"] = many_int8;
    Json list = Json::array();
    list.push_back(entry);
    write_file(kept(), Json{{"measurements", list}}.dump());
  }
  Limits limits_;
};

TEST_F(AutomaticPrecision, IsMeasuredOnceAndCanBeRepeated) {
  const Result first = generate();
  ASSERT_TRUE(first.ok()) << first;
  EXPECT_TRUE(says(first, "as measured now and kept in ")) << first;
  const Result second = generate();
  ASSERT_TRUE(second.ok()) << second;
  EXPECT_TRUE(says(second, "as measured before")) << second;
  EXPECT_EQ(timeless(first), timeless(second));
  const Result given = generate({"--precision", Json::parse(first.out)["precision"].get<std::string>()});
  ASSERT_TRUE(given.ok()) << given;
  EXPECT_TRUE(says(given, "as --precision says")) << given;
  EXPECT_EQ(timeless(first), timeless(given));
}

TEST_F(AutomaticPrecision, IsChosenByTheNumberOfRows) {
  ASSERT_TRUE(generate().ok());
  pretend(10, 10.2, 10, 17);
  const Result mixed = generate();
  ASSERT_TRUE(mixed.ok()) << mixed;
  EXPECT_EQ(Json::parse(mixed.out)["precision"].get<std::string>(), "bf16+int8");
  const Result given = generate({"--precision", "bf16+int8"});
  EXPECT_EQ(timeless(mixed), timeless(given)) << given;
  const std::string precision = Json::parse(generate({"--look-up", "4"}).out)["precision"].get<std::string>();
  EXPECT_EQ(precision, "int8");
  pretend(10, 20, 30, 30);
  EXPECT_EQ(Json::parse(generate().out)["precision"].get<std::string>(), "int8+bf16");
}

TEST_F(AutomaticPrecision, IsBf16WhereNoMatrixHasCodes) {
  const auto precision = [&](const std::vector<std::string>& more) {
    std::vector<std::string> command = {"generate",     model(), "-p",        "The",
                                        "--max-tokens", "2",     "--verbose", "--json"};
    command.insert(command.end(), more.begin(), more.end());
    const Result result = nfloat(command, limits_);
    EXPECT_TRUE(result.ok()) << result;
    const bool plain = says(result, "because no matrix of this model has codes");
    EXPECT_TRUE(!plain || Json::parse(result.out)["precision"].get<std::string>() == "bf16") << result;
    return plain;
  };
  EXPECT_TRUE(precision({}));
  EXPECT_FALSE(fs::exists(kept())) << "nothing was measured";
  EXPECT_FALSE(precision({"--head", "int8"}));
  EXPECT_FALSE(precision({"--quantize", "nf4"}));
  EXPECT_FALSE(precision({"--look-up", "4"})) << "guesses are checked together";
  ASSERT_TRUE(nfloat({"quantize", model(), path("nf4")}).ok());
  const Result quantized =
      nfloat({"generate", path("nf4"), "-p", "The", "--max-tokens", "2", "--verbose"}, limits_);
  EXPECT_TRUE(quantized.ok() && says(quantized, "as measured before")) << quantized;
  limits_.environment["NFLOAT_PRECISION"] = "int8";
  EXPECT_FALSE(precision({}));
}

TEST_F(AutomaticPrecision, ADamagedFileIsMeasuredAgain) {
  ASSERT_TRUE(generate().ok());
  const std::string whole = read_file(kept());
  Json foreign = *Json::parse(whole)["measurements"].begin();
  foreign["processor"] = "another";
  std::string wrong = whole;
  wrong.replace(wrong.find("one_row_int8"), 12, "one_row_xxxx");
  std::string negative = whole;
  negative.replace(negative.find("one_row_int8\": ") + 15, 1, "-1");
  for (const std::string& text :
       {std::string(), whole.substr(0, whole.size() / 2), std::string("[]"),
        std::string("{\"measurements\": 3}"), std::string("{\"measurements\": [3, null, []]}"),
        std::string(200'000, '['), std::string(8, '\xff'), "{\"measurements\": [" + foreign.dump() + "]}",
        wrong, negative}) {
    write_file(kept(), text);
    const Result result = generate();
    ASSERT_TRUE(result.ok()) << text.substr(0, 100) << result;
    EXPECT_TRUE(says(result, "as measured now and kept in ")) << text.substr(0, 100) << result;
    EXPECT_TRUE(says(generate(), "as measured before")) << text.substr(0, 100);
  }
  write_file(kept(), "{\"measurements\": [" + foreign.dump() + "]}");
  ASSERT_TRUE(generate().ok());
  EXPECT_NE(read_file(kept()).find("\"another\""), std::string::npos) << "those of other processors stay";
}

TEST_F(AutomaticPrecision, APlaceThatCannotBeWrittenIsNoError) {
  fs::create_directories(kept());  // a folder of that name
  const Result folder = generate();
  EXPECT_TRUE(folder.ok() && says(folder, "as measured now: ")) << folder;
  fs::remove_all(path("cache"));
  write_file(path("cache"), "a file");
  const Result file = generate();
  EXPECT_TRUE(file.ok() && says(file, "as measured now: ")) << file;
  fs::remove_all(path("cache"));
  fs::create_directories(path("cache/nfloat"));
  ASSERT_EQ(::mkfifo(kept().c_str(), 0600), 0);  // read, it would wait for ever
  EXPECT_TRUE(generate().ok());
  fs::remove(kept());
  write_file(path("another"), "{}");
  fs::create_symlink(path("another"), kept());
  const Result link = generate();
  EXPECT_TRUE(link.ok() && says(link, "as measured now: ")) << link;
  EXPECT_EQ(read_file(path("another")), "{}") << "what a link leads to stays";
}

TEST_F(AutomaticPrecision, TheEnvironmentFixesIt) {
  limits_.environment["NFLOAT_PRECISION"] = "int8+bf16";
  const Result fixed = generate();
  ASSERT_TRUE(fixed.ok()) << fixed;
  EXPECT_TRUE(says(fixed, "--precision int8+bf16, as NFLOAT_PRECISION says")) << fixed;
  EXPECT_FALSE(fs::exists(kept()));
  limits_.environment["NFLOAT_PRECISION"] = "int4";
  const Result wrong = generate();
  EXPECT_EQ(wrong.exit_code, 2) << wrong;
  EXPECT_TRUE(says(wrong, "NFLOAT_PRECISION is 'int4'")) << wrong;
}

TEST_F(AutomaticPrecision, ScoresDoNotDependOnIt) {
  write_file(path("text"), read_file(model() + "/stories.txt").substr(0, 600));
  const auto score = [&](const std::vector<std::string>& more) {
    std::vector<std::string> command = {"perplexity", model(), "--text",   path("text"),
                                        "--protocol", "bos",   "--verbose"};
    command.insert(command.end(), more.begin(), more.end());
    return nfloat(command, limits_);
  };
  limits_.environment["NFLOAT_PRECISION"] = "f32";
  const Result result = score({});
  ASSERT_TRUE(result.ok()) << result;
  EXPECT_TRUE(says(result, "--precision bf16, the same on every machine")) << result;
  const Result mixed = score({"--precision", "bf16+int8"});
  EXPECT_EQ(mixed.exit_code, 2) << mixed;
  EXPECT_TRUE(says(mixed, "two precisions, one expected")) << mixed;
}

}  // namespace
}  // namespace nfloat::cli_test
