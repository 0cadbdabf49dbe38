// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_BASE_ATOMIC_FILE_H_
#define NFLOAT_BASE_ATOMIC_FILE_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>

#include "base/unfinished.h"

namespace nfloat {

// What commit() does with a file or folder that has the final name by then.
enum class Existing {
  kReplace,
  kKeep,  // kAlreadyExists is thrown; of many that commit to one name, one succeeds
};

// A file that appears under its name whole or not at all: written beside it as ".NAME.nfloat-PID-RANDOM.tmp",
// synced, renamed. Links are followed: what a link leads to is replaced. Destroying it before commit()
// removes the temporary file, making the next one for the same name what a killed run left. All failures
// throw kIo naming the path; so do a folder, a device and a pipe.
class AtomicFile {
 public:
  explicit AtomicFile(const std::string& path);
  // The file that another process is making as `temporary`, perhaps on another machine, to write a part of
  // it. It stays that one's to commit and to remove.
  AtomicFile(const std::string& path, const std::string& temporary);
  AtomicFile(AtomicFile&& other) noexcept;
  AtomicFile& operator=(AtomicFile&&) = delete;
  ~AtomicFile();

  // Thread-safe: each call is one positioned write.
  void write_at(uint64_t offset, std::span<const std::byte> bytes);
  void append(std::span<const std::byte> bytes);
  void append(std::string_view text) { append(std::as_bytes(std::span(text))); }
  // Data on the disk; commit() calls it too if it was not called.
  void sync();
  void commit(Existing existing = Existing::kReplace);

  const std::string& temporary_path() const noexcept { return temporary_; }

 private:
  std::string path_;
  std::string target_;  // with links resolved
  std::string temporary_;
  Unfinished unfinished_;
  int fd_ = -1;
  uint64_t end_ = 0;
  bool synced_ = false;
  bool joined_ = false;  // another process makes it
};

// Writes `text` to `path` as an AtomicFile does.
void write_file_atomically(const std::string& path, std::string_view text);

// A folder that appears whole or not at all, in the same way. Files are written into path().
class AtomicFolder {
 public:
  explicit AtomicFolder(const std::string& target);
  // In `kept`, a folder that is there and stays unless it is committed: the caller's to lock and to remove.
  AtomicFolder(const std::string& target, const std::string& kept)
      : target_(target), temporary_(kept), kept_(true) {}
  AtomicFolder(const AtomicFolder&) = delete;
  AtomicFolder& operator=(const AtomicFolder&) = delete;
  ~AtomicFolder();

  const std::string& path() const noexcept { return temporary_; }
  // Renames into place. With kReplace, a target that exists is exchanged for the new folder in one step, then
  // removed. `may_be_replaced` throws for a folder that is to stay; it is asked before the exchange, and
  // after it about what was exchanged, which goes back where it throws.
  void commit(Existing existing = Existing::kReplace,
              const std::function<void(const std::string&)>& may_be_replaced = {});

 private:
  std::string target_;
  std::string temporary_;
  Unfinished unfinished_;
  int lock_ = -1;
  bool kept_ = false;
};

// The NAME that ".NAME.nfloat-PID-RANDOM.tmp" is written for; empty: `file` is no such name.
std::string_view target_of_temporary(std::string_view file) noexcept;

// Removes what killed runs left of `target`; what a living process is writing stays.
void remove_stale_temporaries(const std::string& target) noexcept;

// Syncs a directory, so that the renames in it last.
void sync_directory(const std::string& path) noexcept;

}  // namespace nfloat

#endif  // NFLOAT_BASE_ATOMIC_FILE_H_
