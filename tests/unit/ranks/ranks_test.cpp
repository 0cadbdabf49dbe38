// SPDX-License-Identifier: Apache-2.0
#include "nfloat/ranks.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <functional>
#include <numeric>
#include <thread>

#include "nfloat/error.h"
#include "support/thread_ranks.h"

namespace nfloat {
namespace {

void by_all(const std::vector<std::shared_ptr<Ranks>>& ranks, const std::function<void(Ranks&)>& body) {
  on_each_rank(ranks.size(), [&](size_t i) { body(*ranks[i]); });
}

TEST(Ranks, GatherPutsUnevenPartsInOrder) {
  const auto ranks = thread_ranks(4);
  std::vector<std::string> found(4);
  by_all(ranks, [&](Ranks& own) {
    const std::vector<size_t> sizes = {3, 0, 1, 5};
    const char* const parts[] = {"abc", "", "d", "efghi"};
    for (int round = 0; round < 100; ++round) {
      std::string all(9, '?');
      own.gather(parts[own.rank()], sizes, all.data());
      found[static_cast<size_t>(own.rank())] = all;
    }
  });
  EXPECT_EQ(found, std::vector<std::string>(4, "abcdefghi"));
}

TEST(Ranks, BroadcastAndTextsReachEveryRank) {
  const auto ranks = thread_ranks(3);
  std::vector<std::string> found(3);
  by_all(ranks, [&](Ranks& own) {
    std::string text = own.rank() == 2 ? "from the last" : std::string(static_cast<size_t>(own.rank()), 'x');
    own.broadcast_text(text, 2);
    for (const std::string& one : own.gather_texts(std::string(static_cast<size_t>(own.rank()), 'y')))
      text += "|" + one;
    own.barrier();
    found[static_cast<size_t>(own.rank())] = text;
  });
  EXPECT_EQ(found, std::vector<std::string>(3, "from the last||y|yy"));
}

TEST(Ranks, WhoDoesNotAnswerIsNamedWithThePlace) {
  std::vector<std::string> errors(3), expected(3);
  // The other two have to meet within this time, which on a busy machine they may not do at first.
  for (const std::string timeout : {"0.05", "1", "20"}) {
    const auto ranks = thread_ranks(3, std::stod(timeout));
    by_all(ranks, [&](Ranks& own) {
      if (own.rank() == 1) return;
      own.at("layer", 17);
      try {
        own.barrier();
      } catch (const Error& error) {
        errors[static_cast<size_t>(own.rank())] = error.what();
      }
    });
    expected[0] = "rank 1 on this machine has not answered for " + timeout + " s in layer 17";
    expected[2] = expected[0];
    if (errors == expected) break;
  }
  EXPECT_EQ(errors, expected);
}

TEST(Ranks, SharesOfRowsCoverThemInUnits) {
  for (const int64_t rows : {0, 1, 15, 16, 17, 48, 100, 4864})
    for (const int64_t unit : {16, 64})
      for (const std::vector<double>& weights :
           {std::vector<double>{1}, {1, 1}, {3, 1}, {1, 3}, {1, 1, 1}, {.5, 8, 2.5, 1}, {1, 0, 1}}) {
        const std::vector<int64_t> bounds = share_rows(rows, unit, weights);
        ASSERT_EQ(bounds.size(), weights.size() + 1);
        EXPECT_EQ(bounds.front(), 0);
        EXPECT_EQ(bounds.back(), rows);
        const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
        for (size_t i = 0; i < weights.size(); ++i) {
          EXPECT_LE(bounds[i], bounds[i + 1]);
          if (bounds[i] < rows) {
            EXPECT_EQ(bounds[i] % unit, 0);
          }
          const double wanted = static_cast<double>(rows) * weights[i] / sum;
          EXPECT_NEAR(static_cast<double>(bounds[i + 1] - bounds[i]), wanted, static_cast<double>(unit));
        }
      }
}

TEST(Ranks, TheirPlaceComesFromTheEnvironment) {
  ::unsetenv("OMPI_COMM_WORLD_SIZE");
  EXPECT_EQ(rank_place().count, 1);
  ::setenv("OMPI_COMM_WORLD_SIZE", "4", 1);
  ::setenv("OMPI_COMM_WORLD_RANK", "3", 1);
  ::setenv("OMPI_COMM_WORLD_LOCAL_SIZE", "2", 1);
  EXPECT_EQ(rank_place().count, 4);
  EXPECT_EQ(rank_place().rank, 3);
  EXPECT_EQ(rank_place().local_count, 2);
  ::setenv("OMPI_COMM_WORLD_RANK", "4", 1);  // none of four
  EXPECT_EQ(rank_place().count, 1);
  for (const char* name : {"OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"})
    ::unsetenv(name);
}

}  // namespace
}  // namespace nfloat
