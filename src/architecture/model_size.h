// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_ARCHITECTURE_MODEL_SIZE_H_
#define NFLOAT_ARCHITECTURE_MODEL_SIZE_H_

#include <string>
#include <vector>

#include "architecture/model_shape.h"
#include "architecture/tensor_list.h"
#include "nfloat/model_size.h"

namespace nfloat {

// Parameters and cache of a model of this shape. Throws kMalformedFile naming `path` for sizes beyond reason.
ModelSize count_model(const ModelShape& shape, const std::string& path);

// The sizes and parameters of a model of these tensors. Throws as above.
void count_tensors(const ModelConfig& config, const std::vector<ExpectedTensor>& tensors,
                   const std::string& path, ModelSize* size);

// Adds the layers that keep keys and values to size->cached_layers.
void count_cache(const std::vector<LayerShape>& layers, ModelSize* size);

}  // namespace nfloat

#endif  // NFLOAT_ARCHITECTURE_MODEL_SIZE_H_
