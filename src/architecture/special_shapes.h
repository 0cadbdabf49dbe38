// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_ARCHITECTURE_SPECIAL_SHAPES_H_
#define NFLOAT_ARCHITECTURE_SPECIAL_SHAPES_H_

#include "architecture/model_shape.h"
#include "architecture/shape_config.h"

namespace nfloat {

// What families have whose layers differ in more than their kind, or that hold more than layers; of other
// families nothing. `shape` has what is common. Throws kMalformedFile naming the key.
void read_special_shape(const ShapeConfig& config, ModelShape* shape);

}  // namespace nfloat

#endif  // NFLOAT_ARCHITECTURE_SPECIAL_SHAPES_H_
