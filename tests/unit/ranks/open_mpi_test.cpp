// SPDX-License-Identifier: Apache-2.0
// What mpirun starts (ranks_test.open_mpi); skipped elsewhere.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "nfloat/error.h"
#include "nfloat/ranks.h"
#include "nfloat/version.h"

namespace nfloat {
namespace {

using Clock = std::chrono::steady_clock;

std::string failure_of(const std::function<void()>& call, ErrorCode code) {
  try {
    call();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "nothing was thrown";
  return {};
}

// Ranks are joined once. Rank 1 does not answer. Rank 0 waits once, not again for what follows nor at the
// end.
TEST(OpenMpi, AfterAMissedDeadlineNothingWaits) {
  if (rank_place().count != 2) GTEST_SKIP() << "needs two ranks, started by mpirun -n 2";
  constexpr double kTimeout = 5;
  std::shared_ptr<Ranks> ranks = join_ranks(kTimeout);
  failure_of([] { join_ranks(); }, ErrorCode::kUnsupported);
  if (ranks->rank() == 1) std::this_thread::sleep_for(std::chrono::minutes(2));  // until mpirun ends it
  const std::string late = failure_of([&] { ranks->barrier(); }, ErrorCode::kIo);
  EXPECT_NE(late.find("rank 1 on "), std::string::npos) << late;
  const Clock::time_point start = Clock::now();
  EXPECT_EQ(failure_of([&] { ranks->barrier(); }, ErrorCode::kIo),
            "an exchange between the ranks failed before");
  ranks.reset();
  EXPECT_LT(std::chrono::duration<double>(Clock::now() - start).count(), kTimeout);
}

// Before anything is exchanged whose meaning they would have to agree on.
TEST(OpenMpi, OtherProgramsAreNamed) {
  if (rank_place().count != 2) GTEST_SKIP() << "needs two ranks, started by mpirun -n 2";
  const std::string own = rank_place().rank == 0 ? "of one kind" : "of another";
  const std::string said = failure_of([&] { join_ranks(60, own); }, ErrorCode::kUnsupported);
  const std::string version(nfloat::version());
  EXPECT_EQ(said.find("rank 1 on "), 0u) << said;
  EXPECT_NE(said.find(" runs nfloat " + version + " of another, rank 0 on "), std::string::npos) << said;
  EXPECT_NE(said.find(" nfloat " + version + " of one kind: all ranks"), std::string::npos) << said;
}

// Of sizes below and above what goes through a machine's memory at once; then a child of fork().
TEST(OpenMpi, ExchangesOfAnySizes) {
  if (rank_place().count != 3) GTEST_SKIP() << "needs three ranks, started by mpirun -n 3";
  const std::shared_ptr<Ranks> ranks = join_ranks(60);
  const auto value = [](size_t rank, size_t i) { return static_cast<char>(i * 31 + rank * 7 + i / 1000); };
  for (const std::vector<size_t>& sizes : {std::vector<size_t>{0, 0, 0},
                                           {1, 1, 1},
                                           {5, 0, 70000},
                                           {0, 0, 9},
                                           {131072, 131073, 262144},
                                           {1000003, 17, 0},
                                           {3, 131072, 2}}) {
    std::vector<char> own(sizes[static_cast<size_t>(ranks->rank())]),
        all(sizes[0] + sizes[1] + sizes[2], 'x');
    for (size_t i = 0; i < own.size(); ++i) own[i] = value(static_cast<size_t>(ranks->rank()), i);
    ranks->gather(own.data(), sizes, all.data());
    size_t at = 0, wrong = 0;
    for (size_t rank = 0; rank < sizes.size(); ++rank)
      for (size_t i = 0; i < sizes[rank]; ++i) wrong += all[at++] == value(rank, i) ? 0 : 1;
    EXPECT_EQ(wrong, 0u) << sizes[0] << ", " << sizes[1] << ", " << sizes[2];
    std::string text(sizes[2], static_cast<char>('a' + ranks->rank()));
    ranks->broadcast_text(text, 2);
    EXPECT_EQ(text, std::string(sizes[2], 'c'));
  }
  const pid_t child = ::fork();
  if (child == 0) {
    try {
      ranks->barrier();
    } catch (const Error& error) {
      ::_exit(error.code() == ErrorCode::kUnsupported ? 7 : 1);
    }
    ::_exit(2);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 7) << status;
  ranks->barrier();
}

}  // namespace
}  // namespace nfloat
