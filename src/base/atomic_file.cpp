// SPDX-License-Identifier: Apache-2.0
#include "base/atomic_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <utility>

#include "base/fail.h"

namespace nfloat {
namespace {

constexpr std::string_view kMark = ".nfloat-";
constexpr std::string_view kSuffix = ".tmp";

std::string temporary_name(const std::string& path) {
  const std::filesystem::path target(path);
  return (target.parent_path() /
          fmt::format(".{}{}{}{}", target.filename().string(), kMark, ::getpid(), kSuffix))
      .string();
}

}  // namespace

AtomicFile::AtomicFile(const std::string& path) : path_(path), temporary_(temporary_name(path)) {
  fd_ = ::open(temporary_.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (fd_ < 0) fail(ErrorCode::kIo, "{}: cannot create: {}", temporary_, std::strerror(errno));
}

AtomicFile::AtomicFile(AtomicFile&& other) noexcept
    : path_(std::move(other.path_)),
      temporary_(std::move(other.temporary_)),
      fd_(std::exchange(other.fd_, -1)),
      end_(other.end_),
      synced_(other.synced_) {}

AtomicFile::~AtomicFile() {
  if (fd_ < 0) return;
  ::close(fd_);
  ::unlink(temporary_.c_str());
}

void AtomicFile::write_at(uint64_t offset, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t written = ::pwrite(fd_, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (written < 0) {
      if (errno == EINTR) continue;
      fail(ErrorCode::kIo, "{}: cannot write {} bytes at offset {}: {}", path_, bytes.size(), offset,
           std::strerror(errno));
    }
    bytes = bytes.subspan(static_cast<size_t>(written));
    offset += static_cast<uint64_t>(written);
  }
}

void AtomicFile::append(std::span<const std::byte> bytes) {
  write_at(end_, bytes);
  end_ += bytes.size();
}

void AtomicFile::sync() {
  if (::fsync(fd_) != 0) fail(ErrorCode::kIo, "{}: cannot sync: {}", path_, std::strerror(errno));
  synced_ = true;
}

void AtomicFile::commit() {
  if (!synced_) sync();
  if (::close(std::exchange(fd_, -1)) != 0 || std::rename(temporary_.c_str(), path_.c_str()) != 0) {
    const int error = errno;
    ::unlink(temporary_.c_str());
    fail(ErrorCode::kIo, "{}: cannot rename into place: {}", path_, std::strerror(error));
  }
  const std::string parent = std::filesystem::path(path_).parent_path().string();
  sync_directory(parent.empty() ? "." : parent);
}

void write_file_atomically(const std::string& path, std::string_view text) {
  AtomicFile file(path);
  file.append(text);
  file.commit();
}

void sync_directory(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return;  // some file systems do not open directories; the rename itself has happened
  ::fsync(fd);
  ::close(fd);
}

bool is_temporary_name(std::string_view file_name, long* pid) noexcept {
  if (!file_name.starts_with('.') || !file_name.ends_with(kSuffix)) return false;
  const size_t mark = file_name.rfind(kMark);
  if (mark == std::string_view::npos) return false;
  const char* begin = file_name.data() + mark + kMark.size();
  const char* end = file_name.data() + file_name.size() - kSuffix.size();
  const auto [stop, error] = std::from_chars(begin, end, *pid);
  return error == std::errc{} && stop == end;
}

}  // namespace nfloat
