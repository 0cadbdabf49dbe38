// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_LLAMA_CPP_ROPE_H_
#define NFLOAT_LLAMA_CPP_ROPE_H_

#include "base/json.h"
#include "llama_cpp/architectures.h"
#include "llama_cpp/keys.h"
#include "nfloat/model_config.h"

namespace nfloat {

// Adds the keys of config.json that describe rotary embedding to `config`. Throws kMalformedFile,
// kUnsupported.
void read_rope(const ModelKeys& keys, const GgufArchitecture& entry, int64_t head_dim, Json& config);

// The reverse. Throws kUnsupported.
void append_rope(const ModelConfig& config, const GgufArchitecture& entry, ModelKeyWriter& keys);

}  // namespace nfloat

#endif  // NFLOAT_LLAMA_CPP_ROPE_H_
