// SPDX-License-Identifier: Apache-2.0
#include "checkpoint/fingerprint.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <memory>

#include "base/fail.h"
#include "base/fnv.h"

namespace nfloat {

std::string files_fingerprint(const Checkpoint& input) {
  constexpr uint64_t kSample = 4096, kSamples = 256;
  uint64_t hash = fnv(input.text_file("config.json"));
  std::array<std::byte, kSample> bytes{};
  for (const std::string& path : input.files()) {
    hash = fnv(std::filesystem::path(path).filename().string(), hash);
    const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (fd < 0) fail(ErrorCode::kIo, "{}: cannot read: {}", path, std::strerror(errno));
    const std::shared_ptr<const int> closed(&fd, [](const int* open) { ::close(*open); });
    struct stat status {};
    const uint64_t size = ::fstat(fd, &status) == 0 ? static_cast<uint64_t>(status.st_size) : 0;
    hash = fnv_step(hash, size);
    // The beginning, where the header is, the end, and between them at equal distances.
    const uint64_t last = size > kSample ? size - kSample : 0;
    for (uint64_t i = 0; i <= kSamples; ++i) {
      const uint64_t at = i < kSamples ? last / kSamples * i : last;
      const ssize_t count = ::pread(fd, bytes.data(), bytes.size(), static_cast<off_t>(at));
      if (count < 0) fail(ErrorCode::kIo, "{}: cannot read: {}", path, std::strerror(errno));
      hash = fnv(std::span(bytes).first(static_cast<size_t>(count)), hash);
    }
  }
  return fmt::format("{:016x}", hash);
}

}  // namespace nfloat
