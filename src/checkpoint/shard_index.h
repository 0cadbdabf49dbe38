// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_CHECKPOINT_SHARD_INDEX_H_
#define NFLOAT_CHECKPOINT_SHARD_INDEX_H_

#include <string>
#include <unordered_map>

namespace nfloat {

// The file of each tensor by the text of a model.safetensors.index.json. `path` names it in messages. Throws
// kMalformedFile: no weight_map or an empty one, shards whose names lead out of the folder.
std::unordered_map<std::string, std::string> parse_shard_index(const std::string& text,
                                                               const std::string& path);

}  // namespace nfloat

#endif  // NFLOAT_CHECKPOINT_SHARD_INDEX_H_
