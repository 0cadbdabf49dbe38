// SPDX-License-Identifier: Apache-2.0
#include "checkpoint/shard_index.h"

#include "base/fail.h"
#include "base/json.h"

namespace nfloat {

std::unordered_map<std::string, std::string> parse_shard_index(const std::string& text,
                                                               const std::string& path) {
  const Json index = parse_json_object(text, path, {.depth = 16});
  if (!index["weight_map"].is_object()) {
    fail(ErrorCode::kMalformedFile, "{}: not a JSON object with a 'weight_map'", path);
  }
  std::unordered_map<std::string, std::string> map;
  for (const auto& [tensor, shard] : index["weight_map"].items()) {
    if (!shard.is_string())
      fail(ErrorCode::kMalformedFile, "{}: the shard of '{}' is not a name", path, tensor);
    const std::string& name = shard.text();
    if (name.empty() || name.find('/') != std::string::npos || name.find('\0') != std::string::npos ||
        name == "..") {
      fail(ErrorCode::kMalformedFile, "{}: the shard '{}' of '{}' is not a file name", path, name, tensor);
    }
    map.emplace(tensor, name);
  }
  if (map.empty()) fail(ErrorCode::kMalformedFile, "{}: the weight_map is empty", path);
  return map;
}

}  // namespace nfloat
