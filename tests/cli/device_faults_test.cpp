// SPDX-License-Identifier: Apache-2.0
// A device of Vulkan that is lost, has no memory or no driver: one sentence that names it, nothing half done.
// The faults are those of tests/vulkan/checking_loader.cpp, which stands before the real loader.
#include <gtest/gtest.h>

#include <thread>

#include "base/json.h"
#include "cli/process.h"

namespace nfloat::cli_test {
namespace {

class DeviceFaults : public Cli {
 protected:
  void SetUp() override {
    Cli::SetUp();
    if (nfloat({"version"}, with("")).out.find("vulkan:0 (checked ") == std::string::npos)
      GTEST_SKIP() << "no device of Vulkan here: no driver, or a build without it";
  }

  static std::string loader() { return std::filesystem::path(NFLOAT_CLI).parent_path() / "checking_vulkan"; }
  static Limits with(const std::string& fault) {
    Limits limits;
    limits.environment["LD_LIBRARY_PATH"] = loader();
    limits.environment["NFLOAT_VULKAN_FAULT"] = fault;
    return limits;
  }
  static std::vector<std::string> generate(const std::string& device = "vulkan") {
    return {"generate",      model(), "-p",     "On the farthest end", "-n",  "6",
            "--temperature", "0",     "--json", "--kv-cache",          "f16", "--device",
            device};
  }
  static Json tokens(const Result& result) {
    EXPECT_TRUE(result.ok()) << result;
    return Json::parse(result.out)["tokens"];
  }
};

TEST_F(DeviceFaults, ALostDeviceIsNamedWheneverItIsLost) {
  for (const std::string fault :
       {"submit:1", "submit:2", "submit:30", "submit:60", "wait:1", "wait:2", "wait:30"}) {
    const Result result = nfloat(generate(), with(fault));
    SCOPED_TRACE(fault);
    expect_complaint(result, {"the device vulkan:0 (", "has failed: VK_ERROR_DEVICE_LOST"});
  }
  write_file(path("text"), read_file(model() + "/stories.txt").substr(0, 400));
  for (const std::vector<std::string>& command : std::vector<std::vector<std::string>>{
           {"perplexity", model(), "--text", path("text"), "--json", "--device", "vulkan"},
           {"bench", "kernels", "--device", "vulkan", "--only", "x4096 by 1 row", "--memory", "16"},
           {"compare", model(), "--text", path("text"), "--context", "32", "--formats", "q8_0", "--work",
            path("work"), "--json", path("out.json"), "--device", "vulkan"}}) {
    const Result result = nfloat(command, with("submit:20"));
    EXPECT_EQ(result.exit_code, 1) << result;
    EXPECT_TRUE(result.out.empty()) << result;
    EXPECT_NE(result.err.find("the device vulkan:0 ("), std::string::npos) << result;
  }
  EXPECT_FALSE(std::filesystem::exists(path("out.json")));
  tokens(nfloat(generate(), with("")));  // nothing of it stays
}

TEST_F(DeviceFaults, MemoryThatIsNotThereIsNamed) {
  // What is known before loading is said with the numbers; what shows later, too.
  expect_complaint(nfloat(generate(), with("heap:2")),
                   {"MiB of memory and 2 MiB are available on vulkan:0 ("});
  expect_complaint(nfloat(generate(), with("memory:1")), {"vulkan:0 (", "MiB of memory: ", "MiB are free"});
  expect_complaint(nfloat(generate(), with("pipeline:1")), {"vulkan:0 (", "a shader could not be made"});
  const Result plan = nfloat({"plan", model(), "--device", "vulkan", "--json"}, with("heap:80"));
  ASSERT_TRUE(plan.ok()) << plan;
  const Json formats = Json::parse(plan.out)["formats"];
  EXPECT_FALSE(formats[0]["fits"].get<bool>());
  EXPECT_EQ(formats[0]["largest_context"].get<int64_t>(), 0);
  EXPECT_TRUE(formats[formats.size() - 1]["fits"].get<bool>()) << plan.out;
  // What is planned to fit does; on this device the host's part of it comes from the same memory.
  std::vector<std::string> fitting = generate();
  fitting.insert(fitting.end(), {"--quantize", "nf4", "--double-quantization"});
  tokens(nfloat(fitting, with("heap:100")));
}

TEST_F(DeviceFaults, WithoutALoaderOrADriverThereIsNoDevice) {
  std::filesystem::create_directory(path("none"));
  for (const char* name : {"libvulkan.so.1", "libvulkan.so"}) write_file(path("none/") + name, "no library");
  Limits without;
  without.environment["LD_LIBRARY_PATH"] = path("none");
  Limits broken;
  write_file(path("icd.json"), "{\"file_format_version\": ");
  for (const char* name : {"VK_DRIVER_FILES", "VK_ICD_FILENAMES"})
    broken.environment[name] = path("icd.json");
  Limits missing;
  write_file(
      path("lost.json"),
      R"({"file_format_version": "1.0.0", "ICD": {"library_path": "/nowhere.so", "api_version": "1.3.0"}})");
  for (const char* name : {"VK_DRIVER_FILES", "VK_ICD_FILENAMES"})
    missing.environment[name] = path("lost.json");
  const Json expected = tokens(nfloat(generate("cpu")));
  const auto list = {without, broken, missing};
  for (const Limits& limits : list) {
    const Result result = nfloat(generate(), limits);
    const std::string reason =
        &limits == &*list.begin() ? "its loader cannot be loaded (" : "its loader f";  // finds none, or fails
    EXPECT_EQ(result.exit_code, 1) << result;
    EXPECT_TRUE(result.out.empty()) << result;
    EXPECT_NE(result.err.find("the device is \"vulkan\", which is not there: " + reason), std::string::npos)
        << result;
    EXPECT_NE(result.err.find("; there are: cpu"), std::string::npos) << result;
    EXPECT_EQ(tokens(nfloat(generate("auto"), limits)), expected);
    const Json version = Json::parse(nfloat({"version", "--json"}, limits).out);
    EXPECT_EQ(version["devices"].size(), 1u);
    EXPECT_TRUE(version["missing_devices"]["vulkan"].text().starts_with(reason)) << version.dump();
    EXPECT_NE(nfloat({"version"}, limits).out.find("\nno vulkan  " + reason), std::string::npos);
  }
}

TEST_F(DeviceFaults, TwoProcessesShareADevice) {
  const Json expected = tokens(nfloat(generate("cpu")));
  Result found[2];
  std::thread other([&] { found[1] = nfloat(generate()); });
  found[0] = nfloat(generate());
  other.join();
  for (const Result& result : found) EXPECT_EQ(tokens(result), expected);
}

}  // namespace
}  // namespace nfloat::cli_test
