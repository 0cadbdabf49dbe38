// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include "base/json.h"
#include "cli/process.h"

namespace nfloat::cli_test {
namespace {

class Devices : public Cli {
 protected:
  static std::vector<std::string> greedy(const std::string& device) {
    return {"generate",      model(), "-p",     "On the farthest end", "-n",  "8",
            "--temperature", "0",     "--json", "--precision",         "f32", "--device",
            device};
  }
};

TEST_F(Devices, WhatIsNotThereIsNamedBeforeAnythingIsLoaded) {
  for (const std::string name : {"abacus", "vulkan:99", "cuda", "vulkan:-1"}) {
    const Result result = nfloat(greedy(name));
    EXPECT_FALSE(result.ok()) << name;
    EXPECT_TRUE(result.out.empty()) << result.out;
    EXPECT_NE(result.err.find(name), std::string::npos) << result.err;
    EXPECT_NE(result.err.find("cpu"), std::string::npos) << result.err;
  }
}

TEST_F(Devices, TheCpuIsTheDefault) {
  std::vector<std::string> without = greedy("cpu");
  without.resize(without.size() - 2);
  const Result named = nfloat(greedy("cpu")), unnamed = nfloat(without);
  ASSERT_TRUE(named.ok()) << named;
  EXPECT_EQ(Json::parse(named.out)["tokens"], Json::parse(unnamed.out)["tokens"]);
}

TEST_F(Devices, VulkanGeneratesAndScores) {
  const Result result = nfloat(greedy("vulkan"));
  if (result.err.find("which is not there") != std::string::npos)
    GTEST_SKIP() << "no device of Vulkan here: no driver, or a build without it";
  ASSERT_TRUE(result.ok()) << result;
  EXPECT_EQ(Json::parse(result.out)["tokens"], Json::parse(nfloat(greedy("cpu")).out)["tokens"]);
  write_file(path("text"), read_file(model() + "/stories.txt").substr(0, 3000));
  const auto perplexity = [&](const std::string& device) {
    const Result own = nfloat(
        {"perplexity", model(), "--text", path("text"), "--precision", "f32", "--json", "--device", device});
    EXPECT_TRUE(own.ok()) << own;
    return Json::parse(own.out)["perplexity"].get<double>();
  };
  const double expected = perplexity("cpu");
  EXPECT_NEAR(perplexity("vulkan"), expected, 1e-4 * expected);
}

}  // namespace
}  // namespace nfloat::cli_test
