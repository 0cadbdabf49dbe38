// SPDX-License-Identifier: Apache-2.0
// Resident memory does not grow with the model: a synthetic sharded checkpoint that holds one tensor larger
// than the limit itself. NFLOAT_MEMORY_TEST_GB sets its size (1.5 by default).
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>

#include "cli/checkpoint_maker.h"
#include "cli/process.h"

namespace nfloat::cli_test {
namespace {

namespace fs = std::filesystem;
using Memory = Cli;

constexpr int64_t kLimit = 512 << 20;

TEST_F(Memory, StaysUnder512MiBWhateverTheModel) {
  const char* size = std::getenv("NFLOAT_MEMORY_TEST_GB");
  SyntheticModel shape;
  shape.bytes = static_cast<uint64_t>((size != nullptr ? std::strtod(size, nullptr) : 1.5) * 1e9);
  shape.largest_tensor_bytes = 700'000'000;
  if (fs::space(folder_).available < 2 * shape.bytes) GTEST_SKIP() << "too little room in " << folder_;
  const uint64_t bytes = make_checkpoint(path("model"), shape);
  RecordProperty("bytes", std::to_string(bytes));

  const std::vector<std::vector<std::string>> commands = {
      {"quantize", path("model"), path("absmax")},
      {"quantize", path("model"), path("best"), "--preset", "best"},
      {"inspect", path("best"), "--check"},
      {"inspect", path("best"), "--against", path("model")},
      {"dequantize", path("best"), path("back")},
  };
  for (const auto& command : commands) {
    const Result result = nfloat(command);
    EXPECT_TRUE(result.ok()) << command[0] << result;
    EXPECT_LE(result.peak_bytes, kLimit) << command[0] << " " << command[1];
    std::printf("%-10s %5.0f MiB peak, %5.2f s\n", command[0].c_str(),
                static_cast<double>(result.peak_bytes) / (1 << 20), result.seconds);
  }
}

// Layers read one at a time: two of them, the head and the hidden states, whatever the model.
TEST_F(Memory, AStreamedModelScoresTheSameInTheMemoryOfTwoLayers) {
  SyntheticModel shape;
  shape.bytes = 1'000'000'000;
  if (fs::space(folder_).available < 2 * shape.bytes) GTEST_SKIP() << "too little room in " << folder_;
  make_checkpoint(path("model"), shape);
  std::string ids;
  for (int i = 0; i < 20; ++i) ids += (i > 0 ? "," : "") + std::to_string(i * 37 % 1000);
  write_file(path("ids.json"), "{\"token_ids\":[[" + ids + "],[5,6,7]]}");
  const Result whole = nfloat({"perplexity", path("model"), "--tokens", path("ids.json")});
  const Result streamed =
      nfloat({"perplexity", path("model"), "--tokens", path("ids.json"), "--stream-layers"});
  ASSERT_TRUE(whole.ok() && streamed.ok()) << whole << streamed;
  const auto number = [](const Result& result) { return result.out.substr(0, result.out.find('\n')); };
  EXPECT_EQ(number(whole), number(streamed));
  EXPECT_LE(streamed.peak_bytes, kLimit);
  EXPECT_GT(whole.peak_bytes, static_cast<int64_t>(shape.bytes * 9 / 10));
}

}  // namespace
}  // namespace nfloat::cli_test
