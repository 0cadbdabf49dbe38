// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include "nfloat/comparison.h"
#include "nfloat/text.h"

namespace nfloat {
namespace {

TEST(Recipe, WordsAreQuotedForAShell) {
  EXPECT_EQ(shell_word("models/a-b_1.5"), "models/a-b_1.5");
  EXPECT_EQ(shell_word(""), "''");
  EXPECT_EQ(shell_word("my model"), "'my model'");
  EXPECT_EQ(shell_word("it's $HOME"), "'it'\\''s $HOME'");
  EXPECT_EQ(shell_word("größe"), "'größe'");
  EXPECT_EQ(shell_word("a\n'b"), "$'a\\x0a\\x27b'");
}

TEST(Recipe, CalibratedFormatsNameTheirText) {
  const std::string format = "nf4:64:signed:dq:calibrated";
  const std::string command = how_to_make("my model", format, Reader::kNfloat, "my text.txt");
  EXPECT_NE(command.find("quantize 'my model' OUT"), std::string::npos) << command;
  EXPECT_NE(command.find("--calibrate 'my text.txt' --level 2"), std::string::npos) << command;
  const std::string third = how_to_make("m", format + "3", Reader::kNfloat, "text");
  EXPECT_NE(third.find("--calibrate text --level 3"), std::string::npos) << third;
  EXPECT_EQ(how_to_make("m", format, Reader::kNfloat).find("--calibrate "), std::string::npos);
  EXPECT_EQ(how_to_make("m", "nf4:64", Reader::kNfloat, "text").find("--calibrate "), std::string::npos);
  EXPECT_EQ(how_to_make("my model", "q4_k", Reader::kNfloat),
            "nfloat convert 'my model' OUT.gguf --type q4_k");
}

}  // namespace
}  // namespace nfloat
