// SPDX-License-Identifier: Apache-2.0
#include "convert/stream.h"

#include <condition_variable>
#include <exception>
#include <list>
#include <mutex>
#include <system_error>
#include <thread>

#include "base/fail.h"
#include "base/parallel.h"

namespace nfloat {

std::span<std::byte> Scratch::bytes(size_t slot, size_t count) {
  if (slots_[slot].size() < count) slots_[slot] = Buffer(count);
  return slots_[slot].span().first(count);
}

namespace {

class Scheduler {
 public:
  Scheduler(size_t count, const std::function<std::unique_ptr<StreamJob>(size_t)>& make,
            ConvertProgress progress, const ConvertControl& control, const std::function<void(size_t)>& done,
            size_t threads)
      : count_(count),
        make_(make),
        done_(done),
        progress_(progress),
        control_(control),
        max_active_(threads + 1) {}

  void work() {
    Scratch scratch;
    std::unique_lock lock(mutex_);
    while (!error_) {
      Active* active = claim(lock);
      if (active == nullptr) {
        if (error_ || (next_ == count_ && active_.empty())) break;
        changed_.wait(lock);
        continue;
      }
      const int64_t chunk = active->claimed++;
      run_unlocked(lock, [&] {
        const uint64_t bytes = active->job->run(chunk, scratch);
        lock.lock();
        progress_.input_bytes_done += bytes;
      });
      if (error_) break;
      if (++active->finished == active->chunks) advance(lock, active);
      report();
    }
    changed_.notify_all();
  }

  void rethrow() const {
    if (error_) std::rethrow_exception(error_);
  }

 private:
  struct Active {
    std::unique_ptr<StreamJob> job;
    size_t index = 0;
    int64_t chunks = 0, claimed = 0, finished = 0;
  };

  // An active job with a chunk left, or a new job. Null when there is nothing to do at the moment.
  Active* claim(std::unique_lock<std::mutex>& lock) {
    for (;;) {
      for (Active& active : active_) {
        if (active.claimed < active.chunks) return &active;
      }
      if (next_ == count_ || active_.size() >= max_active_ || error_) return nullptr;
      const size_t index = next_++;
      Active* active = &active_.emplace_back();
      active->index = index;
      run_unlocked(lock, [&] {
        auto job = make_(index);
        lock.lock();
        active->job = std::move(job);
      });
      if (error_) return nullptr;
      advance(lock, active);
    }
  }

  void advance(std::unique_lock<std::mutex>& lock, Active* active) {
    int64_t chunks = 0;
    run_unlocked(lock, [&] {
      chunks = active->job->next_stage();
      if (chunks == 0 && done_) done_(active->index);
    });
    if (error_) return;
    if (chunks > 0) {
      active->claimed = active->finished = 0;
      active->chunks = chunks;
    } else {
      std::erase_if(active_, [&](const Active& entry) { return &entry == active; });
      ++progress_.tensors_done;
    }
    changed_.notify_all();
  }

  // Runs `body` without the lock and has it again afterwards; an exception becomes the stream's.
  template <typename Body>
  void run_unlocked(std::unique_lock<std::mutex>& lock, const Body& body) {
    lock.unlock();
    std::exception_ptr error;
    try {
      body();
    } catch (...) {
      error = std::current_exception();
    }
    if (!lock.owns_lock()) lock.lock();
    if (error && !error_) error_ = error;
    if (error_) changed_.notify_all();
  }

  void report() {
    if (control_.progress) control_.progress(progress_);
    if (control_.cancelled && control_.cancelled() && !error_) {
      error_ = std::make_exception_ptr(Error(ErrorCode::kInterrupted, "interrupted; nothing was changed"));
    }
  }

  const size_t count_;
  const std::function<std::unique_ptr<StreamJob>(size_t)>& make_;
  const std::function<void(size_t)>& done_;
  ConvertProgress progress_;
  const ConvertControl& control_;
  const size_t max_active_;

  std::mutex mutex_;
  std::condition_variable changed_;
  std::list<Active> active_;
  size_t next_ = 0;
  std::exception_ptr error_;
};

}  // namespace

void run_stream(size_t count, const std::function<std::unique_ptr<StreamJob>(size_t)>& make,
                ConvertProgress progress, const ConvertControl& control,
                const std::function<void(size_t)>& done) {
  const auto threads = static_cast<size_t>(thread_count(control.threads));
  Scheduler scheduler(count, make, progress, control, done, threads);
  std::vector<std::thread> helpers;
  helpers.reserve(threads);
  // Where the system gives no thread, those that there are do the work.
  try {
    for (size_t i = 1; i < threads; ++i) helpers.emplace_back([&] { scheduler.work(); });
  } catch (const std::system_error&) {
  }
  scheduler.work();
  for (std::thread& helper : helpers) helper.join();
  scheduler.rethrow();
}

}  // namespace nfloat
