// SPDX-License-Identifier: Apache-2.0
#include "engine/vulkan/recorder.h"

#include <algorithm>

#include "base/fail.h"

namespace nfloat::vulkan {
namespace {

constexpr int kMostRecorded = 64;        // dispatches of a command buffer: the device works while more come
constexpr uint64_t kChunkBytes = 65536;  // of parameters

}  // namespace

Recorder::Recorder(std::shared_ptr<Gpu> gpu) : gpu_(std::move(gpu)) {
  gpu_->expect_own_process();
  VkCommandPoolCreateInfo info{};
  info.sType = VK_STRUCTURE_TYPE_COMMAND_POOL_CREATE_INFO;
  info.flags = VK_COMMAND_POOL_CREATE_RESET_COMMAND_BUFFER_BIT;
  info.queueFamilyIndex = gpu_->family();
  if (const VkResult result = gpu_->api().CreateCommandPool(gpu_->device(), &info, nullptr, &pool_);
      result != VK_SUCCESS)
    fail(ErrorCode::kOutOfMemory, "{}: no pool of commands: {}", gpu_->name(), result_name(result));
  gpu_->add(*this);
}

Recorder::~Recorder() {
  if (!gpu_->own_process()) return;
  try {
    finish();
  } catch (const std::exception&) {  // a device that failed runs nothing any more
  }
  gpu_->remove(*this);
  gpu_->api().DestroyCommandPool(gpu_->device(), pool_, nullptr);
}

Recorder::Params Recorder::params(uint64_t bytes) {
  bytes = (bytes + 15) / 16 * 16;
  while (chunk_ < chunks_.size() && chunks_[chunk_].used + bytes > chunks_[chunk_].memory.bytes()) ++chunk_;
  if (chunk_ == chunks_.size())
    chunks_.push_back({GpuMemory(gpu_, std::max(bytes, kChunkBytes), Place::kHost), 0});
  Chunk& chunk = chunks_[chunk_];
  const Params found{chunk.memory.host() + chunk.used, chunk.memory.address() + chunk.used};
  chunk.used += bytes;
  return found;
}

void Recorder::begin() {
  const DeviceApi& api = gpu_->api();
  if (next_ == buffers_.size()) {
    VkCommandBufferAllocateInfo info{};
    info.sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_ALLOCATE_INFO;
    info.commandPool = pool_;
    info.level = VK_COMMAND_BUFFER_LEVEL_PRIMARY;
    info.commandBufferCount = 1;
    buffers_.push_back(VK_NULL_HANDLE);
    if (api.AllocateCommandBuffers(gpu_->device(), &info, &buffers_.back()) != VK_SUCCESS) {
      buffers_.pop_back();
      fail(ErrorCode::kOutOfMemory, "{}: no memory for commands", gpu_->name());
    }
  }
  VkCommandBufferBeginInfo info{};
  info.sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_BEGIN_INFO;
  info.flags = VK_COMMAND_BUFFER_USAGE_ONE_TIME_SUBMIT_BIT;
  if (api.BeginCommandBuffer(buffers_[next_], &info) != VK_SUCCESS)
    fail(ErrorCode::kOutOfMemory, "{}: no memory for commands", gpu_->name());
  open_ = true;
  recorded_ = 0;
  bound_ = VK_NULL_HANDLE;
}

void Recorder::barrier(VkPipelineStageFlags to, VkAccessFlags access) noexcept {
  VkMemoryBarrier memory{};
  memory.sType = VK_STRUCTURE_TYPE_MEMORY_BARRIER;
  memory.srcAccessMask = VK_ACCESS_SHADER_WRITE_BIT;
  memory.dstAccessMask = access;
  gpu_->api().CmdPipelineBarrier(buffers_[next_], VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT, to, 0, 1, &memory, 0,
                                 nullptr, 0, nullptr);
}

void Recorder::dispatch(Shader shader, const Constants& constants, const void* arguments, uint32_t bytes,
                        Groups groups, bool together) {
  gpu_->expect_own_process();
  if (last_.pipeline == VK_NULL_HANDLE || last_.shader != shader || last_.constants != constants)
    last_ = {shader, constants, gpu_->pipeline(shader, constants)};
  bool full = false;
  {
    const std::scoped_lock lock(mutex_);
    if (!open_) begin();
    // What comes first in a buffer follows what others queued.
    if (!together || recorded_ == 0)
      barrier(VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT, VK_ACCESS_SHADER_READ_BIT | VK_ACCESS_SHADER_WRITE_BIT);
    const DeviceApi& api = gpu_->api();
    if (bound_ != last_.pipeline)
      api.CmdBindPipeline(buffers_[next_], VK_PIPELINE_BIND_POINT_COMPUTE, last_.pipeline);
    bound_ = last_.pipeline;
    api.CmdPushConstants(buffers_[next_], gpu_->layout(), VK_SHADER_STAGE_COMPUTE_BIT, 0, bytes, arguments);
    api.CmdDispatch(buffers_[next_], groups.x, groups.y, groups.z);
    full = ++recorded_ == kMostRecorded;
  }
  if (!full) return;
  flush();
}

void Recorder::flush() noexcept {
  const std::scoped_lock lock(mutex_);
  if (!open_) return;
  barrier(VK_PIPELINE_STAGE_HOST_BIT, VK_ACCESS_HOST_READ_BIT);
  open_ = false;
  try {
    if (const VkResult result = gpu_->api().EndCommandBuffer(buffers_[next_]); result != VK_SUCCESS)
      fail(ErrorCode::kIo, "the device {} ({}) has failed: it did not take its commands: {}", gpu_->name(),
           gpu_->model(), result_name(result));
    number_ = gpu_->submit(buffers_[next_]);
  } catch (const std::exception&) {
    if (!failure_) failure_ = std::current_exception();
  }
  ++next_;
}

void Recorder::finish() {
  gpu_->expect_own_process();
  flush();
  gpu_->wait(number_);
  const std::scoped_lock lock(mutex_);
  if (failure_) std::rethrow_exception(failure_);
  next_ = 0;
  chunk_ = 0;
  for (Chunk& chunk : chunks_) chunk.used = 0;
  ++finished_;
}

}  // namespace nfloat::vulkan
