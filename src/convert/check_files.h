// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_CONVERT_CHECK_FILES_H_
#define NFLOAT_CONVERT_CHECK_FILES_H_

#include <vector>

#include "nfloat/convert.h"

namespace nfloat {

// Opens what generation opens beside the weights: the tokenizer of a folder that has one; of a GGUF file the
// configuration, the tokenizer and the chat template.
void check_files(const Checkpoint& checkpoint, std::vector<Finding>* findings);

}  // namespace nfloat

#endif  // NFLOAT_CONVERT_CHECK_FILES_H_
