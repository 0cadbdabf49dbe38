// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_ENGINE_VULKAN_OPEN_H_
#define NFLOAT_ENGINE_VULKAN_OPEN_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "engine/device.h"

namespace nfloat::vulkan {

// The Vulkan devices that the engine can use, in the driver's order: "vulkan:0", ... The devices are opened
// once and kept while the program runs. A matrix is cut to parts of at most `most_bytes`, or what the device
// allocates at once where that is less.
std::vector<std::shared_ptr<Device>> open(uint64_t most_bytes = uint64_t{1} << 30);
// Why there is none, as the end of a sentence; empty where there is one.
std::string why_none();

}  // namespace nfloat::vulkan

#endif  // NFLOAT_ENGINE_VULKAN_OPEN_H_
