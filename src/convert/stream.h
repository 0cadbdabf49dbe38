// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_CONVERT_STREAM_H_
#define NFLOAT_CONVERT_STREAM_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>

#include "nfloat/convert.h"

namespace nfloat {

// Elements that one chunk reads: 512 KiB of bf16, which stays in a core's cache between reading, computing,
// writing.
inline constexpr int64_t kChunkElements = 1 << 18;

// A thread's reusable memory.
class Scratch {
 public:
  // Contents are kept only until the next call with the same slot.
  std::span<std::byte> bytes(size_t slot, size_t count);
  template <typename T>
  std::span<T> get(size_t slot, size_t count) {
    return {reinterpret_cast<T*>(bytes(slot, count * sizeof(T)).data()), count};
  }

 private:
  Buffer slots_[5];
};

// The work on one tensor: stages one after the other, each a number of chunks that run in any order on any
// thread.
class StreamJob {
 public:
  virtual ~StreamJob() = default;
  // Called alone, before the first chunk and after the last chunk of each stage. Number of chunks of the next
  // stage; 0 when the job is done.
  virtual int64_t next_stage() = 0;
  // Returns the input bytes consumed, for the progress.
  virtual uint64_t run(int64_t chunk, Scratch& scratch) = 0;
};

// Runs `count` jobs, made in order by make(index) when their turn comes, so that only a few exist at a time.
// The first exception stops the rest and is thrown here. `progress` arrives with its totals filled in. `done`
// is called after the last stage of each job, on the thread that ran it.
void run_stream(size_t count, const std::function<std::unique_ptr<StreamJob>(size_t)>& make,
                ConvertProgress progress, const ConvertControl& control,
                const std::function<void(size_t)>& done = nullptr);

}  // namespace nfloat

#endif  // NFLOAT_CONVERT_STREAM_H_
