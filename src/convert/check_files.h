// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_CONVERT_CHECK_FILES_H_
#define NFLOAT_CONVERT_CHECK_FILES_H_

#include <vector>

#include "nfloat/convert.h"

namespace nfloat {

// Asks of a folder or a GGUF file what generation asks: the configuration, the names, shapes and types of
// tensors (where the model runs in this version; else a note), the tokenizer of a folder that has one,
// tokenizer and chat template of a GGUF file.
void check_files(const Checkpoint& checkpoint, std::vector<Finding>* findings);

}  // namespace nfloat

#endif  // NFLOAT_CONVERT_CHECK_FILES_H_
