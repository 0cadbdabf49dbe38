// SPDX-License-Identifier: Apache-2.0
#include "convert/stream.h"

#include <gtest/gtest.h>

#include <atomic>
#include <mutex>

#include "nfloat/error.h"

namespace nfloat {
namespace {

// Counts its stages and chunks, and checks that a stage begins only when the last has ended.
class CountingJob : public StreamJob {
 public:
  CountingJob(std::vector<int64_t> stages, std::atomic<int64_t>* total, int64_t fail_at = -1)
      : stages_(std::move(stages)), total_(total), fail_at_(fail_at) {}
  int64_t next_stage() override {
    EXPECT_EQ(running_, 0);
    if (stage_ > 0) {
      EXPECT_EQ(finished_, stages_[stage_ - 1]);
    }
    finished_ = 0;
    return stage_ < stages_.size() ? stages_[stage_++] : 0;
  }
  uint64_t run(int64_t chunk, Scratch& scratch) override {
    ++running_;
    EXPECT_GE(chunk, 0);
    EXPECT_LT(chunk, stages_[stage_ - 1]);
    if (chunk == fail_at_) throw Error(ErrorCode::kIo, "as asked");
    scratch.bytes(0, 100)[99] = std::byte{1};
    ++finished_;
    --running_;
    return static_cast<uint64_t>((*total_)++ * 0 + 1);
  }

 private:
  std::vector<int64_t> stages_;
  std::atomic<int64_t>* total_;
  int64_t fail_at_;
  size_t stage_ = 0;
  std::atomic<int64_t> finished_{0}, running_{0};
};

TEST(Stream, RunsEveryChunkOfEveryStageOnce) {
  for (int threads : {1, 2, 5}) {
    std::atomic<int64_t> total{0};
    size_t made = 0;
    ConvertControl control;
    control.threads = threads;
    ConvertProgress last;
    control.progress = [&](const ConvertProgress& progress) { last = progress; };
    ConvertProgress progress;
    progress.tensors_total = 200;
    std::mutex mutex;
    run_stream(
        200,
        [&](size_t index) -> std::unique_ptr<StreamJob> {
          std::lock_guard lock(mutex);
          ++made;
          const auto n = static_cast<int64_t>(index % 7);
          return std::make_unique<CountingJob>(
              n == 0 ? std::vector<int64_t>{} : std::vector<int64_t>{n, 1, 2 * n}, &total);
        },
        progress, control);
    EXPECT_EQ(made, 200u);
    int64_t expected = 0;
    for (int64_t i = 0; i < 200; ++i) expected += i % 7 == 0 ? 0 : 3 * (i % 7) + 1;
    EXPECT_EQ(total, expected);
    EXPECT_EQ(last.input_bytes_done, static_cast<uint64_t>(expected));
  }
}

TEST(Stream, FirstErrorEndsTheWork) {
  for (int threads : {1, 3}) {
    std::atomic<int64_t> total{0};
    ConvertControl control;
    control.threads = threads;
    const auto run = [&] {
      run_stream(
          1000,
          [&](size_t) {
            return std::make_unique<CountingJob>(std::vector<int64_t>{4}, &total, total > 20 ? 2 : -1);
          },
          {}, control);
    };
    EXPECT_THROW(run(), Error);
    EXPECT_LT(total, 1000);
    const auto failing_maker = [&] {
      run_stream(
          10, [](size_t) -> std::unique_ptr<StreamJob> { throw Error(ErrorCode::kIo, "maker"); }, {},
          control);
    };
    EXPECT_THROW(failing_maker(), Error);
  }
}

TEST(Stream, CancellationIsAnError) {
  std::atomic<int64_t> total{0};
  ConvertControl control;
  control.threads = 2;
  control.cancelled = [&] { return total > 10; };
  try {
    run_stream(
        1000, [&](size_t) { return std::make_unique<CountingJob>(std::vector<int64_t>{4}, &total); }, {},
        control);
    FAIL() << "was not cancelled";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInterrupted);
  }
  EXPECT_LT(total, 1000);
}

}  // namespace
}  // namespace nfloat
