// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_CLI_CACHE_H_
#define NFLOAT_CLI_CACHE_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

namespace nfloat::cli {

// Where what can be made again is kept: $XDG_CACHE_HOME/nfloat where that is an absolute path, or
// .cache/nfloat in the home folder ($HOME, else the one that the system knows). Nothing where there is none:
// a folder that all users share is not taken.
std::optional<std::string> cache_folder();

// Makes a folder with those above it, for this user only. Throws kIo naming it.
void make_folders(const std::string& path);

// The oldest entries go until the rest takes at most `most_bytes`; those that a run uses and `except` stay.
// Returns the bytes freed.
uint64_t trim_cache(const std::string& folder, uint64_t most_bytes, const std::string& except = {});

// Beyond this, the oldest references are removed when one is added.
inline constexpr uint64_t kCacheBytes = 20'000'000'000;

// A folder that belongs to one run as long as this lives, by a lock on a file in it.
class LockedFolder {
 public:
  // Makes the folder where it is missing. Nothing where another run has it. Throws kIo naming it.
  static std::optional<LockedFolder> take(const std::string& folder);
  // A folder of a name that nobody has, in `parent`.
  static LockedFolder make(const std::string& parent);

  const std::string& path() const noexcept { return path_; }
  // Its lock file and the folder, when nothing else is in it.
  void remove() noexcept;

 private:
  LockedFolder(std::string path, int fd);
  std::string path_;
  std::shared_ptr<const int> lock_;
};

}  // namespace nfloat::cli

#endif  // NFLOAT_CLI_CACHE_H_
