// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_ARCHITECTURE_DESCRIPTION_H_
#define NFLOAT_ARCHITECTURE_DESCRIPTION_H_

#include <string>
#include <vector>

#include "architecture/families.h"
#include "architecture/model_shape.h"
#include "architecture/tensor_list.h"
#include "base/json.h"
#include "nfloat/model_size.h"

namespace nfloat {

// What one config.json says of its model.
struct ModelDescription {
  const Family* family = nullptr;  // null: not known, the counts are an estimate
  std::vector<LayerShape> layers;
  // Of a family that runs: all tensors, the experts of a layer in one; else empty.
  std::vector<ExpectedTensor> tensors;
  ModelSize size;
};

// Throws kMalformedFile for sizes that are none, kUnsupported naming a missing key or a kind of layer that is
// not known. What only the forward pass cannot do is said in size.why_not.
ModelDescription describe_model(const Json& config, const std::string& source);

}  // namespace nfloat

#endif  // NFLOAT_ARCHITECTURE_DESCRIPTION_H_
