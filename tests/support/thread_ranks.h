// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_TESTS_SUPPORT_THREAD_RANKS_H_
#define NFLOAT_TESTS_SUPPORT_THREAD_RANKS_H_

#include <memory>
#include <thread>
#include <vector>

#include "nfloat/ranks.h"

namespace nfloat {

// Ranks of one process, each for a thread of its own: what is written for ranks is run and tested with them
// where there is no MPI. abort() ends the process.
std::vector<std::shared_ptr<Ranks>> thread_ranks(int count, double timeout = kRankTimeout);

// body(i) for each of `count` ranks, in threads of their own.
template <typename Body>
void on_each_rank(size_t count, const Body& body) {
  std::vector<std::thread> threads;
  for (size_t i = 0; i < count; ++i) threads.emplace_back([&body, i] { body(i); });
  for (std::thread& thread : threads) thread.join();
}

}  // namespace nfloat

#endif  // NFLOAT_TESTS_SUPPORT_THREAD_RANKS_H_
