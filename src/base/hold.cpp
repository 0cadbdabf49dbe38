// SPDX-License-Identifier: Apache-2.0
#include "base/hold.h"

#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "base/fail.h"

namespace nfloat {

std::shared_ptr<const int> hold(const std::string& path, Hold how, const std::function<int()>& open,
                                std::string_view busy) {
  constexpr int kMostTries = 20;
  for (int i = 0; i < kMostTries; ++i) {
    const int fd = open();
    if (fd == kNothingToHold) return nullptr;
    if (fd < 0) continue;
    std::shared_ptr<const int> held(new int(fd), [](const int* owned) {
      ::close(*owned);
      delete owned;
    });
    const int operation = how == Hold::kShared ? LOCK_SH : LOCK_EX;
    if (::flock(fd, operation | LOCK_NB) != 0 && errno == EWOULDBLOCK)
      fail(ErrorCode::kAlreadyExists, "{}: {}", path, busy);
    struct stat ours {
    }, named{};
    if (::fstat(fd, &ours) == 0 && ::stat(path.c_str(), &named) == 0 && ours.st_ino == named.st_ino &&
        ours.st_dev == named.st_dev)
      return held;
  }
  fail(ErrorCode::kIo, "{}: other programs make and remove it again and again", path);
}

}  // namespace nfloat
