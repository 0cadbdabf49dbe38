// SPDX-License-Identifier: Apache-2.0
#include "base/worker_team.h"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <memory>
#include <new>
#include <system_error>
#include <thread>
#include <vector>

#include "base/available_threads.h"

namespace nfloat {
namespace {

// Longer than what lies between two parallel loops of a token, shorter than anyone notices on an idle
// machine.
constexpr std::chrono::microseconds kAwake{150};

void relax() noexcept {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Waits for ready() until `limit`; false when it did not come.
template <typename Ready>
bool spin(std::chrono::microseconds limit, Ready&& ready) noexcept {
  const auto end = std::chrono::steady_clock::now() + limit;
  do {
    for (int i = 0; i < 32; ++i) {
      if (ready()) return true;
      relax();
    }
  } while (std::chrono::steady_clock::now() < end);
  return false;
}

class Team;

constexpr int kMostTeams = 64;
constexpr int kMostHelpers = 4096;
// After the system refused a thread: when to ask again.
constexpr std::chrono::seconds kRefusalLasts{1};
// How long loops count as crowded after two of them had more threads than there are processors: what runs
// between the loops of a token needs the processors too.
constexpr std::chrono::milliseconds kCrowdLasts{10};

using Clock = std::chrono::steady_clock;

// What all teams share. Teams are added in front and never removed.
std::atomic<Team*> teams{nullptr};
std::atomic<int> team_count{0};
std::atomic<int> helper_count{0};
std::atomic<int> busy_threads{0};  // in loops now
std::atomic<Clock::rep> crowded_until{0};

thread_local bool inside = false;
thread_local Team* last_team = nullptr;

// Whether threads that are awake without work would keep others from theirs; `threads` more are about to run.
bool crowded(int threads) noexcept {
  const int processors = available_processors();
  if (threads > processors) return true;
  const int others = busy_threads.load(std::memory_order_relaxed);
  const Clock::rep until = crowded_until.load(std::memory_order_relaxed);
  if (others == 0 && until == 0) return false;
  const Clock::time_point now = Clock::now();
  if (others + threads <= processors) return now.time_since_epoch().count() < until;
  crowded_until.store((now + kCrowdLasts).time_since_epoch().count(), std::memory_order_relaxed);
  return true;
}

class Team {
 public:
  // False when another call has it.
  bool take() noexcept {
    return !taken_.load(std::memory_order_relaxed) && !taken_.exchange(true, std::memory_order_acquire);
  }
  void give_back() noexcept { taken_.store(false, std::memory_order_release); }

  // Ends and joins the threads of a team that is taken; it is never given back.
  void stop() noexcept {
    stopping_.store(true, std::memory_order_seq_cst);
    for (const auto& helper : helpers_) {
      helper->asleep.store(0, std::memory_order_seq_cst);
      helper->asleep.notify_one();
      helper->thread.join();
    }
    helpers_.clear();
  }

  void run(int threads, int shares, void (*body)(void*, int), void* context) noexcept {
    limit_.store(crowded(threads) ? std::chrono::microseconds(0) : kAwake, std::memory_order_relaxed);
    busy_threads.fetch_add(threads, std::memory_order_relaxed);
    share_out(threads, shares, body, context);
    busy_threads.fetch_sub(threads, std::memory_order_relaxed);
  }

  Team* next = nullptr;

 private:
  struct alignas(64) Helper {
    uint64_t number = 1;  // the caller is 0
    std::atomic<int> asleep{0};
    std::thread thread;
  };

  void share_out(int threads, int shares, void (*body)(void*, int), void* context) noexcept {
    grow(threads - 1);
    body_ = body;
    context_ = context;
    shares_ = shares;
    pending_.store(shares, std::memory_order_relaxed);
    const uint64_t job = (state_.load(std::memory_order_relaxed) >> (kThreadBits + kShareBits)) + 1;
    state_.store(
        (job << kThreadBits | static_cast<uint64_t>(threads)) << kShareBits | static_cast<uint64_t>(shares),
        std::memory_order_seq_cst);
    for (size_t i = 0; i < helpers_.size() && i + 1 < static_cast<size_t>(threads); ++i) {
      if (helpers_[i]->asleep.load(std::memory_order_seq_cst) == 0) continue;
      helpers_[i]->asleep.store(0, std::memory_order_seq_cst);
      helpers_[i]->asleep.notify_one();
    }
    inside = true;
    while (work(0)) {
    }
    inside = false;
    const auto done = [this] { return pending_.load(std::memory_order_acquire) == 0; };
    if (spin(limit_.load(std::memory_order_relaxed), done)) return;
    for (int left = pending_.load(std::memory_order_acquire); left != 0;
         left = pending_.load(std::memory_order_acquire))
      pending_.wait(left, std::memory_order_acquire);
  }

  // Begun lazily; where the system gives no thread, the others do its shares.
  void grow(int helpers) noexcept {
    if (static_cast<size_t>(helpers) <= helpers_.size()) return;
    if (refused_until_ != Clock::time_point() && Clock::now() < refused_until_) return;
    while (helpers_.size() < static_cast<size_t>(helpers)) {
      if (add_helper()) continue;
      refused_until_ = Clock::now() + kRefusalLasts;
      return;
    }
    refused_until_ = {};
  }

  bool add_helper() noexcept {
    if (helper_count.fetch_add(1, std::memory_order_relaxed) < kMostHelpers) {
      try {
        helpers_.push_back(std::make_unique<Helper>());
        Helper* helper = helpers_.back().get();
        helper->number = helpers_.size();
        try {
          helper->thread = std::thread([this, helper] { help(*helper); });
          return true;
        } catch (...) {
          helpers_.pop_back();
          throw;
        }
      } catch (const std::exception&) {  // no memory, or no thread
      }
    }
    helper_count.fetch_sub(1, std::memory_order_relaxed);
    return false;
  }

  static bool has_work(uint64_t state, uint64_t thread) noexcept {
    return (state & kShareMask) != 0 && thread < ((state >> kShareBits) & kThreadMask);
  }

  // Does one share of the current job; false when none is left for this thread. The job's fields are read
  // after a share was taken only: they stay until all taken shares are done.
  bool work(uint64_t thread) noexcept {
    uint64_t state = state_.load(std::memory_order_acquire);
    do {
      if (!has_work(state, thread)) return false;
    } while (!state_.compare_exchange_weak(state, state - 1, std::memory_order_acq_rel,
                                           std::memory_order_acquire));
    body_(context_, shares_ - static_cast<int>(state & kShareMask));
    if (pending_.fetch_sub(1, std::memory_order_acq_rel) == 1) pending_.notify_one();
    return true;
  }

  bool idle(uint64_t thread) const noexcept {
    return !has_work(state_.load(std::memory_order_seq_cst), thread) &&
           !stopping_.load(std::memory_order_seq_cst);
  }

  void help(Helper& helper) noexcept {
    inside = true;
    while (!stopping_.load(std::memory_order_relaxed)) {
      while (work(helper.number)) {
      }
      if (spin(limit_.load(std::memory_order_relaxed), [&] { return !idle(helper.number); })) continue;
      helper.asleep.store(1, std::memory_order_seq_cst);
      if (idle(helper.number)) helper.asleep.wait(1, std::memory_order_seq_cst);
      helper.asleep.store(0, std::memory_order_seq_cst);
    }
  }

  static constexpr int kShareBits = 16, kThreadBits = 16;
  static constexpr uint64_t kShareMask = (uint64_t{1} << kShareBits) - 1;
  static constexpr uint64_t kThreadMask = (uint64_t{1} << kThreadBits) - 1;

  std::atomic<bool> taken_{true};  // by the call that makes it
  std::atomic<bool> stopping_{false};
  std::vector<std::unique_ptr<Helper>> helpers_;
  Clock::time_point refused_until_;  // the epoch: nothing was refused
  std::atomic<std::chrono::microseconds> limit_{kAwake};
  void (*body_)(void*, int) = nullptr;
  void* context_ = nullptr;
  int shares_ = 0;
  alignas(64) std::atomic<uint64_t> state_{0};  // the job's number, its threads, shares that nobody has taken
  alignas(64) std::atomic<int> pending_{0};     // shares that are not done
};

// The child's only thread is the one that forked: it begins without teams, as the process did.
void forget_teams() noexcept {
  teams.store(nullptr, std::memory_order_relaxed);
  team_count.store(0, std::memory_order_relaxed);
  helper_count.store(0, std::memory_order_relaxed);
  busy_threads.store(0, std::memory_order_relaxed);
  crowded_until.store(0, std::memory_order_relaxed);
  last_team = nullptr;
}

// When the program is loaded: a child can be forked during the first call.
const bool registered = ::pthread_atfork(nullptr, nullptr, forget_teams) == 0;

// At the end of the process, and when the library is unloaded: threads that do not work end before their code
// and their memory do. A team in use by another thread is left to it, and the teams themselves stay, as
// threads remember them.
struct StopTeams {
  ~StopTeams() {
    if (inside) return;  // a share of a loop ends the process
    for (Team* team = teams.load(std::memory_order_acquire); team != nullptr; team = team->next)
      if (team->take()) team->stop();
  }
};
const StopTeams stop_teams;

// A new team, taken; null where there are kMostTeams or no memory.
Team* make_team() noexcept {
  if (registered && team_count.fetch_add(1, std::memory_order_relaxed) < kMostTeams) {
    if (Team* const team = new (std::nothrow) Team; team != nullptr) {
      team->next = teams.load(std::memory_order_relaxed);
      while (!teams.compare_exchange_weak(team->next, team, std::memory_order_release,
                                          std::memory_order_relaxed)) {
      }
      return team;
    }
  }
  team_count.fetch_sub(1, std::memory_order_relaxed);
  return nullptr;
}

Team* take_team() noexcept {
  if (last_team != nullptr && last_team->take()) return last_team;
  for (Team* team = teams.load(std::memory_order_acquire); team != nullptr; team = team->next)
    if (team->take()) return last_team = team;
  Team* const team = make_team();
  if (team != nullptr) last_team = team;
  return team;
}

}  // namespace

void run_shares(int threads, int shares, void (*body)(void*, int), void* context) noexcept {
  Team* const team = threads > 1 && shares > 1 && !inside ? take_team() : nullptr;
  if (team == nullptr) {
    for (int share = 0; share < shares; ++share) body(context, share);
    return;
  }
  team->run(std::min(threads, shares), shares, body, context);
  team->give_back();
}

}  // namespace nfloat
