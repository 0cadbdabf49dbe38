// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_ENGINE_VULKAN_API_H_
#define NFLOAT_ENGINE_VULKAN_API_H_

#define VK_NO_PROTOTYPES
#include <vulkan/vulkan.h>

#include <string>

#include "engine/vulkan/cooperative_matrix.h"

// Vulkan's functions, found in the loader library when the program runs: nothing links to it, and a machine
// without it has no Vulkan devices.
namespace nfloat::vulkan {

#define NFLOAT_VULKAN_INSTANCE_FUNCTIONS(f)                                                 \
  f(EnumeratePhysicalDevices) f(GetPhysicalDeviceProperties2) f(GetPhysicalDeviceFeatures2) \
      f(GetPhysicalDeviceMemoryProperties2) f(GetPhysicalDeviceQueueFamilyProperties)       \
          f(EnumerateDeviceExtensionProperties) f(CreateDevice) f(GetDeviceProcAddr)        \
              f(GetPhysicalDeviceCooperativeMatrixPropertiesKHR)

#define NFLOAT_VULKAN_DEVICE_FUNCTIONS(f)                                                                    \
  f(DestroyDevice) f(GetDeviceQueue) f(QueueSubmit) f(CreateBuffer) f(DestroyBuffer)                         \
      f(GetBufferMemoryRequirements) f(AllocateMemory) f(FreeMemory) f(BindBufferMemory) f(MapMemory)        \
          f(GetBufferDeviceAddress) f(CreateShaderModule) f(DestroyShaderModule) f(CreatePipelineLayout)     \
              f(CreateComputePipelines) f(CreateCommandPool) f(DestroyCommandPool) f(AllocateCommandBuffers) \
                  f(BeginCommandBuffer) f(EndCommandBuffer) f(CmdBindPipeline) f(CmdPushConstants)           \
                      f(CmdDispatch) f(CmdPipelineBarrier) f(CreateSemaphore) f(WaitSemaphores)

struct InstanceApi {
  VkInstance instance = VK_NULL_HANDLE;
  std::string why_none;  // why not
#define NFLOAT_VULKAN_POINTER(name) PFN_vk##name name = nullptr;
  NFLOAT_VULKAN_INSTANCE_FUNCTIONS(NFLOAT_VULKAN_POINTER)
};

struct DeviceApi {
  NFLOAT_VULKAN_DEVICE_FUNCTIONS(NFLOAT_VULKAN_POINTER)
#undef NFLOAT_VULKAN_POINTER
};

// An instance of Vulkan 1.2, made when first asked for and kept; null where the library, a driver or that
// version is missing, and then `reason` says which.
const InstanceApi* instance(std::string& reason);

DeviceApi device_api(const InstanceApi& api, VkDevice device) noexcept;

// "VK_ERROR_DEVICE_LOST"; of results without a name here their number.
std::string result_name(VkResult result);

}  // namespace nfloat::vulkan

#endif  // NFLOAT_ENGINE_VULKAN_API_H_
