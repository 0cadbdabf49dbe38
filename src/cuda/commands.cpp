// SPDX-License-Identifier: Apache-2.0
#include "cuda/commands.h"

#include <algorithm>
#include <new>

namespace nfloat::gpu {

bool takes_long(const Command& command) noexcept {
  constexpr int64_t kManyRows = 16;
  constexpr uint64_t kManyBytes = uint64_t{4} << 20;
  struct Long {
    bool operator()(const CopyCommand& c) const noexcept { return c.bytes * c.rows > kManyBytes; }
    bool operator()(const ZeroCommand& c) const noexcept { return c.bytes > kManyBytes; }
    bool operator()(const RowsCommand& c) const noexcept { return c.arguments.rows > kManyRows; }
    bool operator()(const NormArguments& a) const noexcept { return a.rows > kManyRows; }
    bool operator()(const ActivateArguments& a) const noexcept { return a.rows > kManyRows; }
    bool operator()(const AttentionArguments& a) const noexcept { return a.rows > kManyRows; }
    bool operator()(const ProductCommand& c) const noexcept { return c.arguments.x_rows > kManyRows; }
    bool operator()(const BlocksCommand&) const noexcept { return true; }
  };
  return std::visit(Long(), command);
}

void CommandQueue::push(const Command& command) {
  const std::scoped_lock lock(mutex_);
  if (at_once_) {
    ++counts_.commands;
    return runner_.run(command);
  }
  waiting_.push_back(command);
  if (waiting_.size() < kMostCommands && !takes_long(command)) return;
  run_each();
  at_once_ = true;
}

void CommandQueue::flush() noexcept {
  const std::scoped_lock lock(mutex_);
  at_once_ = false;
  bool done = false;
  try {
    done = waiting_.size() >= kWorthwhile && records_ && replay();
  } catch (const std::bad_alloc&) {  // what runs needs no memory
  }
  if (!done) run_each();
  waiting_.clear();
}

bool CommandQueue::replay() {
  const auto found = std::find_if(recordings_.begin(), recordings_.end(),
                                  [&](const Recording& own) { return own.commands == waiting_; });
  if (found != recordings_.end()) {
    found->used = ++clock_;
    ++counts_.replayed;
    runner_.run(*found->graph);
    return true;
  }
  const auto before = std::find(seen_.begin(), seen_.end(), waiting_);
  if (before == seen_.end()) {
    if (seen_.size() < kMostSeen) {
      seen_.push_back(waiting_);
    } else {
      seen_[oldest_] = waiting_;
      oldest_ = (oldest_ + 1) % kMostSeen;
    }
    return false;
  }
  std::unique_ptr<Graph> graph = runner_.record(waiting_);
  if (graph == nullptr) {
    records_ = false;
    return false;
  }
  before->clear();  // no list that waits is empty
  if (recordings_.size() == kMostGraphs)
    recordings_.erase(
        std::min_element(recordings_.begin(), recordings_.end(),
                         [](const Recording& a, const Recording& b) { return a.used < b.used; }));
  recordings_.push_back({waiting_, std::move(graph), ++clock_});
  ++counts_.recorded;
  runner_.run(*recordings_.back().graph);
  return true;
}

void CommandQueue::run_each() {
  for (const Command& command : waiting_) runner_.run(command);
  counts_.commands += waiting_.size();
  waiting_.clear();
}

CommandQueue::Counts CommandQueue::counts() const {
  const std::scoped_lock lock(mutex_);
  return counts_;
}

}  // namespace nfloat::gpu
