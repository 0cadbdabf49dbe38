// SPDX-License-Identifier: Apache-2.0
#include "model/json_reader.h"

namespace nfloat {

Json parse_small_json(std::string_view text, const std::string& source) {
  constexpr size_t kMaxConfigBytes = size_t{1} << 20;
  constexpr int kMaxDepth = 32;
  if (text.size() > kMaxConfigBytes)
    fail(ErrorCode::kMalformedFile, "{}: {} bytes, expected a configuration of at most {}", source,
         text.size(), kMaxConfigBytes);
  const auto guard = [&](int depth, Json::parse_event_t, Json&) {
    if (depth > kMaxDepth)
      fail(ErrorCode::kMalformedFile, "{}: JSON nested deeper than {} levels", source, kMaxDepth);
    return true;
  };
  try {
    return Json::parse(text, guard);
  } catch (const Json::exception& error) {
    fail(ErrorCode::kMalformedFile, "{}: not valid JSON: {}", source, error.what());
  }
}

}  // namespace nfloat
