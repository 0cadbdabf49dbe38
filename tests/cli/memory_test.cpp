// SPDX-License-Identifier: Apache-2.0
// Resident memory does not grow with the model: a synthetic sharded checkpoint that holds one tensor larger
// than the limit itself. NFLOAT_MEMORY_TEST_GB sets its size (1.5 by default).
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>

#include "base/json.h"
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

// Of products with f16 more is kept in float32 than of those with bf16 where pairs of it are multiplied.
TEST_F(Memory, TrainingTakesWhatIsPlanned) {
  std::string ids;
  for (int i = 0; i < 512; ++i) ids += (i > 0 ? "," : "") + std::to_string(i * 37 % 1000);
  write_file(path("rows.jsonl"), "{\"input_ids\":[" + ids + "],\"labels\":[" + ids + "]}\n");
  for (const bool f16 : {false, true}) {
    const std::string folder = path(f16 ? "f16" : "bf16");
    make_checkpoint(folder, {.bytes = 100'000'000, .f16 = f16});
    const std::vector<std::string> how{"--length",    "512",  "--rows-per-batch", "1",
                                       "--precision", "bf16", "--threads",        "2"};
    std::vector<std::string> plan{"plan", folder, "--train", "--weight-bits", "16", "--json"};
    std::vector<std::string> train{"train",         folder,        path("rows.jsonl"), "--out",
                                   path("adapter"), "--overwrite", "--steps",          "1",
                                   "--recompute",   "none"};
    for (auto* command : {&plan, &train}) command->insert(command->end(), how.begin(), how.end());
    const Result planned = nfloat(plan), trained = nfloat(train);
    ASSERT_TRUE(planned.ok() && trained.ok()) << planned << trained;
    const double expected = Json::parse(planned.out).at("levels").at(0).at("peak_bytes").get<double>();
    const auto found = static_cast<double>(trained.peak_bytes);
    EXPECT_NEAR(1, expected / found, 0.05) << folder << ": " << expected << " planned, " << found;
    std::printf("%-10s %5.0f MiB planned, %5.0f MiB peak, %5.2f s\n", f16 ? "f16" : "bf16",
                expected / (1 << 20), found / (1 << 20), trained.seconds);
  }
}

}  // namespace
}  // namespace nfloat::cli_test
