// SPDX-License-Identifier: Apache-2.0
#include "support/thread_ranks.h"

#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <mutex>

#include "base/fail.h"

namespace nfloat {
namespace {

// Where they meet.
struct Meeting {
  explicit Meeting(int ranks) : given(static_cast<size_t>(ranks)), here(static_cast<size_t>(ranks)) {}

  std::mutex mutex;
  std::condition_variable changed;
  std::vector<const void*> given;
  std::vector<char> here;
  size_t arrived = 0;
  uint64_t meetings = 0;  // that have ended
};

class ThreadRanks final : public Ranks {
 public:
  ThreadRanks(int rank, int count, std::shared_ptr<Meeting> meeting, double timeout)
      : Ranks(rank, count), meeting_(std::move(meeting)), timeout_(timeout) {
    for (int i = 0; i < count; ++i) hosts_.push_back("this machine");
  }

  void gather(const void* own, std::span<const size_t> sizes, void* all) override {
    give(own);
    auto* to = static_cast<char*>(all);
    for (size_t i = 0; i < sizes.size(); ++i) {
      if (sizes[i] > 0) std::memcpy(to, meeting_->given[i], sizes[i]);
      to += sizes[i];
    }
    meet();  // until all have read
  }

  void broadcast(void* bytes, size_t count, int from, Patience patience) override {
    give(bytes, patience);
    if (rank() != from && count > 0) std::memcpy(bytes, meeting_->given[static_cast<size_t>(from)], count);
    meet();
  }

  void abort(int exit_code) noexcept override { std::_Exit(exit_code); }

 private:
  // Shows the others where this rank's bytes are; returns when it sees theirs.
  void give(const void* given, Patience patience = Patience::kDeadline) {
    {
      const std::lock_guard lock(meeting_->mutex);
      meeting_->given[static_cast<size_t>(rank())] = given;
    }
    meet(patience);
  }

  void meet(Patience patience = Patience::kDeadline) {
    std::unique_lock lock(meeting_->mutex);
    meeting_->here[static_cast<size_t>(rank())] = 1;
    const uint64_t number = meeting_->meetings;
    if (++meeting_->arrived == meeting_->here.size()) {
      meeting_->arrived = 0;
      meeting_->here.assign(meeting_->here.size(), 0);
      ++meeting_->meetings;
      meeting_->changed.notify_all();
      return;
    }
    const auto over = [&] { return meeting_->meetings != number; };
    if (patience == Patience::kAnyTime && rank() != 0) return meeting_->changed.wait(lock, over);
    if (meeting_->changed.wait_for(lock, std::chrono::duration<double>(timeout_), over)) return;
    std::vector<int> missing;
    for (size_t i = 0; i < meeting_->here.size(); ++i)
      if (meeting_->here[i] == 0) missing.push_back(static_cast<int>(i));
    fail_waiting(missing, timeout_);
  }

  const std::shared_ptr<Meeting> meeting_;
  const double timeout_;
};

}  // namespace

std::vector<std::shared_ptr<Ranks>> thread_ranks(int count, double timeout) {
  const auto meeting = std::make_shared<Meeting>(count);
  std::vector<std::shared_ptr<Ranks>> ranks;
  for (int i = 0; i < count; ++i) ranks.push_back(std::make_shared<ThreadRanks>(i, count, meeting, timeout));
  return ranks;
}

}  // namespace nfloat
