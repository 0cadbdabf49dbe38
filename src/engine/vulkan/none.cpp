// SPDX-License-Identifier: Apache-2.0
#include "engine/vulkan/open.h"

namespace nfloat::vulkan {

std::vector<std::shared_ptr<Device>> open(uint64_t) {
  return {};
}

std::string why_none() {
  return "this build is without Vulkan (-DNFLOAT_VULKAN=ON builds it in, where its headers and glslc are)";
}

}  // namespace nfloat::vulkan
