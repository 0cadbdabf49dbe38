// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_BRIDGE_MODEL_METADATA_H_
#define NFLOAT_BRIDGE_MODEL_METADATA_H_

#include <string>
#include <vector>

#include "gguf/architectures.h"
#include "gguf/writer.h"
#include "nfloat/model_config.h"

namespace nfloat {

// A vector of metadata that GGUF keeps as a tensor: divisors of the rotary frequencies.
struct MetadataTensor {
  std::string name;
  std::vector<float> values;
};

// Appends what llama.cpp must know to run a model of this configuration, under its keys. What llama.cpp
// computes otherwise (windows that it ignores, scales that it fixes) is said in `notes`. Throws kUnsupported
// for what its graph of the architecture cannot do at all.
void append_model(const ModelConfig& config, const GgufArchitecture& architecture, GgufMetadata& metadata,
                  std::vector<MetadataTensor>& tensors, std::vector<std::string>& notes);

}  // namespace nfloat

#endif  // NFLOAT_BRIDGE_MODEL_METADATA_H_
