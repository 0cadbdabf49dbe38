// SPDX-License-Identifier: Apache-2.0
#include "engine/vulkan/api.h"

#include <dlfcn.h>

#include <initializer_list>

namespace nfloat::vulkan {
namespace {

// Its library stays loaded: drivers do not like to be unloaded while the program ends.
InstanceApi make_instance() {
  InstanceApi api;
  void* library = nullptr;
  for (const char* name : {"libvulkan.so.1", "libvulkan.so", "libvulkan.1.dylib", "libMoltenVK.dylib"}) {
    if (library != nullptr) break;
    library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    const char* const failure = library == nullptr ? dlerror() : nullptr;
    if (failure != nullptr && api.why_none.empty())
      api.why_none = std::string("its loader cannot be loaded (") + failure + ")";
  }
  if (library == nullptr) return api;
  api.why_none = "its loader is older than Vulkan 1.2";
  const auto find = reinterpret_cast<PFN_vkGetInstanceProcAddr>(dlsym(library, "vkGetInstanceProcAddr"));
  if (find == nullptr) return api;
  const auto version =
      reinterpret_cast<PFN_vkEnumerateInstanceVersion>(find(nullptr, "vkEnumerateInstanceVersion"));
  const auto create = reinterpret_cast<PFN_vkCreateInstance>(find(nullptr, "vkCreateInstance"));
  uint32_t found = 0;
  if (version == nullptr || create == nullptr || version(&found) != VK_SUCCESS || found < VK_API_VERSION_1_2)
    return api;
  VkApplicationInfo application{};
  application.sType = VK_STRUCTURE_TYPE_APPLICATION_INFO;
  application.pApplicationName = "nfloat";
  application.apiVersion = VK_API_VERSION_1_2;
  VkInstanceCreateInfo info{};
  info.sType = VK_STRUCTURE_TYPE_INSTANCE_CREATE_INFO;
  info.pApplicationInfo = &application;
  VkInstance made = VK_NULL_HANDLE;
  const VkResult result = create(&info, nullptr, &made);
  if (result != VK_SUCCESS) {
    api.why_none = result == VK_ERROR_INCOMPATIBLE_DRIVER ? "its loader finds no driver"
                                                          : "its loader fails: " + result_name(result);
    return api;
  }
#define NFLOAT_VULKAN_FIND(name) api.name = reinterpret_cast<PFN_vk##name>(find(made, "vk" #name));
  NFLOAT_VULKAN_INSTANCE_FUNCTIONS(NFLOAT_VULKAN_FIND)
#undef NFLOAT_VULKAN_FIND
  api.instance = made;
  return api;
}

}  // namespace

const InstanceApi* instance(std::string& reason) {
  static const InstanceApi api = make_instance();
  reason = api.why_none;
  return api.instance != VK_NULL_HANDLE ? &api : nullptr;
}

DeviceApi device_api(const InstanceApi& api, VkDevice device) noexcept {
  DeviceApi found;
#define NFLOAT_VULKAN_FIND(name) \
  found.name = reinterpret_cast<PFN_vk##name>(api.GetDeviceProcAddr(device, "vk" #name));
  NFLOAT_VULKAN_DEVICE_FUNCTIONS(NFLOAT_VULKAN_FIND)
#undef NFLOAT_VULKAN_FIND
  return found;
}

std::string result_name(VkResult result) {
  switch (result) {
    case VK_ERROR_OUT_OF_HOST_MEMORY:
      return "VK_ERROR_OUT_OF_HOST_MEMORY";
    case VK_ERROR_OUT_OF_DEVICE_MEMORY:
      return "VK_ERROR_OUT_OF_DEVICE_MEMORY";
    case VK_ERROR_INITIALIZATION_FAILED:
      return "VK_ERROR_INITIALIZATION_FAILED";
    case VK_ERROR_DEVICE_LOST:
      return "VK_ERROR_DEVICE_LOST";
    case VK_ERROR_MEMORY_MAP_FAILED:
      return "VK_ERROR_MEMORY_MAP_FAILED";
    case VK_ERROR_FEATURE_NOT_PRESENT:
      return "VK_ERROR_FEATURE_NOT_PRESENT";
    case VK_ERROR_TOO_MANY_OBJECTS:
      return "VK_ERROR_TOO_MANY_OBJECTS";
    default:
      return "VkResult " + std::to_string(result);
  }
}

}  // namespace nfloat::vulkan
