// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_LLAMA_CPP_CONFIG_H_
#define NFLOAT_LLAMA_CPP_CONFIG_H_

#include <string>
#include <vector>

#include "gguf/writer.h"
#include "llama_cpp/architectures.h"
#include "llama_cpp/keys.h"
#include "nfloat/model_config.h"

namespace nfloat {

// Throws kUnsupported naming the architecture.
const GgufArchitecture& architecture_of(const GgufFile& file);

// The config.json that a Hugging Face folder of this model has. Throws kUnsupported (architecture and keys
// that are not known, by name), kMalformedFile.
std::string huggingface_config(const GgufFile& file);

// Appends what llama.cpp must know to run a model of this configuration, under its keys. What llama.cpp
// computes otherwise (windows that it ignores, scales that it fixes) is said in `notes`. Throws kUnsupported
// for what its graph of the architecture cannot do at all.
void append_model(const ModelConfig& config, const GgufArchitecture& architecture, GgufMetadata& metadata,
                  std::vector<MetadataTensor>& tensors, std::vector<std::string>& notes);

}  // namespace nfloat

#endif  // NFLOAT_LLAMA_CPP_CONFIG_H_
