// SPDX-License-Identifier: Apache-2.0
#include "base/json_reader.h"

namespace nfloat {

Json parse_small_json(std::string_view text, const std::string& source) {
  constexpr size_t kMaxConfigBytes = size_t{1} << 20;
  constexpr int kMaxDepth = 32;
  return parse_json_object(text, source, {.depth = kMaxDepth, .bytes = kMaxConfigBytes});
}

}  // namespace nfloat
