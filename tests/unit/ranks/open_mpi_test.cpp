// SPDX-License-Identifier: Apache-2.0
// What mpirun starts (ranks_test.open_mpi); skipped elsewhere.
#include <gtest/gtest.h>

#include <chrono>
#include <functional>
#include <string>
#include <thread>

#include "nfloat/error.h"
#include "nfloat/ranks.h"

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
  constexpr double kTimeout = 2;
  std::shared_ptr<Ranks> ranks = join_ranks(kTimeout);
  failure_of([] { join_ranks(); }, ErrorCode::kUnsupported);
  if (ranks->rank() == 1) std::this_thread::sleep_for(std::chrono::seconds(20));  // until mpirun ends it
  const std::string late = failure_of([&] { ranks->barrier(); }, ErrorCode::kIo);
  EXPECT_NE(late.find("rank 1 on "), std::string::npos) << late;
  const Clock::time_point start = Clock::now();
  EXPECT_EQ(failure_of([&] { ranks->barrier(); }, ErrorCode::kIo),
            "an exchange between the ranks failed before");
  ranks.reset();
  EXPECT_LT(std::chrono::duration<double>(Clock::now() - start).count(), kTimeout / 2);
}

}  // namespace
}  // namespace nfloat
