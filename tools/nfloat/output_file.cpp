// SPDX-License-Identifier: Apache-2.0
#include "output_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "nfloat/error.h"

namespace nfloat::cli {

void write_output_file(const std::string& path, std::string_view text) {
  const std::string temporary = fmt::format("{}.{}.tmp", path, ::getpid());
  const auto give_up = [&](const char* what) {
    const int error = errno;
    ::unlink(temporary.c_str());
    throw Error(ErrorCode::kIo, fmt::format("{}: cannot {}: {}", path, what, std::strerror(error)));
  };
  const int fd = ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (fd < 0) give_up("create");
  while (!text.empty()) {
    const ssize_t written = ::write(fd, text.data(), text.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) {
      ::close(fd);
      give_up("write");
    }
    text.remove_prefix(static_cast<size_t>(written));
  }
  const bool synced = ::fsync(fd) == 0;
  if (::close(fd) != 0 || !synced) give_up("write");
  if (std::rename(temporary.c_str(), path.c_str()) != 0) give_up("rename into place");
}

}  // namespace nfloat::cli
