// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_BASE_UNFINISHED_H_
#define NFLOAT_BASE_UNFINISHED_H_

#include <string>
#include <utility>

namespace nfloat {

// Notes the path of a temporary file or folder, so that remove_unfinished_outputs() (nfloat/files.h) finds it
// when a signal ends the process. Where a thousand are noted already, the next are not: the next run removes
// them. The path is forgotten when the object goes.
class Unfinished {
 public:
  Unfinished() = default;
  explicit Unfinished(const std::string& path);
  Unfinished(Unfinished&& other) noexcept : slot_(std::exchange(other.slot_, -1)) {}
  Unfinished& operator=(Unfinished&& other) noexcept {
    std::swap(slot_, other.slot_);
    return *this;
  }
  ~Unfinished() { forget(); }
  void forget() noexcept;

 private:
  int slot_ = -1;
};

}  // namespace nfloat

#endif  // NFLOAT_BASE_UNFINISHED_H_
