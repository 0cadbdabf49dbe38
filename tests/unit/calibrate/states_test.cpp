// SPDX-License-Identifier: Apache-2.0
// Hidden states in a file, and calibrations that keep theirs there.
#include "calibrate/states.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <csignal>
#include <filesystem>
#include <initializer_list>
#include <numeric>
#include <random>

#include "nfloat/calibrate.h"
#include "nfloat/error.h"
#include "support/paths.h"

namespace nfloat {
namespace {

namespace fs = std::filesystem;

class HiddenStates : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = (fs::temp_directory_path() / ("nfloat-states-" + std::to_string(::getpid()))).string();
    fs::create_directory(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  std::string folder_;
};

TEST_F(HiddenStates, AreTheSameInAFile) {
  constexpr int64_t kRows = 600, kWidth = 37;
  std::vector<float> values(kRows * kWidth);
  std::iota(values.begin(), values.end(), .5f);
  for (const std::string& folder : {std::string(), folder_}) {
    States states(kRows, kWidth, folder);
    for (int64_t row = 0; row < kRows; row += 100) states.write(row, 100, values.data() + row * kWidth);
    const States copy = states.copied();
    std::vector<float> part(200 * kWidth);
    std::fill(part.begin(), part.end(), -1.0f);
    states.write(300, 200, part.data());
    copy.read(250, 200, part.data());
    EXPECT_TRUE(std::equal(part.begin(), part.end(), values.begin() + 250 * kWidth));
    states.read(290, 20, part.data());
    EXPECT_EQ(part[0], values[290 * kWidth]);
    EXPECT_EQ(part[10 * kWidth], -1.0f);
    EXPECT_TRUE(fs::is_empty(folder_));  // it has no name
  }
}

TEST_F(HiddenStates, SayWhereThereIsNoRoom) {
  EXPECT_THROW(States(1, 1, folder_ + "/nothing"), Error);
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  rlimit small = before;
  small.rlim_cur = 4096;
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  std::string message;
  try {
    const States states(1000, 1000, folder_);
  } catch (const Error& error) {
    message = error.what();
  }
  setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, handler);
  EXPECT_NE(message.find(folder_), std::string::npos) << message;
  EXPECT_NE(message.find("no room"), std::string::npos) << message;
}

TEST_F(HiddenStates, ChangeNoCalibration) {
  const std::string model = testing::source_path("/models/nfloat-tiny");
  const auto checkpoint = std::make_shared<const Checkpoint>(model);
  const ModelConfig config = parse_model_config(checkpoint->text_file("config.json"), model);
  std::mt19937 generator(3);
  std::vector<std::vector<int32_t>> windows;
  for (const size_t length : std::initializer_list<size_t>{30, 200, 250, 90, 250}) {  // two chunks
    std::vector<int32_t>& ids = windows.emplace_back();
    while (ids.size() < length)
      ids.push_back(static_cast<int32_t>(generator() % static_cast<uint32_t>(config.vocabulary)));
  }
  QuantizeCheckpointOptions quantize;
  quantize.quantize.double_quantization = true;
  quantize.quantize.scale = ScaleMethod::kSigned;
  for (const int level : {1, 2}) {
    CalibrationOptions options;
    options.level = level;
    options.fast = true;
    options.threads = 2;
    uint64_t memory = 0;
    options.estimated = [&](const CalibrationEstimate& estimate) {
      EXPECT_EQ(estimate.states_bytes, 0u);
      memory = estimate.memory_bytes;
    };
    const Calibration expected = calibrate(checkpoint, config, windows, quantize, options);
    options.threads = 1;
    options.states_folder = folder_;
    options.states_in_memory = 1000;
    options.estimated = [&](const CalibrationEstimate& estimate) {
      EXPECT_GT(estimate.states_bytes, 820 * 256 * sizeof(float));
      EXPECT_EQ(estimate.memory_bytes + estimate.states_bytes, memory);
    };
    const Calibration found = calibrate(checkpoint, config, windows, quantize, options);
    EXPECT_EQ(found.report.kl, expected.report.kl);
    for (const auto& [name, tensor] : expected.tensors) EXPECT_EQ(found.tensors.at(name).codes, tensor.codes);
    EXPECT_TRUE(fs::is_empty(folder_));
  }
}

}  // namespace
}  // namespace nfloat
