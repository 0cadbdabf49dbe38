// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "base/json.h"
#include "cli/process.h"

namespace nfloat::cli_test {
namespace {

TEST_F(Cli, CodebookGivesTheTableThatTheQuantizerUses) {
  const Result result = nfloat({"codebook", "nf4", "--json"});
  ASSERT_TRUE(result.ok()) << result;
  const Json json = Json::parse(result.out);
  EXPECT_EQ(json["name"], "nf4");
  EXPECT_EQ(json["bits"], 4);
  EXPECT_EQ(json["zero_code"], 7);
  ASSERT_EQ(json["levels"].size(), 16u);
  EXPECT_EQ(json["thresholds"].size(), 15u);
  EXPECT_EQ(json["levels_hex"][1], "bf3239b1");
  EXPECT_EQ(json["levels_hex"][14], "3f3913b3");
  EXPECT_NEAR(json["exact"][14].get<double>(), 0.72295664415947, 1e-14);
  const auto probabilities = json["probabilities"].get<std::vector<double>>();
  EXPECT_NEAR(std::accumulate(probabilities.begin(), probabilities.end(), 0.0), 1, 1e-9);
  const Result text = nfloat({"codebook", "nf4"});
  ASSERT_TRUE(text.ok()) << text;
  EXPECT_NE(text.out.find("bdba7871"), std::string::npos) << text;
  EXPECT_NE(text.out.find("+8.09"), std::string::npos) << text;
}

TEST_F(Cli, CodebookListsEveryCode) {
  const Result result = nfloat({"codebook", "--json"});
  ASSERT_TRUE(result.ok()) << result;
  for (const Json& entry : Json::parse(result.out)) {
    const std::string name = entry["name"].text();
    const Result one = nfloat({"codebook", name, "--json"});
    ASSERT_TRUE(one.ok()) << one;
    EXPECT_EQ(Json::parse(one.out)["levels"].size(), entry["levels"].get<size_t>()) << name;
  }
}

TEST_F(Cli, CodebookErrorsByQuadratureAndBySampling) {
  const Result result = nfloat(
      {"codebook", "nf4", "fp4", "--errors", "--block-sizes", "32,64", "--simulate", "200000", "--json"});
  ASSERT_TRUE(result.ok()) << result;
  const Json errors = Json::parse(result.out)["errors"];
  ASSERT_EQ(errors.size(), 4u);
  EXPECT_NEAR(errors[0]["mse"].get<double>(), .00762342, 1e-7);
  EXPECT_NEAR(errors[1]["mse"].get<double>(), .00846005, 1e-7);
  EXPECT_NEAR(errors[3]["mse"].get<double>(), .01487052, 1e-7);
  for (const Json& entry : errors) {
    const Json& drawn = entry["simulated"];
    EXPECT_NEAR(drawn["mse"].get<double>(), entry["mse"].get<double>(),
                5 * drawn["mse_standard_error"].get<double>())
        << entry;
  }
}

TEST_F(Cli, CodebookOffsetSweepFindsWhat929Over960Optimises) {
  const std::string picture = path("sweep.svg");
  const Result result = nfloat({"codebook", "--sweep-offset", "--json", "--plot", picture});
  ASSERT_TRUE(result.ok()) << result;
  const Json sweep = Json::parse(result.out)["block_sizes"][0];
  EXPECT_NEAR(sweep["best_offset_squared"].get<double>(), .936730, 1e-4);
  EXPECT_LT(sweep["mae_at_nf4"].get<double>() / sweep["least_mae"].get<double>() - 1, 6e-5);
  EXPECT_GT(sweep["mse_at_nf4"].get<double>() / sweep["least_mse"].get<double>() - 1, 0.05);
  EXPECT_NE(read_file(picture).find("</svg>"), std::string::npos);
}

TEST_F(Cli, CodebookReadsATableThatItWrote) {
  const Result written = nfloat({"codebook", "bof4-s", "--block-size", "128", "--json"});
  ASSERT_TRUE(written.ok()) << written;
  write_file(path("table.json"), written.out);
  const Result result = nfloat({"codebook", "--file", path("table.json"), "--json"});
  ASSERT_TRUE(result.ok()) << result;
  const Json expected = Json::parse(written.out), actual = Json::parse(result.out);
  for (const char* field : {"name", "levels_hex", "thresholds", "signed_scale"})
    EXPECT_EQ(actual[field], expected[field]) << field;
}

TEST_F(Cli, CodebookExplainsWhatIsWrong) {
  expect_complaint(nfloat({"codebook", "nf9"}), {"nf9", "nf8", "lloyd-max"});
  expect_complaint(nfloat({"codebook", "--file", path("absent")}), {"absent"});
  expect_complaint(nfloat({"codebook", "nf4", "--plot", path("no/such/folder.svg")}), {"folder.svg"});
  write_file(path("bad"), "1 2\nthree");
  expect_complaint(nfloat({"codebook", "--file", path("bad")}), {"bad", "line 2", "three"});
  const std::vector<std::vector<std::string>> misuses = {{"--errors"},
                                                         {"--plot", path("a.svg")},
                                                         {"fp4", "--offset", "0.9"},
                                                         {"nf4", "--offset", "x"},
                                                         {"nf4", "--explain", "--json"},
                                                         {"int4", "--explain"},
                                                         {"--sweep-offset", "--errors"}};
  for (std::vector<std::string> arguments : misuses) {
    arguments.insert(arguments.begin(), "codebook");
    const Result result = nfloat(arguments);
    EXPECT_EQ(result.exit_code, 2) << result;
    EXPECT_EQ(result.out, "") << result;
  }
}

}  // namespace
}  // namespace nfloat::cli_test
