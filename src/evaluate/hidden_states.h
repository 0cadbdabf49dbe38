// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_EVALUATE_HIDDEN_STATES_H_
#define NFLOAT_EVALUATE_HIDDEN_STATES_H_

#include <cstdint>
#include <string>

#include "nfloat/tensor.h"

namespace nfloat {

// The hidden states of several versions of a model, [version][row][width] in float32: in memory, or where
// they take more than `memory_bytes`, in a file in TMPDIR (or /tmp) that has no name and goes with the
// process.
class HiddenStates {
 public:
  // Throws kOutOfMemory; kIo naming the folder where the file does not find room.
  HiddenStates(int64_t versions, int64_t rows, int64_t width, uint64_t memory_bytes);
  HiddenStates(const HiddenStates&) = delete;
  HiddenStates& operator=(const HiddenStates&) = delete;
  ~HiddenStates();

  int64_t rows() const noexcept { return rows_; }  // of a version
  int64_t row_bytes() const noexcept { return static_cast<int64_t>(sizeof(float)) * width_; }
  uint64_t bytes() const noexcept { return bytes_; }
  bool in_file() const noexcept { return file_ >= 0; }

  // Rows [first, first + count) of a version, valid until the next call. What is changed in them is kept by
  // keep().
  float* open(int64_t version, int64_t first, int64_t count);
  void keep();

 private:
  const int64_t rows_, width_;
  const uint64_t bytes_;
  Buffer memory_;  // everything, or what was opened
  std::string folder_;
  int file_ = -1;
  uint64_t opened_at_ = 0, opened_bytes_ = 0;
};

}  // namespace nfloat

#endif  // NFLOAT_EVALUATE_HIDDEN_STATES_H_
