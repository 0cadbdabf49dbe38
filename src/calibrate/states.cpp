// SPDX-License-Identifier: Apache-2.0
#include "calibrate/states.h"

#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstring>

#include "base/fail.h"

namespace nfloat {
namespace {

constexpr int64_t kTogether = 256;  // rows that are copied together

// A file without a name; -1 and errno where it cannot be made.
int open_nameless(const std::string& folder) {
  const int file = ::open(folder.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
  if (file >= 0 || (errno != EOPNOTSUPP && errno != EISDIR)) return file;
  // File systems that know no such files: one whose name goes at once.
  std::string name = folder + "/.nfloat-states-XXXXXX";
  const int named = ::mkostemp(name.data(), O_CLOEXEC);
  if (named >= 0) ::unlink(name.c_str());
  return named;
}

// Moves `bytes` by `step`, which is told the place of what is left and how much, and how much of it it has
// moved; false and errno where it fails.
template <typename Step>
bool all_bytes(uint64_t bytes, Step&& step) {
  for (uint64_t done = 0; done < bytes;) {
    const ssize_t moved = step(done, bytes - done);
    if (moved < 0 && errno == EINTR) continue;
    if (moved == 0) errno = EIO;
    if (moved <= 0) return false;
    done += static_cast<uint64_t>(moved);
  }
  return true;
}

}  // namespace

States::States(int64_t rows, int64_t width, const std::string& folder)
    : rows_(rows), width_(width), folder_(folder) {
  if (folder.empty()) {
    values_.resize(static_cast<size_t>(rows * width));
    return;
  }
  const int descriptor = open_nameless(folder);
  if (descriptor < 0)
    fail(ErrorCode::kIo, "{}: cannot make a file for hidden states: {}", folder, std::strerror(errno));
  file_ = std::shared_ptr<const int>(new int(descriptor), [](const int* file) {
    ::close(*file);
    delete file;
  });
  const uint64_t bytes = static_cast<uint64_t>(rows * width) * sizeof(float);
  const int error = bytes > 0 ? ::posix_fallocate(descriptor, 0, static_cast<off_t>(bytes)) : 0;
  if (error != 0)
    fail(ErrorCode::kIo, "{}: no room for {} MB of hidden states: {}", folder, bytes / 1000000 + 1,
         std::strerror(error));
}

void States::read(int64_t row, int64_t count, float* to) const {
  const auto first = static_cast<size_t>(row * width_), size = static_cast<size_t>(count * width_);
  if (!file_) {
    std::copy_n(values_.data() + first, size, to);
    return;
  }
  auto* bytes = reinterpret_cast<std::byte*>(to);
  const bool whole = all_bytes(size * sizeof(float), [&](uint64_t at, uint64_t left) {
    return ::pread(*file_, bytes + at, left, static_cast<off_t>(first * sizeof(float) + at));
  });
  if (!whole) fail(ErrorCode::kIo, "{}: cannot read hidden states: {}", folder_, std::strerror(errno));
}

void States::write(int64_t row, int64_t count, const float* from) {
  const auto first = static_cast<size_t>(row * width_), size = static_cast<size_t>(count * width_);
  if (!file_) {
    std::copy_n(from, size, values_.data() + first);
    return;
  }
  const auto* bytes = reinterpret_cast<const std::byte*>(from);
  const bool whole = all_bytes(size * sizeof(float), [&](uint64_t at, uint64_t left) {
    return ::pwrite(*file_, bytes + at, left, static_cast<off_t>(first * sizeof(float) + at));
  });
  if (!whole) fail(ErrorCode::kIo, "{}: cannot write hidden states: {}", folder_, std::strerror(errno));
}

States States::copied() const {
  States copy(rows_, width_, folder_);
  std::vector<float> rows(static_cast<size_t>(std::min(rows_, kTogether) * width_));
  for (int64_t row = 0; row < rows_; row += kTogether) {
    const int64_t count = std::min(kTogether, rows_ - row);
    read(row, count, rows.data());
    copy.write(row, count, rows.data());
  }
  return copy;
}

}  // namespace nfloat
