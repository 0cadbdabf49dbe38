// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_CLI_PLAN_DEVICE_H_
#define NFLOAT_CLI_PLAN_DEVICE_H_

#include <cstdint>
#include <string>

#include "nfloat/memory_plan.h"

namespace nfloat::cli {

// `nfloat plan --device`: what of a model lies on a device, and whether it fits there.
void plan_on_device(const std::string& device, const ModelSize& model, int64_t context, bool json);

}  // namespace nfloat::cli

#endif  // NFLOAT_CLI_PLAN_DEVICE_H_
