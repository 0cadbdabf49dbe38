// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_CLI_TRAIN_LOG_H_
#define NFLOAT_CLI_TRAIN_LOG_H_

#include <cstdint>
#include <cstdio>
#include <optional>
#include <string>

#include "nfloat/train.h"

namespace nfloat::cli {

// A line for each step, in JSON or, of a .csv file, in columns; on the disk when the next step begins.
class TrainLog {
 public:
  // An empty path: nowhere. `finished`: steps that a resumed run has behind it; the file's lines of these
  // stay, those that a killed run wrote behind its checkpoint go. Without it the file begins anew. `pairs`:
  // of a run on pairs of answers. Throws kIo naming the file, kMalformedFile for a file to go on with that is
  // no log.
  TrainLog(const std::string& path, std::optional<int64_t> finished, bool pairs);
  TrainLog(const TrainLog&) = delete;
  TrainLog& operator=(const TrainLog&) = delete;
  ~TrainLog();

  void add(const TrainStep& step, const std::optional<double>& held_out);

 private:
  std::string path_;
  std::FILE* file_ = nullptr;
  bool csv_ = false;
};

}  // namespace nfloat::cli

#endif  // NFLOAT_CLI_TRAIN_LOG_H_
