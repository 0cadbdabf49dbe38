// SPDX-License-Identifier: Apache-2.0
// Stands before the Vulkan loader under its name and does what no driver on a processor does: runs the
// dispatches between two barriers in the reverse order, fills memory with what is not a number, puts what may
// be neither read nor written behind its end, and fails where it is told to. LD_LIBRARY_PATH puts it before
// the real one; which is REAL_VULKAN.
//
// NFLOAT_VULKAN_CHECK=1       order, barriers and memory; what is wrong is said, and ends the program with 86
// NFLOAT_VULKAN_FAULT=...     submit:N, wait:N: from the Nth on the device is lost; pipeline:N: the Nth
//                             cannot be made; memory:MIB: no more than that on a device; heap:MIB: and said
//                             to be so; barrier:N: every Nth of those between dispatches is left out;
//                             units:1: matrix units multiply wrongly
// NFLOAT_VULKAN_SHADERS=DIR   a shader that is DIR/old.spv byte for byte is replaced by DIR/new.spv
// NFLOAT_VULKAN_UNITS=FILE    devices are said to have matrix units, and FILE, which does without, takes
//                             the place of a shader that asks for them
// NFLOAT_VULKAN_UNIT_SHAPE=M,N,K,S   of M x N x K, in sub-groups of S; else 16,16,16,32
// NFLOAT_VULKAN_SHARED=BYTES  devices are said to have no more shared memory
#define VK_NO_PROTOTYPES
#include <dlfcn.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>
#include <vulkan/vulkan.h>

#include "engine/vulkan/cooperative_matrix.h"

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <map>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace {

const auto kPage = static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
const uint64_t kGuard = 2 * kPage;        // more than a buffer needs: with one whole page in it
constexpr uint64_t kLeastAlignment = 16;  // of what shaders read at once
constexpr int kPoison = 0xff;             // floats and halves of these bytes are not numbers

[[noreturn]] void wrong(const char* what) {
  std::fprintf(stderr, "checking loader: %s\n", what);
  std::fflush(stderr);
  ::_exit(86);
}

bool checking() {
  static const char* const wanted = std::getenv("NFLOAT_VULKAN_CHECK");
  return wanted != nullptr && *wanted != '\0';
}

// The number behind NAME: in NFLOAT_VULKAN_FAULT; -1: another fault or none.
int64_t fault(std::string_view name) {
  const char* const wanted = std::getenv("NFLOAT_VULKAN_FAULT");
  const std::string_view text = wanted != nullptr ? wanted : "";
  if (!text.starts_with(name) || text.size() <= name.size() || text[name.size()] != ':') return -1;
  return std::atoll(wanted + name.size() + 1);
}

// The shader that stands for matrix units; null: there are none.
const char* emulated_units() {
  static const char* const file = std::getenv("NFLOAT_VULKAN_UNITS");
  return file != nullptr && *file != '\0' ? file : nullptr;
}

PFN_vkGetInstanceProcAddr real_instance_function() {
  static void* const library = ::dlopen(REAL_VULKAN, RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) return nullptr;
  return reinterpret_cast<PFN_vkGetInstanceProcAddr>(::dlsym(library, "vkGetInstanceProcAddr"));
}

struct UnitShape {
  uint32_t rows = 16, columns = 16, depth = 16, subgroup = 32;
};
const UnitShape& unit_shape() {
  static const UnitShape shape = [] {
    UnitShape own;
    if (const char* const text = std::getenv("NFLOAT_VULKAN_UNIT_SHAPE"); text != nullptr)
      if (std::sscanf(text, "%u,%u,%u,%u", &own.rows, &own.columns, &own.depth, &own.subgroup) != 4)
        wrong("NFLOAT_VULKAN_UNIT_SHAPE is no M,N,K,S");
    return own;
  }();
  return shape;
}

// The structure of that type in the chain behind `start`; null: none.
template <typename T>
T* in_chain(void* start, VkStructureType type) {
  for (auto* own = static_cast<VkBaseOutStructure*>(start)->pNext; own != nullptr; own = own->pNext)
    if (own->sType == type) return reinterpret_cast<T*>(own);
  return nullptr;
}

// A structure in a chain that can be left out of it for as long as this lives.
class Link {
 public:
  Link(void* start, VkStructureType type) : before_(static_cast<VkBaseOutStructure*>(start)) {
    while (before_->pNext != nullptr && before_->pNext->sType != type) before_ = before_->pNext;
    found_ = before_->pNext;
  }
  Link(const Link&) = delete;
  Link& operator=(const Link&) = delete;
  ~Link() { before_->pNext = found_; }
  const VkBaseOutStructure* found() const { return found_; }
  void take_out() const { before_->pNext = found_->pNext; }

 private:
  VkBaseOutStructure *before_, *found_;
};

// The bytes before and behind the buffer stay as they are; the page behind those can be neither read nor
// written where the host sees the memory that a dispatch uses, as it does on a processor.
struct Allocation {
  uint64_t bytes = 0, first = 0, used = 0;  // with the guard; of the buffer that is bound to it
  std::byte *host = nullptr, *closed = nullptr;
};

struct Dispatch {
  VkPipeline pipeline = VK_NULL_HANDLE;
  VkPipelineLayout layout = VK_NULL_HANDLE;
  std::vector<std::byte> arguments;
  uint32_t x = 0, y = 0, z = 0;
};

struct Commands {
  Dispatch next;  // without its size
  std::vector<Dispatch> unordered;
  bool begun_by_barrier = false, ends_for_host = false;
};

struct State {
  std::recursive_mutex mutex;
  VkInstance instance = VK_NULL_HANDLE;
  std::map<VkDevice, VkPhysicalDevice> devices;
  std::map<VkPhysicalDevice, uint64_t> bytes;  // that are allocated
  // Drivers do not know each other's handles: these may be equal on two devices.
  std::map<std::pair<VkDevice, VkBuffer>, uint64_t> buffers;  // their bytes
  std::map<std::pair<VkDevice, VkDeviceMemory>, Allocation> memory;
  std::map<VkCommandBuffer, Commands> commands;
  int64_t submits = 0, waits = 0, pipelines = 0, barriers = 0;
};
State& state() {
  static State* const made = new State;  // drivers end their threads after destructors
  return *made;
}

// The real loader's own function, which looks at its first argument for the driver to call: right for every
// device.
template <typename Function>
Function real(const char* name) {
  return reinterpret_cast<Function>(real_instance_function()(state().instance, name));
}
#define REAL(name) real<PFN_##name>(#name)

void expect_guard(const Allocation& own) {
  if (own.host == nullptr || own.used == 0) return;
  const std::byte* const end = own.closed != nullptr ? own.closed : own.host + own.bytes;
  for (const std::byte* at = own.host; at < end; ++at) {
    if (at == own.host + own.first) at += own.used;
    if (at < end && *at != std::byte{kPoison}) wrong("a dispatch wrote beside its memory");
  }
}

void open_page(Allocation& own) {
  if (own.closed != nullptr) ::mprotect(own.closed, kPage, PROT_READ | PROT_WRITE);
  own.closed = nullptr;
}

// Who looks for leaks at the end of a program reads all memory that drivers have taken.
void open_pages() {
  const std::scoped_lock lock(state().mutex);
  for (auto& [handle, own] : state().memory) open_page(own);
}

// Of a page that was closed; any other fault goes to who was asked before.
struct sigaction asked_before;
void tell_of_the_page(int number, siginfo_t* info, void*) {
  if (info->si_code != SEGV_ACCERR) {
    ::sigaction(number, &asked_before, nullptr);  // and once more
    return;
  }
  constexpr std::string_view kText =
      "checking loader: a dispatch read or wrote behind the end of its memory\n";
  [[maybe_unused]] const auto written = ::write(2, kText.data(), kText.size());
  ::_exit(86);
}
bool pages_tell() {
  static const bool done = [] {
    struct sigaction own {};
    own.sa_sigaction = tell_of_the_page;
    own.sa_flags = SA_SIGINFO;
    return ::sigaction(SIGSEGV, &own, &asked_before) == 0 && std::atexit(open_pages) == 0;
  }();
  return done;
}

// Closes the first whole page behind the buffer, which ends before it with less than `alignment` bytes
// between.
void close_page(Allocation& own, uint64_t alignment) {
  const auto begin = reinterpret_cast<uintptr_t>(own.host), end = begin + own.used;
  const uintptr_t page = (end + kPage - 1) / kPage * kPage;
  if (!pages_tell() || page + kPage > begin + own.bytes) return;
  auto* const memory = own.host + (page - begin);
  if (::mprotect(memory, kPage, PROT_NONE) != 0) return;
  own.closed = memory;
  own.first = (page - end) / alignment * alignment;
}

VKAPI_ATTR VkResult VKAPI_CALL create_buffer(VkDevice device, const VkBufferCreateInfo* info,
                                             const VkAllocationCallbacks* how, VkBuffer* made) {
  const std::scoped_lock lock(state().mutex);
  const VkResult result = REAL(vkCreateBuffer)(device, info, how, made);
  if (result == VK_SUCCESS) state().buffers[{device, *made}] = info->size;
  return result;
}

VKAPI_ATTR void VKAPI_CALL requirements(VkDevice device, VkBuffer buffer, VkMemoryRequirements* found) {
  const std::scoped_lock lock(state().mutex);
  REAL(vkGetBufferMemoryRequirements)(device, buffer, found);
  if (checking()) found->size += kGuard;
}

VKAPI_ATTR VkResult VKAPI_CALL allocate(VkDevice device, const VkMemoryAllocateInfo* info,
                                        const VkAllocationCallbacks* how, VkDeviceMemory* made) {
  const std::scoped_lock lock(state().mutex);
  const VkPhysicalDevice physical = state().devices.at(device);
  uint64_t& allocated = state().bytes[physical];
  VkPhysicalDeviceMemoryProperties all{};
  REAL(vkGetPhysicalDeviceMemoryProperties)(physical, &all);
  // Where host and device have one type, what is mapped later is the host's.
  const VkMemoryType type = all.memoryTypes[info->memoryTypeIndex];
  for (const char* name : {"memory", "heap"})
    if (const int64_t most = fault(name);
        most >= 0 && allocated + info->allocationSize > static_cast<uint64_t>(most) << 20)
      return VK_ERROR_OUT_OF_DEVICE_MEMORY;
  const VkResult result = REAL(vkAllocateMemory)(device, info, how, made);
  if (result != VK_SUCCESS) return result;
  Allocation own{info->allocationSize};
  allocated += own.bytes;
  if (checking() && (type.propertyFlags & VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT) != 0) {
    void* host = nullptr;
    if (REAL(vkMapMemory)(device, *made, 0, VK_WHOLE_SIZE, 0, &host) == VK_SUCCESS) {
      own.host = static_cast<std::byte*>(host);
      std::memset(own.host, kPoison, own.bytes);
    }
  }
  state().memory[{device, *made}] = own;
  return result;
}

VKAPI_ATTR VkResult VKAPI_CALL bind(VkDevice device, VkBuffer buffer, VkDeviceMemory memory,
                                    VkDeviceSize at) {
  const std::scoped_lock lock(state().mutex);
  Allocation& own = state().memory[{device, memory}];
  own.used = state().buffers[{device, buffer}];
  if (own.host != nullptr && at == 0) {
    VkMemoryRequirements needs{};
    REAL(vkGetBufferMemoryRequirements)(device, buffer, &needs);
    // Drivers on a processor ask for more than they need; a layer would notice.
    close_page(own, std::getenv("VK_INSTANCE_LAYERS") != nullptr ? needs.alignment : kLeastAlignment);
  }
  return REAL(vkBindBufferMemory)(device, buffer, memory, at + own.first);
}

VKAPI_ATTR VkResult VKAPI_CALL map(VkDevice device, VkDeviceMemory memory, VkDeviceSize at,
                                   VkDeviceSize bytes, VkMemoryMapFlags flags, void** host) {
  const std::scoped_lock lock(state().mutex);
  if (const Allocation& own = state().memory[{device, memory}]; own.host != nullptr) {
    *host = own.host + own.first + at;
    return VK_SUCCESS;
  }
  return REAL(vkMapMemory)(device, memory, at, bytes, flags, host);
}

VKAPI_ATTR void VKAPI_CALL free_memory(VkDevice device, VkDeviceMemory memory,
                                       const VkAllocationCallbacks* how) {
  const std::scoped_lock lock(state().mutex);
  if (const auto own = state().memory.find({device, memory}); own != state().memory.end()) {
    expect_guard(own->second);
    open_page(own->second);
    state().bytes[state().devices.at(device)] -= own->second.bytes;
    state().memory.erase(own);
  }
  REAL(vkFreeMemory)(device, memory, how);
}

void record(VkCommandBuffer buffer, const Dispatch& own) {
  REAL(vkCmdBindPipeline)(buffer, VK_PIPELINE_BIND_POINT_COMPUTE, own.pipeline);
  REAL(vkCmdPushConstants)
  (buffer, own.layout, VK_SHADER_STAGE_COMPUTE_BIT, 0, static_cast<uint32_t>(own.arguments.size()),
   own.arguments.data());
  REAL(vkCmdDispatch)(buffer, own.x, own.y, own.z);
}

// What no barrier orders, the last one first.
void record_unordered(VkCommandBuffer buffer, Commands& own) {
  for (auto dispatch = own.unordered.rbegin(); dispatch != own.unordered.rend(); ++dispatch)
    record(buffer, *dispatch);
  own.unordered.clear();
}

VKAPI_ATTR VkResult VKAPI_CALL begin(VkCommandBuffer buffer, const VkCommandBufferBeginInfo* info) {
  const std::scoped_lock lock(state().mutex);
  state().commands[buffer] = {};
  return REAL(vkBeginCommandBuffer)(buffer, info);
}

VKAPI_ATTR void VKAPI_CALL bind_pipeline(VkCommandBuffer buffer, VkPipelineBindPoint, VkPipeline pipeline) {
  const std::scoped_lock lock(state().mutex);
  state().commands[buffer].next.pipeline = pipeline;
}

VKAPI_ATTR void VKAPI_CALL push(VkCommandBuffer buffer, VkPipelineLayout layout, VkShaderStageFlags, uint32_t,
                                uint32_t bytes, const void* values) {
  const std::scoped_lock lock(state().mutex);
  Dispatch& next = state().commands[buffer].next;
  const auto* const from = static_cast<const std::byte*>(values);
  next.layout = layout;
  next.arguments.assign(from, from + bytes);
}

VKAPI_ATTR void VKAPI_CALL dispatch(VkCommandBuffer buffer, uint32_t x, uint32_t y, uint32_t z) {
  const std::scoped_lock lock(state().mutex);
  Commands& own = state().commands[buffer];
  if (!own.begun_by_barrier) wrong("a command buffer does not begin with a barrier behind those before it");
  own.ends_for_host = false;
  own.next.x = x, own.next.y = y, own.next.z = z;
  own.unordered.push_back(own.next);
}

VKAPI_ATTR void VKAPI_CALL barrier(VkCommandBuffer buffer, VkPipelineStageFlags from, VkPipelineStageFlags to,
                                   VkDependencyFlags flags, uint32_t count, const VkMemoryBarrier* memory,
                                   uint32_t buffers, const VkBufferMemoryBarrier* of_buffers, uint32_t images,
                                   const VkImageMemoryBarrier* of_images) {
  const std::scoped_lock lock(state().mutex);
  Commands& own = state().commands[buffer];
  constexpr VkPipelineStageFlags kShader = VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT;
  constexpr VkAccessFlags kBoth = VK_ACCESS_SHADER_READ_BIT | VK_ACCESS_SHADER_WRITE_BIT;
  const bool of_writes =
      (from & kShader) != 0 && count > 0 && (memory->srcAccessMask & VK_ACCESS_SHADER_WRITE_BIT) != 0;
  if (of_writes && (to & kShader) != 0 && (memory->dstAccessMask & kBoth) == kBoth) {
    const int64_t every = fault("barrier");
    if (every > 0 && own.begun_by_barrier && ++state().barriers % every == 0) return;
    record_unordered(buffer, own);
    own.begun_by_barrier = true;
  } else if (of_writes && (to & VK_PIPELINE_STAGE_HOST_BIT) != 0 &&
             (memory->dstAccessMask & VK_ACCESS_HOST_READ_BIT) != 0) {
    record_unordered(buffer, own);  // nothing follows but the end
    own.ends_for_host = true;
    own.begun_by_barrier = false;
  }
  REAL(vkCmdPipelineBarrier)
  (buffer, from, to, flags, count, memory, buffers, of_buffers, images, of_images);
}

VKAPI_ATTR VkResult VKAPI_CALL end(VkCommandBuffer buffer) {
  const std::scoped_lock lock(state().mutex);
  if (!state().commands[buffer].ends_for_host) wrong("a command buffer ends without a barrier for the host");
  return REAL(vkEndCommandBuffer)(buffer);
}

VKAPI_ATTR VkResult VKAPI_CALL submit(VkQueue queue, uint32_t count, const VkSubmitInfo* infos,
                                      VkFence fence) {
  const std::scoped_lock lock(state().mutex);
  if (const int64_t from = fault("submit"); from >= 0 && ++state().submits >= from)
    return VK_ERROR_DEVICE_LOST;
  return REAL(vkQueueSubmit)(queue, count, infos, fence);
}

VKAPI_ATTR VkResult VKAPI_CALL wait(VkDevice device, const VkSemaphoreWaitInfo* info, uint64_t nanoseconds) {
  PFN_vkWaitSemaphores waits = nullptr;
  bool lost = false;
  {
    const std::scoped_lock lock(state().mutex);
    const int64_t from = fault("wait");
    lost = from >= 0 && ++state().waits >= from;
    waits = REAL(vkWaitSemaphores);
  }
  const VkResult result = waits(device, info, nanoseconds);  // a device that is lost runs nothing any more
  return lost ? VK_ERROR_DEVICE_LOST : result;
}

VKAPI_ATTR VkResult VKAPI_CALL pipelines(VkDevice device, VkPipelineCache cache, uint32_t count,
                                         const VkComputePipelineCreateInfo* infos,
                                         const VkAllocationCallbacks* how, VkPipeline* made) {
  const std::scoped_lock lock(state().mutex);
  if (const int64_t at = fault("pipeline"); at >= 0 && ++state().pipelines >= at)
    return VK_ERROR_OUT_OF_HOST_MEMORY;
  std::vector<VkComputePipelineCreateInfo> own(infos, infos + count);
  for (VkComputePipelineCreateInfo& one : own) {
    if (emulated_units() == nullptr || one.stage.pNext == nullptr) continue;
    const auto* const size =
        static_cast<const VkPipelineShaderStageRequiredSubgroupSizeCreateInfoEXT*>(one.stage.pNext);
    if (size->sType != VK_STRUCTURE_TYPE_PIPELINE_SHADER_STAGE_REQUIRED_SUBGROUP_SIZE_CREATE_INFO_EXT ||
        size->requiredSubgroupSize != unit_shape().subgroup ||
        one.stage.flags != VK_PIPELINE_SHADER_STAGE_CREATE_REQUIRE_FULL_SUBGROUPS_BIT_EXT)
      wrong("a shader for matrix units does not ask for whole sub-groups of their size");
    one.stage.pNext = nullptr;
    one.stage.flags = 0;
  }
  return REAL(vkCreateComputePipelines)(device, cache, count, own.data(), how, made);
}

std::vector<char> file(const std::string& path) {
  std::ifstream stream(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
}

// Whether a module begins with the capability of cooperative matrices among its own.
bool asks_for_units(const VkShaderModuleCreateInfo& info) {
  constexpr uint32_t kHeader = 5, kCapability = 2u << 16 | 17u, kCooperativeMatrix = 6022;
  for (size_t i = kHeader; i + 1 < info.codeSize / 4 && info.pCode[i] == kCapability; i += 2)
    if (info.pCode[i + 1] == kCooperativeMatrix) return true;
  return false;
}

// Halves are no longer read as such: UnpackHalf2x16 of GLSL.std.450 becomes UnpackSnorm2x16.
void spoil(std::vector<char>& module) {
  constexpr uint32_t kHeader = 5, kExtInst = 6u << 16 | 12u, kUnpackHalf = 62, kUnpackSnorm = 60;
  std::vector<uint32_t> words(module.size() / 4);
  std::memcpy(words.data(), module.data(), module.size());
  for (size_t i = kHeader; i + 5 < words.size() && words[i] >> 16 != 0; i += words[i] >> 16)
    if (words[i] == kExtInst && words[i + 4] == kUnpackHalf) words[i + 4] = kUnpackSnorm;
  std::memcpy(module.data(), words.data(), module.size());
}

VKAPI_ATTR VkResult VKAPI_CALL create_shader(VkDevice device, const VkShaderModuleCreateInfo* info,
                                             const VkAllocationCallbacks* how, VkShaderModule* made) {
  const std::scoped_lock lock(state().mutex);
  VkShaderModuleCreateInfo own = *info;
  std::vector<char> other, units;
  if (emulated_units() != nullptr && asks_for_units(*info)) {
    units = file(emulated_units());
    if (units.empty()) wrong("NFLOAT_VULKAN_UNITS names no file");
    if (fault("units") >= 0) spoil(units);
    own.codeSize = units.size();
    own.pCode = reinterpret_cast<const uint32_t*>(units.data());
  }
  if (const char* const folder = std::getenv("NFLOAT_VULKAN_SHADERS"); folder != nullptr) {
    const std::vector<char> old = file(std::string(folder) + "/old.spv");
    if (old.size() == own.codeSize && std::memcmp(old.data(), own.pCode, old.size()) == 0) {
      other = file(std::string(folder) + "/new.spv");
      own.codeSize = other.size();
      own.pCode = reinterpret_cast<const uint32_t*>(other.data());
      std::fprintf(stderr, "checking loader: a shader was replaced\n");
    }
  }
  return REAL(vkCreateShaderModule)(device, &own, how, made);
}

VKAPI_ATTR VkResult VKAPI_CALL create_device(VkPhysicalDevice physical, const VkDeviceCreateInfo* info,
                                             const VkAllocationCallbacks* how, VkDevice* made) {
  const std::scoped_lock lock(state().mutex);
  VkDeviceCreateInfo own = *info;
  std::vector<const char*> names(info->ppEnabledExtensionNames,
                                 info->ppEnabledExtensionNames + info->enabledExtensionCount);
  const Link features(&own, VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_COOPERATIVE_MATRIX_FEATURES_KHR);
  const auto unknown = std::find_if(names.begin(), names.end(), [](const std::string_view name) {
    return name == VK_KHR_COOPERATIVE_MATRIX_EXTENSION_NAME;
  });
  if ((features.found() != nullptr) != (unknown != names.end()))
    wrong("matrix units are an extension and a feature: both are enabled, or neither");
  if (emulated_units() != nullptr && unknown != names.end()) {
    names.erase(unknown);
    own.enabledExtensionCount = static_cast<uint32_t>(names.size());
    own.ppEnabledExtensionNames = names.data();
    features.take_out();
  }
  const VkResult result = REAL(vkCreateDevice)(physical, &own, how, made);
  if (result == VK_SUCCESS) state().devices[*made] = physical;
  return result;
}

// Only of a device that could not be used: the others are kept.
VKAPI_ATTR void VKAPI_CALL destroy_device(VkDevice device, const VkAllocationCallbacks* how) {
  const std::scoped_lock lock(state().mutex);
  state().devices.erase(device);
  REAL(vkDestroyDevice)(device, how);
}

// So that nobody takes the real loader for this one; and what matrix units say of themselves.
VKAPI_ATTR void VKAPI_CALL properties2(VkPhysicalDevice physical, VkPhysicalDeviceProperties2* found) {
  const std::scoped_lock lock(state().mutex);
  REAL(vkGetPhysicalDeviceProperties2)(physical, found);
  const std::string name = std::string("checked ") + found->properties.deviceName;
  std::snprintf(found->properties.deviceName, sizeof found->properties.deviceName, "%s", name.c_str());
  if (const char* const most = std::getenv("NFLOAT_VULKAN_SHARED"); most != nullptr) {
    uint32_t& shared = found->properties.limits.maxComputeSharedMemorySize;
    shared = std::min(shared, static_cast<uint32_t>(std::atoll(most)));
  }
  if (emulated_units() == nullptr) return;
  if (auto* const sizes = in_chain<VkPhysicalDeviceSubgroupSizeControlPropertiesEXT>(
          found, VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SUBGROUP_SIZE_CONTROL_PROPERTIES_EXT)) {
    sizes->minSubgroupSize = sizes->maxSubgroupSize = unit_shape().subgroup;
    sizes->requiredSubgroupSizeStages = VK_SHADER_STAGE_COMPUTE_BIT;
  }
  if (auto* const stages = in_chain<VkPhysicalDeviceCooperativeMatrixPropertiesKHR>(
          found, VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_COOPERATIVE_MATRIX_PROPERTIES_KHR))
    stages->cooperativeMatrixSupportedStages = VK_SHADER_STAGE_COMPUTE_BIT;
}

VKAPI_ATTR void VKAPI_CALL features2(VkPhysicalDevice physical, VkPhysicalDeviceFeatures2* found) {
  const std::scoped_lock lock(state().mutex);
  REAL(vkGetPhysicalDeviceFeatures2)(physical, found);
  if (auto* const units = in_chain<VkPhysicalDeviceCooperativeMatrixFeaturesKHR>(
          found, VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_COOPERATIVE_MATRIX_FEATURES_KHR))
    units->cooperativeMatrix = emulated_units() != nullptr ? VK_TRUE : VK_FALSE;
}

// `count` and `list` as Vulkan gives out any list.
template <typename T>
VkResult give(const std::vector<T>& all, uint32_t* count, T* list) {
  const auto size = static_cast<uint32_t>(all.size());
  if (list == nullptr) {
    *count = size;
    return VK_SUCCESS;
  }
  *count = std::min(*count, size);
  std::copy_n(all.begin(), *count, list);
  return *count < size ? VK_INCOMPLETE : VK_SUCCESS;
}

VKAPI_ATTR VkResult VKAPI_CALL extensions(VkPhysicalDevice physical, const char* layer, uint32_t* count,
                                          VkExtensionProperties* list) {
  const std::scoped_lock lock(state().mutex);
  const auto real_list = REAL(vkEnumerateDeviceExtensionProperties);
  if (emulated_units() == nullptr || layer != nullptr) return real_list(physical, layer, count, list);
  uint32_t own = 0;
  if (const VkResult result = real_list(physical, layer, &own, nullptr); result != VK_SUCCESS) return result;
  std::vector<VkExtensionProperties> all(own);
  if (const VkResult result = real_list(physical, layer, &own, all.data()); result != VK_SUCCESS)
    return result;
  VkExtensionProperties units{VK_KHR_COOPERATIVE_MATRIX_EXTENSION_NAME, 2};
  all.push_back(units);
  return give(all, count, list);
}

VKAPI_ATTR VkResult VKAPI_CALL unit_kinds(VkPhysicalDevice, uint32_t* count,
                                          VkCooperativeMatrixPropertiesKHR* list) {
  VkCooperativeMatrixPropertiesKHR kind{};
  kind.sType = VK_STRUCTURE_TYPE_COOPERATIVE_MATRIX_PROPERTIES_KHR;
  kind.MSize = unit_shape().rows, kind.NSize = unit_shape().columns, kind.KSize = unit_shape().depth;
  kind.AType = kind.BType = VK_COMPONENT_TYPE_FLOAT16_KHR;
  kind.CType = kind.ResultType = VK_COMPONENT_TYPE_FLOAT32_KHR;
  kind.scope = VK_SCOPE_SUBGROUP_KHR;
  // What looks like it comes first: sums that are halves, of another shape, that saturate, of a workgroup.
  std::vector<VkCooperativeMatrixPropertiesKHR> all(5, kind);
  all[0].ResultType = all[0].CType = VK_COMPONENT_TYPE_FLOAT16_KHR;
  all[1].KSize = 64;
  all[2].saturatingAccumulation = VK_TRUE;
  all[3].scope = static_cast<VkScopeKHR>(2);
  return give(all, count, list);
}

VKAPI_ATTR void VKAPI_CALL memory_properties2(VkPhysicalDevice physical,
                                              VkPhysicalDeviceMemoryProperties2* found) {
  const std::scoped_lock lock(state().mutex);
  REAL(vkGetPhysicalDeviceMemoryProperties2)(physical, found);
  const int64_t most = fault("heap");
  if (most < 0) return;
  const uint64_t bytes = static_cast<uint64_t>(most) << 20;
  auto* const budget = static_cast<VkPhysicalDeviceMemoryBudgetPropertiesEXT*>(found->pNext);
  for (uint32_t i = 0; i < found->memoryProperties.memoryHeapCount; ++i) {
    found->memoryProperties.memoryHeaps[i].size = bytes;
    if (budget != nullptr) budget->heapBudget[i] = bytes, budget->heapUsage[i] = state().bytes[physical];
  }
}

struct Replaced {
  const char* name;
  PFN_vkVoidFunction own;
  bool of_checks;
};
#define REPLACED(name, own, of_checks) \
  { #name, reinterpret_cast < PFN_vkVoidFunction>(own), of_checks }
const Replaced kReplaced[] = {
    REPLACED(vkDestroyDevice, destroy_device, false),
    REPLACED(vkCreateBuffer, create_buffer, false),
    REPLACED(vkGetBufferMemoryRequirements, requirements, false),
    REPLACED(vkAllocateMemory, allocate, false),
    REPLACED(vkBindBufferMemory, bind, false),
    REPLACED(vkMapMemory, map, false),
    REPLACED(vkFreeMemory, free_memory, false),
    REPLACED(vkBeginCommandBuffer, begin, true),
    REPLACED(vkCmdBindPipeline, bind_pipeline, true),
    REPLACED(vkCmdPushConstants, push, true),
    REPLACED(vkCmdDispatch, dispatch, true),
    REPLACED(vkCmdPipelineBarrier, barrier, true),
    REPLACED(vkEndCommandBuffer, end, true),
    REPLACED(vkQueueSubmit, submit, false),
    REPLACED(vkWaitSemaphores, wait, false),
    REPLACED(vkCreateComputePipelines, pipelines, false),
    REPLACED(vkCreateShaderModule, create_shader, false),
};

VKAPI_ATTR PFN_vkVoidFunction VKAPI_CALL device_function(VkDevice device, const char* name) {
  for (const Replaced& one : kReplaced)
    if (std::string_view(name) == one.name && (!one.of_checks || checking())) return one.own;
  const std::scoped_lock lock(state().mutex);
  return REAL(vkGetDeviceProcAddr)(device, name);
}

VKAPI_ATTR VkResult VKAPI_CALL create_instance(const VkInstanceCreateInfo* info,
                                               const VkAllocationCallbacks* how, VkInstance* made) {
  const auto create =
      reinterpret_cast<PFN_vkCreateInstance>(real_instance_function()(nullptr, "vkCreateInstance"));
  const VkResult result = create(info, how, made);
  const std::scoped_lock lock(state().mutex);
  if (result == VK_SUCCESS) state().instance = *made;
  return result;
}

// Tests skip what needs a device of Vulkan where there is none: the driver on a processor has one.
void expect_device() {
  if (!checking() || state().instance == VK_NULL_HANDLE || !state().devices.empty() ||
      std::getenv("NFLOAT_VULKAN_FAULT") != nullptr)
    return;
  uint32_t count = 0;
  REAL(vkEnumeratePhysicalDevices)(state().instance, &count, nullptr);
  std::vector<VkPhysicalDevice> all(count);
  REAL(vkEnumeratePhysicalDevices)(state().instance, &count, all.data());
  for (VkPhysicalDevice physical : all) {
    VkPhysicalDeviceProperties properties{};
    REAL(vkGetPhysicalDeviceProperties)(physical, &properties);
    if (std::string_view(properties.deviceName).starts_with("llvmpipe")) wrong("no device was opened");
  }
}

}  // namespace

extern "C" __attribute__((visibility("default"))) VKAPI_ATTR PFN_vkVoidFunction VKAPI_CALL
vkGetInstanceProcAddr(VkInstance instance, const char* name) {
  const std::string_view wanted = name;
  if (wanted == "vkCreateInstance") return reinterpret_cast<PFN_vkVoidFunction>(create_instance);
  if (wanted == "vkCreateDevice") return reinterpret_cast<PFN_vkVoidFunction>(create_device);
  if (wanted == "vkGetDeviceProcAddr") return reinterpret_cast<PFN_vkVoidFunction>(device_function);
  if (wanted == "vkGetPhysicalDeviceProperties2") return reinterpret_cast<PFN_vkVoidFunction>(properties2);
  if (wanted == "vkGetPhysicalDeviceFeatures2") return reinterpret_cast<PFN_vkVoidFunction>(features2);
  if (wanted == "vkEnumerateDeviceExtensionProperties")
    return reinterpret_cast<PFN_vkVoidFunction>(extensions);
  if (wanted == "vkGetPhysicalDeviceCooperativeMatrixPropertiesKHR" && emulated_units() != nullptr)
    return reinterpret_cast<PFN_vkVoidFunction>(unit_kinds);
  if (wanted == "vkGetPhysicalDeviceMemoryProperties2")
    return reinterpret_cast<PFN_vkVoidFunction>(memory_properties2);
  const auto find = real_instance_function();
  return find == nullptr ? nullptr : find(instance, name);
}

// Memory that is kept while the program runs.
__attribute__((destructor)) static void at_the_end() {
  expect_device();
  for (auto& [memory, own] : state().memory) {
    expect_guard(own);
    open_page(own);
  }
}
