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

#include "base/checksum.h"
#include "base/fail.h"
#include "base/fnv.h"

namespace nfloat {
namespace {

class InputFile {
 public:
  explicit InputFile(const std::string& path) : path_(path), fd_(::open(path.c_str(), O_RDONLY | O_CLOEXEC)) {
    if (fd_ < 0) fail(ErrorCode::kIo, "{}: cannot read: {}", path, std::strerror(errno));
  }
  InputFile(const InputFile&) = delete;
  InputFile& operator=(const InputFile&) = delete;
  ~InputFile() { ::close(fd_); }

  // What is read does not bring what lies around it.
  void expect_places() const noexcept { ::posix_fadvise(fd_, 0, 0, POSIX_FADV_RANDOM); }
  uint64_t size() const noexcept {
    struct stat status {};
    return ::fstat(fd_, &status) == 0 ? static_cast<uint64_t>(status.st_size) : 0;
  }
  // As many bytes from `at` on as fit and as there are.
  std::span<std::byte> read(uint64_t at, std::span<std::byte> to) const {
    size_t done = 0;
    while (done < to.size()) {
      const ssize_t count = ::pread(fd_, to.data() + done, to.size() - done, static_cast<off_t>(at + done));
      if (count < 0 && errno == EINTR) continue;
      if (count < 0) fail(ErrorCode::kIo, "{}: cannot read: {}", path_, std::strerror(errno));
      if (count == 0) break;
      done += static_cast<size_t>(count);
    }
    return to.first(done);
  }

 private:
  const std::string& path_;
  const int fd_;
};

}  // namespace

std::string contents_fingerprint(const Checkpoint& input) {
  uint64_t hash = fnv(input.text_file("config.json"));
  for (const std::string& path : input.files()) {
    hash = fnv_step(hash, InputFile(path).size());
    hash = fnv(fmt::format("{:016x}", checksum_of_file(path)), hash);
  }
  return fmt::format("{:016x}", hash);
}

std::string files_fingerprint(const Checkpoint& input) {
  constexpr uint64_t kSample = 4096, kSamples = 256;
  uint64_t hash = fnv(input.text_file("config.json"));
  std::array<std::byte, kSample> bytes{};
  for (const std::string& path : input.files()) {
    hash = fnv(std::filesystem::path(path).filename().string(), hash);
    const InputFile file(path);
    const uint64_t size = file.size();
    hash = fnv_step(hash, size);
    file.expect_places();
    // The beginning, where the header is, the end, and between them at equal distances.
    const uint64_t last = size > kSample ? size - kSample : 0;
    for (uint64_t i = 0; i <= kSamples; ++i) {
      const uint64_t at = i < kSamples ? last / kSamples * i : last;
      hash = fnv(std::span<const std::byte>(file.read(at, bytes)), hash);
    }
  }
  return fmt::format("{:016x}", hash);
}

}  // namespace nfloat
