// SPDX-License-Identifier: Apache-2.0
#include "base/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "base/fail.h"
#include "nfloat/files.h"

namespace nfloat {
namespace {

// The pages that lie wholly inside `range`, as madvise wants them.
std::pair<void*, size_t> inner_pages(std::span<const std::byte> range) noexcept {
  static const uintptr_t page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(range.data()) + page - 1) / page * page;
  const uintptr_t end = (reinterpret_cast<uintptr_t>(range.data()) + range.size()) / page * page;
  return {reinterpret_cast<void*>(begin), end > begin ? end - begin : 0};
}

// The mappings that exist, for mapped_file_at. Where all places are taken, a mapping has no name there.
// `path` tells whether a place is taken and is written last.
struct Mapping {
  std::atomic<bool> taken{false};
  std::atomic<uintptr_t> begin{0}, end{0};
  std::atomic<char*> path{nullptr};
};

std::array<Mapping, 1024>& mappings() noexcept {
  static std::array<Mapping, 1024> places;
  return places;
}

void remember(const std::byte* data, size_t size, const std::string& path) noexcept {
  for (Mapping& place : mappings()) {
    if (place.taken.exchange(true)) continue;
    place.begin = reinterpret_cast<uintptr_t>(data);
    place.end = reinterpret_cast<uintptr_t>(data) + size;
    place.path = ::strdup(path.c_str());
    return;
  }
}

void forget(const std::byte* data) noexcept {
  for (Mapping& place : mappings()) {
    if (place.path.load() == nullptr || place.begin.load() != reinterpret_cast<uintptr_t>(data)) continue;
    std::free(place.path.exchange(nullptr));
    place.begin = place.end = 0;
    place.taken = false;
    return;
  }
}

// Files are mapped whole and read as they are needed: a limit on addresses counts them, though not on memory.
[[noreturn]] void fail_to_map(const std::string& path, size_t size, int error) {
  rlimit limit{};
  if (error == ENOMEM && ::getrlimit(RLIMIT_AS, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY)
    fail(ErrorCode::kOutOfMemory,
         "{}: cannot map its {} MiB: this process may use {} MiB of addresses (ulimit -v), which count files "
         "that "
         "are mapped and take no memory; limit memory by a control group instead (systemd-run --scope -p "
         "MemoryMax=...), or raise that limit",
         path, size >> 20, limit.rlim_cur >> 20);
  fail(ErrorCode::kIo, "{}: cannot map: {}", path, std::strerror(error));
}

}  // namespace

const char* mapped_file_at(const void* address) noexcept {
  // The last page of a mapping belongs to it, though the file may end inside.
  constexpr uintptr_t kLargestPage = 1 << 16;
  const auto at = reinterpret_cast<uintptr_t>(address);
  for (const Mapping& place : mappings()) {
    const char* path = place.path.load();
    if (path != nullptr && at >= place.begin &&
        at < (place.end + kLargestPage - 1) / kLargestPage * kLargestPage)
      return path;
  }
  return nullptr;
}

MappedFile::MappedFile(const std::string& path) : path_(path) {
  // A pipe without a writer is not waited for.
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) {
    fail(errno == ENOENT ? ErrorCode::kNotFound : ErrorCode::kIo, "{}: cannot open: {}", path,
         std::strerror(errno));
  }
  struct stat info {};
  if (::fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
    ::close(fd);
    fail(ErrorCode::kIo, "{}: not a regular file", path);
  }
  size_ = static_cast<size_t>(info.st_size);
  if (size_ > 0) {
    void* mapped = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, fd, 0);
    const int error = errno;
    ::close(fd);
    if (mapped == MAP_FAILED) fail_to_map(path, size_, error);
    data_ = static_cast<const std::byte*>(mapped);
    remember(data_, size_, path_);
  } else {
    ::close(fd);
  }
}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

MappedFile::~MappedFile() {
  if (data_ == nullptr) return;
  forget(data_);
  ::munmap(const_cast<std::byte*>(data_), size_);
}

void MappedFile::release(std::span<const std::byte> range) const noexcept {
  const auto [begin, length] = inner_pages(range);
  if (length > 0) ::madvise(begin, length, MADV_DONTNEED);
}

void MappedFile::prefetch(std::span<const std::byte> range) const noexcept {
  prefetch_mapped(range);
}

void MappedFile::expect_places() const noexcept {
  if (size_ > 0) ::madvise(const_cast<std::byte*>(data_), size_, MADV_RANDOM);
}

void prefetch_mapped(std::span<const std::byte> range) noexcept {
  const auto [begin, length] = inner_pages(range);
  if (length > 0) ::madvise(begin, length, MADV_WILLNEED);
}

}  // namespace nfloat
