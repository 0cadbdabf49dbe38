// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_ARCHITECTURE_MODEL_SIZE_H_
#define NFLOAT_ARCHITECTURE_MODEL_SIZE_H_

#include <string>

#include "architecture/model_shape.h"
#include "nfloat/model_size.h"

namespace nfloat {

// Parameters and cache of a model of this shape. Throws kMalformedFile naming `path` for sizes beyond reason.
ModelSize count_model(const ModelShape& shape, const std::string& path);

}  // namespace nfloat

#endif  // NFLOAT_ARCHITECTURE_MODEL_SIZE_H_
