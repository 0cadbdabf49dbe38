// SPDX-License-Identifier: Apache-2.0
#include "evaluate/hidden_states.h"

#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "base/fail.h"

namespace nfloat {
namespace {

// Calls move(bytes done) until `bytes` are done.
template <typename Move>
void whole(uint64_t bytes, const std::string& folder, Move&& move) {
  for (uint64_t done = 0; done < bytes;) {
    const ssize_t moved = move(done);
    if (moved < 0 && errno == EINTR) continue;
    if (moved <= 0)
      fail(ErrorCode::kIo, "{}: the temporary file of hidden states: {}", folder,
           moved < 0 ? std::strerror(errno) : "it is shorter than it was");
    done += static_cast<uint64_t>(moved);
  }
}

}  // namespace

HiddenStates::HiddenStates(int64_t versions, int64_t rows, int64_t width, uint64_t memory_bytes)
    : rows_(rows),
      width_(width),
      bytes_(sizeof(float) * static_cast<uint64_t>(versions) * static_cast<uint64_t>(rows) *
             static_cast<uint64_t>(width)) {
  if (bytes_ <= memory_bytes) {
    memory_ = Buffer(bytes_);
    return;
  }
  const char* named = std::getenv("TMPDIR");
  folder_ = named != nullptr && *named == '/' ? named : "/tmp";
  std::string path = folder_ + "/nfloat-states-XXXXXX";
  file_ = ::mkostemp(path.data(), O_CLOEXEC);
  if (file_ >= 0) ::unlink(path.c_str());
  const int error = file_ < 0 ? errno : ::posix_fallocate(file_, 0, static_cast<off_t>(bytes_));
  if (error == 0) return;
  if (file_ >= 0) ::close(file_);
  fail(ErrorCode::kIo, "{}: no room for {} MiB of hidden states: {} (TMPDIR names another folder)", folder_,
       bytes_ >> 20, std::strerror(error));
}

HiddenStates::~HiddenStates() {
  if (file_ >= 0) ::close(file_);
}

float* HiddenStates::open(int64_t version, int64_t first, int64_t count) {
  const uint64_t row = sizeof(float) * static_cast<uint64_t>(width_);
  const uint64_t at = static_cast<uint64_t>(version * rows_ + first) * row;
  if (!in_file()) return reinterpret_cast<float*>(memory_.data() + at);
  opened_at_ = at;
  opened_bytes_ = static_cast<uint64_t>(count) * row;
  if (memory_.size() < opened_bytes_) memory_ = Buffer(opened_bytes_);
  whole(opened_bytes_, folder_, [&](uint64_t done) {
    return ::pread(file_, memory_.data() + done, opened_bytes_ - done, static_cast<off_t>(at + done));
  });
  return reinterpret_cast<float*>(memory_.data());
}

void HiddenStates::keep() {
  if (!in_file()) return;
  whole(opened_bytes_, folder_, [&](uint64_t done) {
    return ::pwrite(file_, memory_.data() + done, opened_bytes_ - done,
                    static_cast<off_t>(opened_at_ + done));
  });
}

}  // namespace nfloat
