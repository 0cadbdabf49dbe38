// SPDX-License-Identifier: Apache-2.0
#include "base/atomic_file.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <utility>

#include "base/fail.h"
#include "base/output_place.h"

namespace nfloat {
namespace {

constexpr std::string_view kMark = ".nfloat-";
constexpr std::string_view kSuffix = ".tmp";

std::string temporary_prefix(const std::filesystem::path& target) {
  return fmt::format(".{}{}", target.filename().string(), kMark);
}

// ".NAME.nfloat-PID-RANDOM.tmp": nobody can foretell it and put a link there.
std::string temporary_name(const std::string& path) {
  uint64_t random = 0;
  if (::getrandom(&random, sizeof random, GRND_NONBLOCK) != sizeof random)
    random = static_cast<uint64_t>(std::chrono::steady_clock::now().time_since_epoch().count());
  const std::filesystem::path target(path);
  return (target.parent_path() /
          fmt::format("{}{}-{:016x}{}", temporary_prefix(target), ::getpid(), random, kSuffix))
      .string();
}

constexpr int kTries = 100;

// Whether `fd` is locked by us and still what `path` names: whoever tidies up may have taken a file for one
// that a dead run left, between its creation and its lock.
bool hold(int fd, const std::string& path) noexcept {
  if (::flock(fd, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) return false;
  struct stat ours {
  }, named{};
  return ::fstat(fd, &ours) == 0 && ::lstat(path.c_str(), &named) == 0 && ours.st_ino == named.st_ino &&
         ours.st_dev == named.st_dev;
}

int rename_with(const std::string& from, const std::string& to, unsigned flags) noexcept {
  return static_cast<int>(::syscall(SYS_renameat2, AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), flags));
}

// Renames where nothing has the name `to`; errno is EEXIST where something has. File systems without
// RENAME_NOREPLACE: files by a hard link, which fails in the same way; a folder replaces an empty folder.
int rename_new(const std::string& from, const std::string& to) noexcept {
  if (rename_with(from, to, RENAME_NOREPLACE) == 0) return 0;
  if (errno != EINVAL && errno != ENOSYS) return -1;
  if (::link(from.c_str(), to.c_str()) == 0) return ::unlink(from.c_str());
  if (errno == EEXIST) return -1;
  struct stat there {};
  if (::lstat(to.c_str(), &there) == 0) {
    errno = EEXIST;
    return -1;
  }
  return std::rename(from.c_str(), to.c_str());
}

[[noreturn]] void fail_to_rename(const std::string& path, int error) {
  if (error == EEXIST || error == ENOTEMPTY)
    fail(ErrorCode::kAlreadyExists,
         "{}: exists since this run began, and is kept; what the run made is dropped", path);
  fail(ErrorCode::kIo, "{}: cannot rename into place: {}", path, std::strerror(error));
}

std::string parent_of(const std::string& path) {
  const std::string parent = std::filesystem::path(path).parent_path().string();
  return parent.empty() ? "." : parent;
}

}  // namespace

AtomicFile::AtomicFile(const std::string& path) : path_(path) {
  const OutputPlace place = output_place(path);
  if (place.kind == OutputPlace::Kind::kFolder) fail(ErrorCode::kIo, "{}: is a folder", path_);
  if (place.kind == OutputPlace::Kind::kStream)
    fail(ErrorCode::kIo, "{}: is not a regular file; this output is not written in one go from its beginning",
         path_);
  target_ = place.path;
  remove_stale_temporaries(target_);
  struct stat old {};
  const bool replaces = ::stat(target_.c_str(), &old) == 0;
  for (int i = 0; fd_ < 0; ++i) {
    temporary_ = temporary_name(target_);
    fd_ = ::open(temporary_.c_str(), O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0666);
    if (fd_ < 0 && (errno != EEXIST || i == kTries))
      fail(ErrorCode::kIo, "{}: cannot create: {}", path_, std::strerror(errno));
    if (fd_ >= 0 && !hold(fd_, temporary_)) {
      ::close(std::exchange(fd_, -1));
      if (i == kTries) fail(ErrorCode::kIo, "{}: its temporary file is removed again and again", path_);
    }
  }
  unfinished_ = Unfinished(temporary_);
  if (replaces) ::fchmod(fd_, old.st_mode & 0777);
}

AtomicFile::AtomicFile(const std::string& path, const std::string& temporary)
    : path_(path), temporary_(temporary), joined_(true) {
  fd_ = ::open(temporary.c_str(), O_RDWR | O_NOFOLLOW | O_CLOEXEC);
  if (fd_ < 0)
    fail(ErrorCode::kIo, "{}: cannot open {}, which rank 0 has begun: {}", path_, temporary,
         std::strerror(errno));
}

AtomicFile::AtomicFile(AtomicFile&& other) noexcept
    : path_(std::move(other.path_)),
      target_(std::move(other.target_)),
      temporary_(std::move(other.temporary_)),
      unfinished_(std::move(other.unfinished_)),
      fd_(std::exchange(other.fd_, -1)),
      end_(other.end_),
      synced_(other.synced_),
      joined_(other.joined_) {}

AtomicFile::~AtomicFile() {
  if (fd_ < 0) return;
  ::close(fd_);
  if (!joined_) ::unlink(temporary_.c_str());
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

void AtomicFile::commit(Existing existing) {
  if (!synced_) sync();
  // Locked until it has its name: whoever makes another for it would take this one for what a dead run left.
  if ((existing == Existing::kKeep ? rename_new(temporary_, target_)
                                   : std::rename(temporary_.c_str(), target_.c_str())) != 0) {
    const int error = errno;
    ::unlink(temporary_.c_str());
    ::close(std::exchange(fd_, -1));
    fail_to_rename(path_, error);
  }
  ::close(std::exchange(fd_, -1));  // what could fail has failed in sync()
  unfinished_.forget();
  sync_directory(parent_of(target_));
}

void write_file_atomically(const std::string& path, std::string_view text) {
  AtomicFile file(path);
  file.append(text);
  file.commit();
}

AtomicFolder::AtomicFolder(const std::string& target) : target_(target) {
  remove_stale_temporaries(target_);
  for (int i = 0; lock_ < 0; ++i) {
    temporary_ = temporary_name(target_);
    if (::mkdir(temporary_.c_str(), 0777) != 0) {
      if (errno == EEXIST && i < kTries) continue;
      fail(ErrorCode::kIo, "{}: cannot create: {}", target_, std::strerror(errno));
    }
    lock_ = ::open(temporary_.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (lock_ >= 0 && hold(lock_, temporary_)) break;
    if (lock_ >= 0) ::close(std::exchange(lock_, -1));
    if (i == kTries) fail(ErrorCode::kIo, "{}: its temporary folder is removed again and again", target_);
  }
  unfinished_ = Unfinished(temporary_);
}

AtomicFolder::~AtomicFolder() {
  std::error_code ignored;
  if (!temporary_.empty() && !kept_) std::filesystem::remove_all(temporary_, ignored);
  if (lock_ >= 0) ::close(lock_);
}

void AtomicFolder::commit(Existing existing, const std::function<void(const std::string&)>& may_be_replaced) {
  sync_directory(temporary_);
  struct stat there {};
  if (existing == Existing::kReplace && ::lstat(target_.c_str(), &there) == 0) {
    if (may_be_replaced) may_be_replaced(target_);
    if (rename_with(temporary_, target_, RENAME_EXCHANGE) != 0) {
      fail(ErrorCode::kIo, "{}: cannot exchange the old folder for the new one: {}", target_,
           std::strerror(errno));
    }
    unfinished_.forget();  // from here on, the old one has the temporary name
    try {
      if (may_be_replaced) may_be_replaced(temporary_);
    } catch (...) {
      if (rename_with(temporary_, target_, RENAME_EXCHANGE) != 0) temporary_.clear();
      throw;
    }
    sync_directory(parent_of(target_));
    std::error_code ignored;
    std::filesystem::remove_all(temporary_, ignored);
  } else {
    if (rename_new(temporary_, target_) != 0) fail_to_rename(target_, errno);
    unfinished_.forget();
  }
  temporary_.clear();
  sync_directory(parent_of(target_));
}

std::string_view target_of_temporary(std::string_view file) noexcept {
  const size_t mark = file.rfind(kMark);
  if (!file.starts_with('.') || mark == std::string_view::npos || !file.ends_with(kSuffix)) return {};
  return file.substr(1, std::max<size_t>(mark, 1) - 1);
}

void remove_stale_temporaries(const std::string& target) noexcept {
  try {
    const std::string prefix = temporary_prefix(target);
    std::error_code ignored;
    for (const auto& entry : std::filesystem::directory_iterator(parent_of(target), ignored)) {
      const std::string name = entry.path().filename().string();
      if (!name.starts_with(prefix) || !name.ends_with(kSuffix)) continue;
      const int fd = ::open(entry.path().c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
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
