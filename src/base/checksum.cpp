// SPDX-License-Identifier: Apache-2.0
#include "base/checksum.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <memory>
#include <vector>

#include "base/fail.h"

namespace nfloat {

uint64_t checksum_of_file(const std::string& path, const std::function<bool()>& cancelled) {
  constexpr size_t kPiece = size_t{4} << 20;
  const auto give_up = [&] { fail(ErrorCode::kIo, "{}: cannot read: {}", path, std::strerror(errno)); };
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) give_up();
  const std::shared_ptr<const void> closing(nullptr, [fd](const void*) { ::close(fd); });
  ::posix_fadvise(fd, 0, 0, POSIX_FADV_SEQUENTIAL);
  std::vector<std::byte> piece(kPiece);
  Checksum sum;
  for (;;) {
    if (cancelled && cancelled()) fail(ErrorCode::kInterrupted, "interrupted; nothing was changed");
    size_t filled = 0;
    while (filled < kPiece) {
      const ssize_t got = ::read(fd, piece.data() + filled, kPiece - filled);
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) give_up();
      if (got == 0) break;
      filled += static_cast<size_t>(got);
    }
    sum.add(std::span(piece).first(filled));
    if (filled < kPiece) return sum.value();
  }
}

}  // namespace nfloat
