// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_CONVERT_CHECK_SKIP_LIST_H_
#define NFLOAT_CONVERT_CHECK_SKIP_LIST_H_

#include <vector>

#include "base/json.h"
#include "nfloat/convert.h"

namespace nfloat {

// Where the weights of a folder that bitsandbytes quantized and llm_int8_skip_modules differ, both ways.
void check_skip_list(const Checkpoint& checkpoint, const Json& config, std::vector<Finding>* findings);

}  // namespace nfloat

#endif  // NFLOAT_CONVERT_CHECK_SKIP_LIST_H_
