// SPDX-License-Identifier: Apache-2.0
#include "base/atomic_file.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/file.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <utility>

#include "base/fail.h"

namespace nfloat {
namespace {

constexpr std::string_view kMark = ".nfloat-";
constexpr std::string_view kSuffix = ".tmp";

std::string temporary_prefix(const std::filesystem::path& target) {
  return fmt::format(".{}{}", target.filename().string(), kMark);
}

std::string temporary_name(const std::string& path) {
  const std::filesystem::path target(path);
  return (target.parent_path() / fmt::format("{}{}{}", temporary_prefix(target), ::getpid(), kSuffix))
      .string();
}

std::string parent_of(const std::string& path) {
  const std::string parent = std::filesystem::path(path).parent_path().string();
  return parent.empty() ? "." : parent;
}

}  // namespace

AtomicFile::AtomicFile(const std::string& path) : path_(path), temporary_(temporary_name(path)) {
  fd_ = ::open(temporary_.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (fd_ < 0) fail(ErrorCode::kIo, "{}: cannot create: {}", path_, std::strerror(errno));
  ::flock(fd_, LOCK_EX | LOCK_NB);
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
  sync_directory(parent_of(path_));
}

void write_file_atomically(const std::string& path, std::string_view text) {
  AtomicFile file(path);
  file.append(text);
  file.commit();
}

AtomicFolder::AtomicFolder(const std::string& target) : target_(target), temporary_(temporary_name(target)) {
  std::error_code error;
  std::filesystem::remove_all(temporary_, error);  // a killed run of a process with our number
  if (!std::filesystem::create_directory(temporary_, error)) {
    fail(ErrorCode::kIo, "{}: cannot create: {}", target_,
         error ? error.message() : "the temporary folder exists");
  }
  lock_ = ::open(temporary_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (lock_ >= 0) ::flock(lock_, LOCK_EX | LOCK_NB);
}

AtomicFolder::~AtomicFolder() {
  std::error_code ignored;
  if (!temporary_.empty()) std::filesystem::remove_all(temporary_, ignored);
  if (lock_ >= 0) ::close(lock_);
}

void AtomicFolder::commit() {
  sync_directory(temporary_);
  std::error_code error;
  if (std::filesystem::exists(target_, error)) {
    if (::syscall(SYS_renameat2, AT_FDCWD, temporary_.c_str(), AT_FDCWD, target_.c_str(), RENAME_EXCHANGE) !=
        0) {
      fail(ErrorCode::kIo, "{}: cannot exchange the old folder for the new one: {}", target_,
           std::strerror(errno));
    }
    sync_directory(parent_of(target_));
    std::filesystem::remove_all(temporary_, error);  // now the old folder
  } else if (std::rename(temporary_.c_str(), target_.c_str()) != 0) {
    fail(ErrorCode::kIo, "{}: cannot rename into place: {}", target_, std::strerror(errno));
  }
  temporary_.clear();
  sync_directory(parent_of(target_));
}

void remove_stale_temporaries(const std::string& target) noexcept {
  try {
    const std::string prefix = temporary_prefix(target);
    std::error_code ignored;
    for (const auto& entry : std::filesystem::directory_iterator(parent_of(target), ignored)) {
      const std::string name = entry.path().filename().string();
      if (!name.starts_with(prefix) || !name.ends_with(kSuffix)) continue;
      const int fd = ::open(entry.path().c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
      if (fd < 0) continue;
      if (::flock(fd, LOCK_EX | LOCK_NB) == 0) std::filesystem::remove_all(entry.path(), ignored);
      ::close(fd);
    }
  } catch (const std::exception&) {
    // Out of memory while tidying: what is left stays for the next run.
  }
}

void sync_directory(const std::string& path) noexcept {
  const int fd = ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return;  // some file systems do not open directories; the rename itself has happened
  ::fsync(fd);
  ::close(fd);
}

}  // namespace nfloat
