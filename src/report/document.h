// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_REPORT_DOCUMENT_H_
#define NFLOAT_REPORT_DOCUMENT_H_

#include <algorithm>
#include <cstdint>
#include <string>

#include "base/json.h"

namespace nfloat {

// As the command line prints documents. Names in files need not be UTF-8: such bytes become U+FFFD.
inline std::string to_text(const Json& json) {
  return json.dump(2, Json::Invalid::kReplace);
}

// Member "device", unless the name is empty.
void add_device(Json& json, const std::string& device);

inline double bits_per_weight(uint64_t bytes, int64_t elements) noexcept {
  return elements > 0 ? 8 * static_cast<double>(bytes) / static_cast<double>(elements) : 0;
}

}  // namespace nfloat

#endif  // NFLOAT_REPORT_DOCUMENT_H_
