// SPDX-License-Identifier: Apache-2.0
#include "engine/vulkan/gpu.h"

#include <pthread.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <optional>

#include "base/fail.h"
#include "engine/vulkan/recorder.h"
#include "engine/vulkan/steps.h"

namespace nfloat::vulkan {
namespace {

constexpr uint64_t kStagingBytes = uint64_t{8} << 20;

// The first of the `allowed` types of memory with `wanted`, else with `least`.
std::optional<uint32_t> memory_type(const VkPhysicalDeviceMemoryProperties& memory, uint32_t allowed,
                                    VkMemoryPropertyFlags wanted, VkMemoryPropertyFlags least) noexcept {
  for (const VkMemoryPropertyFlags flags : {wanted, least})
    for (uint32_t i = 0; i < memory.memoryTypeCount; ++i)
      if ((allowed >> i & 1) != 0 && (memory.memoryTypes[i].propertyFlags & flags) == flags) return i;
  return std::nullopt;
}

}  // namespace

struct Gpu::Uploads {
  explicit Uploads(std::shared_ptr<Gpu> gpu)
      : staging(gpu, kStagingBytes, Place::kHost), recorder(std::move(gpu)) {}
  GpuMemory staging;
  Recorder recorder;
};

// Kept: every dispatch asks for it, and getpid() is a call of the system.
static std::atomic<pid_t> current_process{::getpid()};
static const bool follows_forks =
    ::pthread_atfork(nullptr, nullptr, [] { current_process = ::getpid(); }) == 0;

Gpu::Gpu() noexcept : process_(::getpid()) {}

bool Gpu::own_process() const noexcept {
  return process_ == (follows_forks ? current_process.load(std::memory_order_relaxed) : ::getpid());
}

void Gpu::expect_own_process() const {
  if (!own_process())
    fail(ErrorCode::kUnsupported,
         "{} ({}) was opened before this process was forked, and works only in the process that opened it: "
         "load the model here on the CPU, or begin a new program instead of a fork",
         name_, model_);
}

std::shared_ptr<Gpu> Gpu::open(const InstanceApi& instance, VkPhysicalDevice physical, std::string name) {
  std::shared_ptr<Gpu> gpu(new Gpu);
  gpu->physical_ = physical;
  gpu->name_ = std::move(name);
  if (!gpu->look(instance) || !gpu->make_device(instance) || !gpu->choose_memory(instance) ||
      !gpu->make_objects())
    return nullptr;
  return gpu;
}

// What the driver says of the device. False: it lacks something.
bool Gpu::look(const InstanceApi& instance) {
  instance_ = &instance;
  VkPhysicalDeviceMaintenance3Properties limits{};
  limits.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_MAINTENANCE_3_PROPERTIES;
  VkPhysicalDeviceSubgroupProperties subgroup{};
  subgroup.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SUBGROUP_PROPERTIES;
  subgroup.pNext = &limits;
  VkPhysicalDeviceProperties2 properties{};
  properties.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_PROPERTIES_2;
  properties.pNext = &subgroup;
  instance.GetPhysicalDeviceProperties2(physical_, &properties);
  const VkSubgroupFeatureFlags needed = VK_SUBGROUP_FEATURE_BASIC_BIT | VK_SUBGROUP_FEATURE_ARITHMETIC_BIT;
  if (properties.properties.apiVersion < VK_API_VERSION_1_2 ||
      (subgroup.supportedOperations & needed) != needed ||
      (subgroup.supportedStages & VK_SHADER_STAGE_COMPUTE_BIT) == 0 || subgroup.subgroupSize < 4 ||
      subgroup.subgroupSize > kProductThreads)
    return false;
  model_ = properties.properties.deviceName;
  accelerator_ = properties.properties.deviceType != VK_PHYSICAL_DEVICE_TYPE_CPU;
  subgroup_ = subgroup.subgroupSize;
  unit_shapes_ = find_unit_shapes(instance, physical_, subgroup_);
  shared_bytes_ = properties.properties.limits.maxComputeSharedMemorySize;
  most_allocation_ = limits.maxMemoryAllocationSize;

  VkPhysicalDeviceVulkan12Features features{};
  features.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_2_FEATURES;
  VkPhysicalDeviceFeatures2 all{};
  all.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_FEATURES_2;
  all.pNext = &features;
  instance.GetPhysicalDeviceFeatures2(physical_, &all);
  if (!features.bufferDeviceAddress || !features.timelineSemaphore) return false;

  uint32_t count = 0;
  instance.GetPhysicalDeviceQueueFamilyProperties(physical_, &count, nullptr);
  std::vector<VkQueueFamilyProperties> families(count);
  instance.GetPhysicalDeviceQueueFamilyProperties(physical_, &count, families.data());
  while (family_ < count && (families[family_].queueFlags & VK_QUEUE_COMPUTE_BIT) == 0) ++family_;
  return family_ < count;
}

bool Gpu::make_device(const InstanceApi& instance) {
  VkPhysicalDeviceVulkan12Features wanted{};
  wanted.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_2_FEATURES;
  wanted.bufferDeviceAddress = VK_TRUE;
  wanted.timelineSemaphore = VK_TRUE;
  const float priority = 1;
  VkDeviceQueueCreateInfo queue{};
  queue.sType = VK_STRUCTURE_TYPE_DEVICE_QUEUE_CREATE_INFO;
  queue.queueFamilyIndex = family_;
  queue.queueCount = 1;
  queue.pQueuePriorities = &priority;
  std::vector<const char*> extensions;
  budget_ = has_extension(instance, physical_, VK_EXT_MEMORY_BUDGET_EXTENSION_NAME);
  if (budget_) extensions.push_back(VK_EXT_MEMORY_BUDGET_EXTENSION_NAME);
  VkPhysicalDeviceCooperativeMatrixFeaturesKHR matrix{};
  matrix.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_COOPERATIVE_MATRIX_FEATURES_KHR;
  matrix.cooperativeMatrix = VK_TRUE;
  VkPhysicalDeviceSubgroupSizeControlFeaturesEXT control{};
  control.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SUBGROUP_SIZE_CONTROL_FEATURES_EXT;
  control.pNext = &matrix;
  control.subgroupSizeControl = VK_TRUE;
  control.computeFullSubgroups = VK_TRUE;
  if (!unit_shapes_.empty()) {
    extensions.push_back(VK_KHR_COOPERATIVE_MATRIX_EXTENSION_NAME);
    extensions.push_back(VK_EXT_SUBGROUP_SIZE_CONTROL_EXTENSION_NAME);
    wanted.shaderFloat16 = VK_TRUE;
    wanted.vulkanMemoryModel = VK_TRUE;
    wanted.pNext = &control;
  }
  VkDeviceCreateInfo info{};
  info.sType = VK_STRUCTURE_TYPE_DEVICE_CREATE_INFO;
  info.pNext = &wanted;
  info.queueCreateInfoCount = 1;
  info.pQueueCreateInfos = &queue;
  info.enabledExtensionCount = static_cast<uint32_t>(extensions.size());
  info.ppEnabledExtensionNames = extensions.data();
  if (instance.CreateDevice(physical_, &info, nullptr, &device_) != VK_SUCCESS) {
    device_ = VK_NULL_HANDLE;
    return false;
  }
  api_ = device_api(instance, device_);
  api_.GetDeviceQueue(device_, family_, 0, &queue_);
  return true;
}

bool Gpu::choose_memory(const InstanceApi& instance) {
  VkBuffer sample = VK_NULL_HANDLE;
  const VkBufferCreateInfo like = Memory::buffer_info(Memory::kAlignment);
  if (api_.CreateBuffer(device_, &like, nullptr, &sample) != VK_SUCCESS) return false;
  VkMemoryRequirements needs{};
  api_.GetBufferMemoryRequirements(device_, sample, &needs);
  api_.DestroyBuffer(device_, sample, nullptr);
  VkPhysicalDeviceMemoryProperties2 memory{};
  memory.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_MEMORY_PROPERTIES_2;
  instance.GetPhysicalDeviceMemoryProperties2(physical_, &memory);
  const VkMemoryPropertyFlags host =
      VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT | VK_MEMORY_PROPERTY_HOST_COHERENT_BIT;
  const auto device_type =
      memory_type(memory.memoryProperties, needs.memoryTypeBits, VK_MEMORY_PROPERTY_DEVICE_LOCAL_BIT, 0);
  const auto host_type = memory_type(memory.memoryProperties, needs.memoryTypeBits,
                                     host | VK_MEMORY_PROPERTY_HOST_CACHED_BIT, host);
  if (!device_type || !host_type) return false;
  heap_ = memory.memoryProperties.memoryTypes[*device_type].heapIndex;
  heap_bytes_ = memory.memoryProperties.memoryHeaps[heap_].size;
  memory_ = std::make_unique<Memory>(api_, device_, *device_type, *host_type);
  return true;
}

bool Gpu::make_objects() {
  VkPushConstantRange range{VK_SHADER_STAGE_COMPUTE_BIT, 0, 128};
  VkPipelineLayoutCreateInfo layout{};
  layout.sType = VK_STRUCTURE_TYPE_PIPELINE_LAYOUT_CREATE_INFO;
  layout.pushConstantRangeCount = 1;
  layout.pPushConstantRanges = &range;
  VkSemaphoreTypeCreateInfo timeline{};
  timeline.sType = VK_STRUCTURE_TYPE_SEMAPHORE_TYPE_CREATE_INFO;
  timeline.semaphoreType = VK_SEMAPHORE_TYPE_TIMELINE;
  VkSemaphoreCreateInfo semaphore{};
  semaphore.sType = VK_STRUCTURE_TYPE_SEMAPHORE_CREATE_INFO;
  semaphore.pNext = &timeline;
  return api_.CreatePipelineLayout(device_, &layout, nullptr, &layout_) == VK_SUCCESS &&
         api_.CreateSemaphore(device_, &semaphore, nullptr, &done_) == VK_SUCCESS;
}

// Devices are kept while the program runs (open.cpp): only one that could not be opened comes here, and
// destroying a device frees what was made of it in every driver; the layers that ask for more are not used.
Gpu::~Gpu() {
  if (device_ != VK_NULL_HANDLE) api_.DestroyDevice(device_, nullptr);
}

uint64_t Gpu::free_bytes() const noexcept {
  if (!own_process()) return 0;
  VkPhysicalDeviceMemoryBudgetPropertiesEXT budget{};
  budget.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_MEMORY_BUDGET_PROPERTIES_EXT;
  VkPhysicalDeviceMemoryProperties2 memory{};
  memory.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_MEMORY_PROPERTIES_2;
  if (budget_) memory.pNext = &budget;
  instance_->GetPhysicalDeviceMemoryProperties2(physical_, &memory);
  const uint64_t all = budget_ ? budget.heapBudget[heap_] : memory.memoryProperties.memoryHeaps[heap_].size;
  const uint64_t used = budget_ ? budget.heapUsage[heap_] : memory_->bytes();
  return all > used ? all - used : 0;
}

Piece Gpu::take(uint64_t bytes, Place place) {
  expect_own_process();
  const Piece piece = memory_->take(bytes, place);
  if (piece.block == nullptr)
    fail(ErrorCode::kOutOfMemory, "{} ({}): no {} MiB of memory: {} MiB are free", name_, model_,
         (bytes >> 20) + 1, free_bytes() >> 20);
  return piece;
}

void Gpu::give_back(const Piece& piece) noexcept {
  if (!own_process()) return;
  flush_all();
  try {
    uint64_t last = 0;
    {
      const std::scoped_lock lock(queue_mutex_);
      last = submitted_;
    }
    wait(last);
  } catch (const std::exception&) {  // a device that failed uses nothing any more
  }
  memory_->give_back(piece);
}

VkPipeline Gpu::pipeline(Shader shader, const Constants& constants) {
  const std::scoped_lock lock(pipelines_mutex_);
  VkPipeline& pipeline = pipelines_[{shader, constants}];
  if (pipeline != VK_NULL_HANDLE) return pipeline;
  const std::span<const uint32_t> code = code_of(shader);
  VkShaderModuleCreateInfo module_info{};
  module_info.sType = VK_STRUCTURE_TYPE_SHADER_MODULE_CREATE_INFO;
  module_info.codeSize = code.size_bytes();
  module_info.pCode = code.data();
  VkShaderModule made = VK_NULL_HANDLE;
  VkResult result = api_.CreateShaderModule(device_, &module_info, nullptr, &made);
  if (result == VK_SUCCESS) {
    VkSpecializationMapEntry entries[std::tuple_size_v<Constants>];
    for (uint32_t i = 0; i < constants.size(); ++i) entries[i] = {i, i * 4, 4};
    VkSpecializationInfo specialization{};
    specialization.mapEntryCount = static_cast<uint32_t>(constants.size());
    specialization.pMapEntries = entries;
    specialization.dataSize = sizeof constants;
    specialization.pData = constants.data();
    VkComputePipelineCreateInfo info{};
    info.sType = VK_STRUCTURE_TYPE_COMPUTE_PIPELINE_CREATE_INFO;
    info.stage.sType = VK_STRUCTURE_TYPE_PIPELINE_SHADER_STAGE_CREATE_INFO;
    info.stage.stage = VK_SHADER_STAGE_COMPUTE_BIT;
    info.stage.module = made;
    info.stage.pName = "main";
    info.stage.pSpecializationInfo = &specialization;
    info.layout = layout_;
    VkPipelineShaderStageRequiredSubgroupSizeCreateInfoEXT size{};
    size.sType = VK_STRUCTURE_TYPE_PIPELINE_SHADER_STAGE_REQUIRED_SUBGROUP_SIZE_CREATE_INFO_EXT;
    size.requiredSubgroupSize = constants[2];
    if (shader == Shader::kUnits) {
      info.stage.flags = VK_PIPELINE_SHADER_STAGE_CREATE_REQUIRE_FULL_SUBGROUPS_BIT_EXT;
      info.stage.pNext = &size;
    }
    result = api_.CreateComputePipelines(device_, VK_NULL_HANDLE, 1, &info, nullptr, &pipeline);
    api_.DestroyShaderModule(device_, made, nullptr);
  }
  if (result != VK_SUCCESS) {
    pipeline = VK_NULL_HANDLE;
    fail(ErrorCode::kOutOfMemory, "{} ({}): a shader could not be made: {}", name_, model_,
         result_name(result));
  }
  return pipeline;
}

uint64_t Gpu::submit(VkCommandBuffer commands) {
  expect_own_process();
  const std::scoped_lock lock(queue_mutex_);
  const uint64_t number = submitted_ + 1;
  VkTimelineSemaphoreSubmitInfo timeline{};
  timeline.sType = VK_STRUCTURE_TYPE_TIMELINE_SEMAPHORE_SUBMIT_INFO;
  timeline.signalSemaphoreValueCount = 1;
  timeline.pSignalSemaphoreValues = &number;
  VkSubmitInfo info{};
  info.sType = VK_STRUCTURE_TYPE_SUBMIT_INFO;
  info.pNext = &timeline;
  info.commandBufferCount = 1;
  info.pCommandBuffers = &commands;
  info.signalSemaphoreCount = 1;
  info.pSignalSemaphores = &done_;
  if (const VkResult result = api_.QueueSubmit(queue_, 1, &info, VK_NULL_HANDLE); result != VK_SUCCESS)
    fail(ErrorCode::kIo, "the device {} ({}) has failed: {}", name_, model_, result_name(result));
  submitted_ = number;
  return number;
}

void Gpu::wait(uint64_t number) {
  expect_own_process();
  VkSemaphoreWaitInfo info{};
  info.sType = VK_STRUCTURE_TYPE_SEMAPHORE_WAIT_INFO;
  info.semaphoreCount = 1;
  info.pSemaphores = &done_;
  info.pValues = &number;
  if (const VkResult result = api_.WaitSemaphores(device_, &info, UINT64_MAX); result != VK_SUCCESS)
    fail(ErrorCode::kIo, "the device {} ({}) has failed: {}", name_, model_, result_name(result));
}

void Gpu::upload(Address to, std::span<const std::byte> bytes) {
  expect_own_process();
  const std::scoped_lock lock(uploads_mutex_);
  if (!uploads_) uploads_ = std::make_unique<Uploads>(shared_from_this());
  while (!bytes.empty()) {
    const size_t count = std::min<size_t>(bytes.size(), kStagingBytes), words = (count + 3) / 4;
    std::memset(uploads_->staging.host() + (words - 1) * 4, 0, 4);
    std::memcpy(uploads_->staging.host(), bytes.data(), count);
    copy_words(uploads_->recorder, to, uploads_->staging.address(), words);
    uploads_->recorder.finish();
    bytes = bytes.subspan(count);
    to += count;
  }
}

void Gpu::copy(Address to, Address from, uint64_t bytes) {
  expect_own_process();
  flush_all();  // what writes or reads the pages may not have been handed over
  const std::scoped_lock lock(uploads_mutex_);
  if (!uploads_) uploads_ = std::make_unique<Uploads>(shared_from_this());
  copy_words(uploads_->recorder, to, from, bytes / 4);
  uploads_->recorder.finish();
}

void Gpu::add(Recorder& recorder) {
  const std::scoped_lock lock(recorders_mutex_);
  recorders_.push_back(&recorder);
}

void Gpu::remove(Recorder& recorder) noexcept {
  const std::scoped_lock lock(recorders_mutex_);
  std::erase(recorders_, &recorder);
}

void Gpu::flush_all() noexcept {
  const std::scoped_lock lock(recorders_mutex_);
  for (Recorder* recorder : recorders_) recorder->flush();
}

}  // namespace nfloat::vulkan
