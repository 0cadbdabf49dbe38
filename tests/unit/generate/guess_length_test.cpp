// SPDX-License-Identifier: Apache-2.0
#include "generate/guess_length.h"

#include <gtest/gtest.h>

namespace nfloat {
namespace {

constexpr double kCost = 0.06;  // of a guess, as a part of a pass

// Guesses made in `passes` passes in which every guess finds tokens, of which `right` at most are right.
int64_t guessed(GuessLength& length, int64_t passes, int64_t right, double cost = kCost) {
  int64_t sum = 0;
  for (int64_t pass = 0; pass < passes; ++pass) {
    const int64_t guess = length(7, cost);
    length.checked(guess, std::min(guess, right));
    sum += guess;
  }
  return sum;
}

TEST(GuessLengths, GrowWhereGuessesAreRight) {
  GuessLength length;
  EXPECT_GE(length(7, kCost), 2) << "a source that nothing is known of is tried";
  EXPECT_GE(guessed(length, 20, 7), 100);
  EXPECT_EQ(length(7, kCost), 7);
}

TEST(GuessLengths, WhatIsNeverRightIsTriedEverMoreSeldom) {
  GuessLength length;
  const int64_t first = guessed(length, 1000, 0), later = guessed(length, 100000, 0);
  EXPECT_LE(first, 30);
  EXPECT_LE(later, 100000 / 500 + 1);
  EXPECT_GE(later, 100000 / 1000) << "but it is tried";
}

TEST(GuessLengths, WhatHasBecomeRightIsFound) {
  GuessLength length;
  guessed(length, 100000, 0);
  guessed(length, 1500, 7);
  EXPECT_EQ(length(7, kCost), 7);
}

TEST(GuessLengths, NothingIsGuessedThatCostsMoreThanItGains) {
  GuessLength length;
  EXPECT_LE(guessed(length, 1700, 7, 2.0), 100) << "though all are right";
  EXPECT_EQ(length(0, 0), 0);
}

}  // namespace
}  // namespace nfloat
