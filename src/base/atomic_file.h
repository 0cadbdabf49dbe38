// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_BASE_ATOMIC_FILE_H_
#define NFLOAT_BASE_ATOMIC_FILE_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace nfloat {

// A file that appears under its name whole or not at all: written beside it as ".NAME.nfloat-PID.tmp",
// synced, renamed. Destroying it before commit() removes the temporary file. All failures throw kIo naming
// the path.
class AtomicFile {
 public:
  explicit AtomicFile(const std::string& path);
  AtomicFile(AtomicFile&& other) noexcept;
  AtomicFile& operator=(AtomicFile&&) = delete;
  ~AtomicFile();

  // Thread-safe: each call is one positioned write.
  void write_at(uint64_t offset, std::span<const std::byte> bytes);
  void append(std::span<const std::byte> bytes);
  void append(std::string_view text) { append(std::as_bytes(std::span(text))); }
  // Data on the disk; commit() calls it too if it was not called.
  void sync();
  void commit();

  const std::string& temporary_path() const noexcept { return temporary_; }

 private:
  std::string path_;
  std::string temporary_;
  int fd_ = -1;
  uint64_t end_ = 0;
  bool synced_ = false;
};

// Writes `text` to `path` as an AtomicFile does.
void write_file_atomically(const std::string& path, std::string_view text);

// Syncs a directory, so that the renames in it last.
void sync_directory(const std::string& path);

// True for the names that AtomicFile and the output folders give their unfinished work; `pid` is the
// writer's.
bool is_temporary_name(std::string_view file_name, long* pid) noexcept;

}  // namespace nfloat

#endif  // NFLOAT_BASE_ATOMIC_FILE_H_
