// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_CONVERT_COMPARE_H_
#define NFLOAT_CONVERT_COMPARE_H_

#include <string>
#include <vector>

#include "convert/lora.h"
#include "nfloat/convert.h"

namespace nfloat {

// Errors of these weights, which both checkpoints have, in the order of `names`; against the original and, if
// there is one, what `lora` adds to it. Throws kMalformedFile when shapes disagree.
std::vector<TensorError> compare_weights(const Checkpoint& checkpoint, const Checkpoint& original,
                                         const std::vector<std::string>& names, const LoraAdapter* lora,
                                         const ConvertControl& control);

}  // namespace nfloat

#endif  // NFLOAT_CONVERT_COMPARE_H_
