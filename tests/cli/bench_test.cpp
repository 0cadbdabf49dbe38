// SPDX-License-Identifier: Apache-2.0
// What `nfloat bench` prints. Times are never asserted: only that every rate is there and positive.
#include <gtest/gtest.h>

#include <set>
#include <string>
#include <vector>

#include "base/json.h"
#include "cli/process.h"

namespace nfloat::cli_test {
namespace {

using Bench = Cli;

std::vector<std::string> kernels(const std::vector<std::string>& more) {
  std::vector<std::string> command{"bench", "kernels", "--seconds", "0.01", "--memory", "16"};
  command.insert(command.end(), more.begin(), more.end());
  return command;
}

TEST_F(Bench, KernelsMeasuresTheRowsAskedForBesideTheMachinesLimits) {
  const Result result = nfloat(kernels({"--only", "dequantize", "--threads-list", "1,2", "--json"}));
  ASSERT_TRUE(result.ok()) << result;
  const Json json = Json::parse(result.out);
  ASSERT_EQ(json["limits"].size(), 2u);
  for (const Json& limit : json["limits"]) {
    EXPECT_EQ(limit["memory_bytes"], 16 << 20);
    for (const char* name : {"read_gb_s", "write_gb_s", "copy_gb_s", "cached_read_gb_s"})
      EXPECT_GT(limit[name].get<double>(), 0) << name;
  }
  std::set<std::pair<std::string, int>> rows;
  for (const Json& row : json["results"]) {
    rows.emplace(row["name"].get<std::string>(), row["threads"].get<int>());
    EXPECT_GT(row["rate"].get<double>(), 0) << row;
    EXPECT_EQ(row["unit"], "Gw/s");
    const bool cached = row["name"].get<std::string>().find("in cache") != std::string::npos;
    EXPECT_EQ(row.contains("share"), !cached) << row;
  }
  EXPECT_EQ(json["results"].size(), 8u);
  EXPECT_EQ(rows.size(), 8u);
}

TEST_F(Bench, KernelsPrintsATable) {
  const Result result = nfloat(kernels({"--only", "in cache", "--threads-list", "1"}));
  ASSERT_TRUE(result.ok()) << result;
  for (const char* part : {"read from memory", "one parallel loop", "quantize, absmax, in cache", "Gw/s"})
    EXPECT_NE(result.out.find(part), std::string::npos) << part << result;
  EXPECT_EQ(result.out.find("by 1 row"), std::string::npos) << result;
}

TEST_F(Bench, KernelsNamesWhatIsWrong) {
  const Result none = nfloat(kernels({"--only", "no such row"}));
  EXPECT_EQ(none.exit_code, 2) << none;
  EXPECT_NE(none.err.find("no such row"), std::string::npos) << none;
  const Result threads = nfloat(kernels({"--threads-list", "0"}));
  EXPECT_EQ(threads.exit_code, 2) << threads;
  EXPECT_NE((threads.err + threads.out).find("--threads-list"), std::string::npos) << threads;
}

}  // namespace
}  // namespace nfloat::cli_test
