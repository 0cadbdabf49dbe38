// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include "base/json.h"
#include "cli/process.h"

namespace nfloat::cli_test {
namespace {

class Devices : public Cli {
 protected:
  static Limits on(const std::string& device) {
    Limits limits;
    limits.environment["NFLOAT_DEVICE"] = device;
    return limits;
  }
  static std::vector<std::string> greedy(const std::string& device) {
    return {"generate",      model(), "-p",     "On the farthest end", "-n",  "8",
            "--temperature", "0",     "--json", "--precision",         "f32", "--device",
            device};
  }
};

TEST_F(Devices, WhatIsNotThereIsNamedBeforeAnythingIsLoaded) {
  for (const std::string name : {"abacus", "vulkan:99", "cuda:99", "vulkan:-1", "cuda:emulated"}) {
    const Result result = nfloat(greedy(name));
    EXPECT_EQ(result.exit_code, name.ends_with(":99") ? 1 : 2) << name;
    EXPECT_TRUE(result.out.empty()) << result.out;
    EXPECT_NE(result.err.find(name), std::string::npos) << result.err;
    EXPECT_NE(result.err.find("cpu"), std::string::npos) << result.err;
  }
}

// A kind of which there is none, whatever asks for it.
TEST_F(Devices, WhyThereIsNoneIsSaid) {
  const Json version = Json::parse(nfloat({"version", "--json"}).out);
  bool there[2] = {false, false};
  for (const Json& device : version["devices"]) {
    there[0] = there[0] || device["name"] == "cuda:0";
    there[1] = there[1] || device["name"] == "vulkan:0";
  }
  write_file(path("rows"), R"({"prompt": "Once", "completion": " more"})");
  for (const bool vulkan : {false, true}) {
    const std::string kind = vulkan ? "vulkan" : "cuda";
    EXPECT_NE(version["missing_devices"].contains(kind), there[vulkan]);
    if (there[vulkan]) continue;
    const std::string reason = version["missing_devices"][kind].text();
    EXPECT_NE(
        nfloat({"version"}).out.find("\nno " + kind + std::string(8 - kind.size(), ' ') + reason + "\n"),
        std::string::npos);
    for (const std::vector<std::string>& command :
         std::vector<std::vector<std::string>>{{"generate", model(), "-p", "Once"},
                                               {"chat", model()},
                                               {"serve", model()},
                                               {"perplexity", model(), "--text", path("rows")},
                                               {"compare", model(), "--text", path("rows")},
                                               {"train", model(), path("rows"), "--out", path("adapter")},
                                               {"quantize", model(), path("out")},
                                               {"dequantize", model(), path("out")},
                                               {"plan", model()},
                                               {"bench", model()},
                                               {"bench", "kernels"}})
      for (const std::string& device : {kind, kind + ":1"}) {
        std::vector<std::string> on_device = command;
        on_device.insert(on_device.end(), {"--device", device});
        const Result result = nfloat(on_device);
        EXPECT_EQ(result.exit_code, 1) << result;
        EXPECT_NE(result.err.find("the device is \"" + device + "\", which is not there: " + reason +
                                  "; there are: cpu ("),
                  std::string::npos)
            << command[0] << ": " << result;
      }
  }
}

TEST_F(Devices, AnEnvironmentThatNamesNoneIsWrongUsageOfEveryCommand) {
  write_file(path("rows"), R"({"prompt": "Once", "completion": " more"})");
  for (const std::vector<std::string>& command :
       std::vector<std::vector<std::string>>{{"generate", model(), "-p", "Once"},
                                             {"train", model(), path("rows"), "--out", path("adapter")},
                                             {"quantize", model(), path("out")},
                                             {"bench", model()},
                                             {"version"}}) {
    const Result result = nfloat(command, on("abacus"));
    EXPECT_EQ(result.exit_code, 2) << result;
    EXPECT_NE(result.err.find("NFLOAT_DEVICE is \"abacus\", expected auto, cpu"), std::string::npos)
        << result;
  }
  EXPECT_TRUE(nfloat({"version"}, on("cpu")).ok());
}

TEST_F(Devices, ResultsNameTheirDevice) {
  std::vector<std::string> devices{"cpu"};
  const Json version = Json::parse(nfloat({"version", "--json"}).out);
  for (const Json& device : version["devices"])
    if (device["name"].text().ends_with(":0")) devices.push_back(device["name"].text());
  EXPECT_EQ(version["devices"][0]["name"], "cpu");
  EXPECT_NE(nfloat({"version"}).out.find("devices    cpu ("), std::string::npos);
  write_file(path("text"), read_file(model() + "/stories.txt").substr(0, 1000));
  for (const std::string& device : devices) {
    for (const std::vector<std::string>& command : std::vector<std::vector<std::string>>{
             greedy(device),
             {"perplexity", model(), "--text", path("text"), "--json", "--context", "64", "--device", device},
             {"perplexity", model(), "--text", path("text"), "--json", "--device", device, "--context", "64",
              "--reference-precision", "f32"},
             {"bench", model(), "--prefill", "4", "--generate", "2", "--repetitions", "1", "--no-limit",
              "--json", "--device", device}}) {
      const Result result = nfloat(command);
      ASSERT_TRUE(result.ok()) << result;
      const Json named = Json::parse(result.out)["device"];
      EXPECT_EQ(named["name"], device) << result;
      EXPECT_FALSE(named["model"].text().empty()) << result;
      EXPECT_EQ(named.contains("target"), device == "cpu") << result;
    }
    const Result text = nfloat(
        {"bench", model(), "--prefill", "4", "--generate", "0", "--repetitions", "1", "--device", device});
    EXPECT_NE(text.out.find("\ndevice " + device + " ("), std::string::npos) << text;
  }
}

// --device is taken, and what is not there refused before anything is made.
TEST_F(Devices, CommandsThatMakeSomethingRefuseOthersFirst) {
  write_file(path("rows"), R"({"prompt": "Once", "completion": " more"})");
  const std::vector<std::vector<std::string>> commands{
      {"train", model(), path("rows"), "--steps", "1", "--out", path("adapter")},
      {"quantize", model(), path("out")}};
  for (std::vector<std::string> command : commands) {
    const bool train = command[0] == "train";
    const std::string out = path(train ? "adapter" : "out");
    command.insert(command.end(), {"--device", "abacus"});
    EXPECT_EQ(nfloat(command).exit_code, 2);
    command.back() = "vulkan:99";
    EXPECT_EQ(nfloat(command).exit_code, 1);
    EXPECT_FALSE(std::filesystem::exists(out));
    command.back() = "vulkan";
    const Result result = nfloat(command);
    if (result.err.find("which is not there") != std::string::npos) {
      EXPECT_EQ(result.exit_code, 1);
    } else if (train) {
      EXPECT_TRUE(result.ok()) << result;
      EXPECT_NE(result.err.find("vulkan:0 ("), std::string::npos) << result;
      std::filesystem::remove_all(out);
    } else {
      expect_complaint(result, {"vulkan:0", "neither quantizes nor dequantizes"});
    }
    EXPECT_FALSE(std::filesystem::exists(out));
    command.back() = "auto";
    EXPECT_TRUE(nfloat(command).ok()) << nfloat(command);
  }
  EXPECT_TRUE(nfloat({"plan", model(), "--train", "--device", "auto"}).ok());
}

TEST_F(Devices, PlansForADevice) {
  const Result host = nfloat({"plan", model(), "--device", "cpu"});
  EXPECT_EQ(host.exit_code, 2);
  EXPECT_NE(host.err.find("--memory"), std::string::npos) << host;
  EXPECT_EQ(nfloat({"plan", model(), "--device", "vulkan:99"}).exit_code, 1);
  for (const std::vector<std::string>& more :
       std::vector<std::vector<std::string>>{{"--memory", "8GB"}, {"--ranks", "1GB,1GB"}}) {
    std::vector<std::string> command{"plan", model(), "--device", "vulkan"};
    command.insert(command.end(), more.begin(), more.end());
    EXPECT_EQ(nfloat(command).exit_code, 2);
  }
  const Result result = nfloat({"plan", model(), "--device", "vulkan", "--json", "--context", "300"});
  if (result.err.find("which is not there") != std::string::npos)
    GTEST_SKIP() << "no device of Vulkan here: no driver, or a build without it";
  ASSERT_TRUE(result.ok()) << result;
  const Json plan = Json::parse(result.out);
  EXPECT_EQ(plan["device"]["name"], "vulkan:0");
  EXPECT_GT(plan["device"]["free_bytes"].get<double>(), 0);
  EXPECT_LE(plan["device"]["free_bytes"].get<double>(), plan["device"]["memory_bytes"].get<double>());
  for (const Json& format : plan["formats"])
    EXPECT_EQ(format["fits"].get<bool>(),
              format["peak_bytes"].get<double>() <= plan["device"]["free_bytes"].get<double>());
  const Result text = nfloat({"plan", model(), "--device", "vulkan"});
  EXPECT_EQ(text.out.find("vulkan:0 ("), 0u) << text;
  EXPECT_EQ(text.out.find("it is a processor") != std::string::npos,
            !plan["device"]["accelerator"].get<bool>());
}

TEST_F(Devices, KernelsOfADeviceAreMeasured) {
  EXPECT_EQ(nfloat({"bench", "kernels", "--device", "abacus"}).exit_code, 2);
  const std::vector<std::string> command{"bench",     "kernels",  "--device", "vulkan",
                                         "--seconds", "0.01",     "--only",   "4096x14336 by 1",
                                         "--json",    "--memory", "16"};
  const Result result = nfloat(command);
  if (result.err.find("which is not there") != std::string::npos)
    GTEST_SKIP() << "no device of Vulkan here: no driver, or a build without it";
  ASSERT_TRUE(result.ok()) << result;
  const Json bench = Json::parse(result.out);
  EXPECT_EQ(bench["device"]["name"], "vulkan:0");
  for (const char* limit : {"copy_gb_s", "read_gb_s"}) EXPECT_GT(bench["limits"][limit].get<double>(), 0);
  ASSERT_EQ(bench["results"].size(), 2u) << "float and 8-bit scales";
  for (const Json& row : bench["results"])
    for (const char* rate : {"seconds", "gb_s", "gop_s", "share_of_read"})
      EXPECT_GT(row[rate].get<double>(), 0) << rate;
  std::vector<std::string> none = command;
  none[6 + 1] = "no such row";
  EXPECT_EQ(nfloat(none).exit_code, 1);
  none[7] = "by 1", none.insert(none.end(), {"--threads-list", "1"});
  EXPECT_EQ(nfloat(none).exit_code, 2);
}

TEST_F(Devices, ComparesOnADevice) {
  write_file(path("text"), read_file(model() + "/stories.txt").substr(0, 700));
  const auto compared = [&](const std::string& device) {
    return nfloat({"compare", model(), "--text", path("text"), "--context", "32", "--formats",
                   "int4-asym:32,q8_0", "--work", path("work-" + device), "--json", "-", "--device", device});
  };
  EXPECT_EQ(compared("abacus").exit_code, 2);
  const Result result = compared("vulkan");
  if (result.err.find("which is not there") != std::string::npos)
    GTEST_SKIP() << "no device of Vulkan here: no driver, or a build without it";
  ASSERT_TRUE(result.ok()) << result;
  const Json there = Json::parse(result.out), here = Json::parse(compared("cpu").out);
  EXPECT_EQ(there["device"]["name"], "vulkan:0");
  EXPECT_EQ(here["device"]["name"], "cpu");
  for (size_t i = 0; i < 2; ++i) {
    const double own = there["formats"][i]["divergence"]["mean_kl"].get<double>(),
                 expected = here["formats"][i]["divergence"]["mean_kl"].get<double>();
    EXPECT_GT(expected, 0);
    EXPECT_NEAR(own, expected, 1e-3 * expected);
  }
}

TEST_F(Devices, TheCpuIsTheDefault) {
  std::vector<std::string> without = greedy("cpu");
  without.resize(without.size() - 2);
  const Result named = nfloat(greedy("cpu")), unnamed = nfloat(without);
  ASSERT_TRUE(named.ok()) << named;
  EXPECT_EQ(Json::parse(named.out)["tokens"], Json::parse(unnamed.out)["tokens"]);
}

class Cards : public Devices {
 protected:
  void generates_and_scores(const std::string& kind);
};

void Cards::generates_and_scores(const std::string& kind) {
  const Result result = nfloat(greedy(kind));
  if (result.err.find("which is not there") != std::string::npos)
    GTEST_SKIP() << "no device of " << kind << " here: no driver, or a build without it";
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
  EXPECT_NEAR(perplexity(kind), expected, 1e-4 * expected);
}

TEST_F(Cards, VulkanGeneratesAndScores) {
  generates_and_scores("vulkan");
}
TEST_F(Cards, CudaGeneratesAndScores) {
  generates_and_scores("cuda");
}

}  // namespace
}  // namespace nfloat::cli_test
