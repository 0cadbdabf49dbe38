// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_BASE_OTHER_CONTENT_H_
#define NFLOAT_BASE_OTHER_CONTENT_H_

#include <string_view>

namespace nfloat {

// What stands in place of a file that was to be downloaded, by its first bytes (8 are enough): a Git LFS
// pointer, a web page; else empty.
inline std::string_view other_content(std::string_view head) noexcept {
  if (head.starts_with("version "))
    return "a Git LFS pointer, not the file that it points to: run 'git lfs pull'";
  for (const std::string_view page : {"<!DOCTYP", "<!doctyp", "<html", "<HTML", "<?xml"})
    if (head.starts_with(page)) return "a web page (an error or a login, perhaps), not the file itself";
  return {};
}

// Whether a file that begins so reads as text.
inline bool looks_like_text(std::string_view head) noexcept {
  for (const char c : head)
    if ((c < ' ' || c > '~') && c != '\n' && c != '\r' && c != '\t') return false;
  return !head.empty();
}

}  // namespace nfloat

#endif  // NFLOAT_BASE_OTHER_CONTENT_H_
