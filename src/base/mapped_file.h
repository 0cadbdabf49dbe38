// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_BASE_MAPPED_FILE_H_
#define NFLOAT_BASE_MAPPED_FILE_H_

#include <cstddef>
#include <span>
#include <string>

namespace nfloat {

// A whole file, mapped read-only. Moves, does not copy. Throws kNotFound or kIo naming the path.
class MappedFile {
 public:
  MappedFile() = default;
  explicit MappedFile(const std::string& path);
  MappedFile(MappedFile&& other) noexcept { *this = static_cast<MappedFile&&>(other); }
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();

  const std::string& path() const noexcept { return path_; }
  std::span<const std::byte> bytes() const noexcept { return {data_, size_}; }

  // Pages of `range` wholly inside it leave this process's resident memory; reading them again maps them
  // again from the page cache or the disk.
  void release(std::span<const std::byte> range) const noexcept;
  // Asks the system to start reading `range`.
  void prefetch(std::span<const std::byte> range) const noexcept;
  // From now on the system reads pages that are used or prefetched and not those around them, too.
  void expect_places() const noexcept;

 private:
  std::string path_;
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
};

// Starts reading a range of any file that is mapped; of other memory changes nothing.
void prefetch_mapped(std::span<const std::byte> range) noexcept;

}  // namespace nfloat

#endif  // NFLOAT_BASE_MAPPED_FILE_H_
