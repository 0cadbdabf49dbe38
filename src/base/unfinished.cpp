// SPDX-License-Identifier: Apache-2.0
#include "base/unfinished.h"

#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "nfloat/files.h"

namespace nfloat {
namespace {

constexpr int kSlots = 1024;
constexpr int kMostFolders = 8;  // nested

using Slots = std::array<std::atomic<char*>, kSlots>;

// Whoever takes a path out of its slot owns it.
Slots& slots() noexcept {
  static Slots paths{};
  return paths;
}

// Where a signal handler, which may not free, leaves what it took for the owner of the slot.
Slots& removed() noexcept {
  static Slots paths{};
  return paths;
}

bool is_dots(const char* name) noexcept {
  return std::strcmp(name, ".") == 0 || std::strcmp(name, "..") == 0;
}

// Removes `name` in the folder `at`, with what is in it. System calls only, no memory of the heap.
void remove_tree(int at, const char* name, int depth) noexcept {
  if (::unlinkat(at, name, 0) == 0 || depth == kMostFolders) return;
  const int folder = ::openat(at, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (folder < 0) return;
  // struct linux_dirent64: d_ino 8 bytes, d_off 8, d_reclen 2, d_type 1, then the name.
  alignas(8) char entries[4096];
  for (;;) {
    const long count = ::syscall(SYS_getdents64, folder, entries, sizeof entries);
    if (count <= 0) break;
    for (long i = 0; i < count;) {
      uint16_t length;
      std::memcpy(&length, entries + i + 16, sizeof length);
      const char* entry = entries + i + 19;
      if (!is_dots(entry)) remove_tree(folder, entry, depth + 1);
      i += length;
    }
  }
  ::close(folder);
  ::unlinkat(at, name, AT_REMOVEDIR);
}

}  // namespace

Unfinished::Unfinished(const std::string& path) {
  char* copy = ::strdup(path.c_str());
  if (copy == nullptr) return;
  for (int i = 0; i < kSlots; ++i) {
    char* empty = nullptr;
    if (!slots()[static_cast<size_t>(i)].compare_exchange_strong(empty, copy)) continue;
    slot_ = i;
    return;
  }
  std::free(copy);
}

void Unfinished::forget() noexcept {
  if (slot_ < 0) return;
  const auto slot = static_cast<size_t>(slot_);
  std::free(removed()[slot].exchange(nullptr));
  std::free(slots()[slot].exchange(nullptr));
  slot_ = -1;
}

void remove_unfinished_outputs() noexcept {
  for (size_t i = 0; i < kSlots; ++i) {
    char* path = slots()[i].exchange(nullptr);
    if (path == nullptr) continue;
    remove_tree(AT_FDCWD, path, 0);
    removed()[i] = path;
  }
}

}  // namespace nfloat
