// SPDX-License-Identifier: Apache-2.0
// Calibration of the embedded model, end to end: both levels, the same bytes for any number of threads.
#include <gtest/gtest.h>

#include "cli/process.h"

namespace nfloat::cli_test {
namespace {

using Calibrate = Cli;

TEST_F(Calibrate, BothLevelsWriteSoundFilesWithLessDivergence) {
  const std::string model = Cli::model();
  for (const std::string level : {"1", "2"}) {
    for (const std::string threads : {"1", "2"}) {
      const Result result =
          nfloat({"quantize", model, path(level + threads), "--calibrate", model + "/stories.txt",
                  "--calibration-tokens", "2500", "--level", level, "--fast", "--threads", threads});
      ASSERT_TRUE(result.ok()) << result;
      EXPECT_NE(result.out.find("Calibrated at level " + level), std::string::npos) << result;
    }
    EXPECT_EQ(read_file(path(level + "1/model.safetensors")), read_file(path(level + "2/model.safetensors")));
    const Result check = nfloat({"inspect", path(level + "1"), "--check"});
    EXPECT_TRUE(check.ok()) << check;
  }
}

TEST_F(Calibrate, AsksForATextAndEnoughOfIt) {
  const std::string model = Cli::model();
  EXPECT_EQ(nfloat({"quantize", model, path("out"), "--preset", "calibrated"}).exit_code, 2);
  write_file(path("short.txt"), "Once upon a time");
  const Result few = nfloat({"quantize", model, path("out"), "--calibrate", path("short.txt")});
  EXPECT_EQ(few.exit_code, 1) << few;
  EXPECT_NE(few.err.find("at least two"), std::string::npos) << few;
}

}  // namespace
}  // namespace nfloat::cli_test
