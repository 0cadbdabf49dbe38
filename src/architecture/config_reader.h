// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_ARCHITECTURE_CONFIG_READER_H_
#define NFLOAT_ARCHITECTURE_CONFIG_READER_H_

#include "architecture/families.h"
#include "base/json.h"
#include "base/json_reader.h"
#include "nfloat/model_config.h"

namespace nfloat {

// The family that a configuration names, by its model_type or else the name of its class. Null when there is
// none.
const Family* family_of(const Json& config);

// The text part of a model that sees or hears, among the keys of the whole; what it leaves out, the whole
// says.
Json with_language_part(const Json& whole);

// What `config` says, and the family's defaults where it says nothing, under the names that all families
// share.
Json usual_config(const Json& config, const Family& family);

// Reads what the shapes of tensors and of the cache depend on. `root`: a usual_config of a family that runs.
// Throws kMalformedFile, and kUnsupported for layers of unknown kinds.
void read_shape(const JsonReader& root, const Family& family, ModelConfig& config);

// Reads all else that the forward pass depends on. Throws as parse_model_config.
void read_computation(const Json& usual, const JsonReader& root, const Family& family, ModelConfig& config);

}  // namespace nfloat

#endif  // NFLOAT_ARCHITECTURE_CONFIG_READER_H_
