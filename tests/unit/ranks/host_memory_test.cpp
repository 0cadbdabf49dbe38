// SPDX-License-Identifier: Apache-2.0
#include "ranks/host_memory.h"

#include <gtest/gtest.h>

#include <chrono>
#include <cstring>
#include <thread>
#include <vector>

namespace nfloat {
namespace {

// What a member gives in a turn: another size each time, the largest and none among them.
std::vector<char> gift(int member, int turn) {
  const size_t size = turn % 7 == member ? 0
                      : turn % 11 == 0   ? HostMemory::kCapacity
                                         : size_t(turn * 37 + member);
  std::vector<char> bytes(size);
  for (size_t i = 0; i < size; ++i) bytes[i] = static_cast<char>(i * 7 + size_t(turn * 13 + member));
  return bytes;
}

constexpr int kMembers = 3;

// Of all members; empty where the system has no shared memory.
std::vector<HostMemory> members() {
  std::vector<HostMemory> memories;
  HostMemory made = HostMemory::make(kMembers);
  if (made.empty()) return memories;
  for (int i = 1; i < kMembers; ++i) memories.push_back(HostMemory::open(made.name(), kMembers));
  made.forget_name();
  EXPECT_TRUE(HostMemory::open(made.name(), kMembers).empty());
  memories.push_back(std::move(made));
  return memories;
}

// body(member, memory) of all at once, each on its thread: how much each found wrong.
template <typename Body>
void expect_none_wrong(std::vector<HostMemory>& memories, const Body& body) {
  std::vector<int> wrong(kMembers);
  std::vector<std::thread> threads;
  for (int member = 0; member < kMembers; ++member)
    threads.emplace_back([&, member] {
      const auto place = static_cast<size_t>(member);
      wrong[place] = body(member, memories[place]);
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, std::vector<int>(kMembers));
}

TEST(HostMemory, MembersHaveWhatTheOthersGaveInEachTurn) {
  constexpr int kTurns = 300;
  std::vector<HostMemory> memories = members();
  if (memories.empty()) GTEST_SKIP() << "this system has no shared memory for it";
  expect_none_wrong(memories, [](int member, HostMemory& memory) {
    int wrong = 0;
    for (int turn = 0; turn < kTurns; ++turn) {
      memory.give(member, gift(member, turn));
      for (int other = 0; other < kMembers; ++other) {
        const std::vector<char> expected = gift(other, turn);
        const char* found = nullptr;
        while ((found = memory.given(other)) == nullptr) std::this_thread::yield();
        if (!std::equal(expected.begin(), expected.end(), found)) ++wrong;
      }
    }
    return wrong;
  });
}

// Those that sleep are woken: were they not, each turn would take a second.
TEST(HostMemory, WhoSleepsIsWoken) {
  constexpr int kTurns = 5000;
  std::vector<HostMemory> memories = members();
  if (memories.empty()) GTEST_SKIP() << "this system has no shared memory for it";
  expect_none_wrong(memories, [](int member, HostMemory& memory) {
    int wrong = 0;
    for (int turn = 0; turn < kTurns; ++turn) {
      const int given = turn * kMembers + member;
      memory.give(member, {reinterpret_cast<const char*>(&given), sizeof given});
      for (int other = 0; other < kMembers; ++other) {
        while (memory.given(other) == nullptr) memory.wait(other, std::chrono::seconds(1));
        int found = 0;
        std::memcpy(&found, memory.given(other), sizeof found);
        if (found != turn * kMembers + other) ++wrong;
      }
    }
    return wrong;
  });
}

TEST(HostMemory, OnlyTheSameIsOpened) {
  HostMemory made = HostMemory::make(2);
  if (made.empty()) GTEST_SKIP() << "this system has no shared memory for it";
  EXPECT_TRUE(HostMemory::open(made.name(), 3).empty());
  EXPECT_TRUE(HostMemory::open("/nfloat-ranks-of-another-machine", 2).empty());
  EXPECT_FALSE(HostMemory::open(made.name(), 2).empty());
  made.forget_name();
}

}  // namespace
}  // namespace nfloat
