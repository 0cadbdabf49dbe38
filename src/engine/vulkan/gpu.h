// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_ENGINE_VULKAN_GPU_H_
#define NFLOAT_ENGINE_VULKAN_GPU_H_

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "engine/vulkan/memory.h"
#include "engine/vulkan/shaders.h"
#include "engine/vulkan/units.h"

namespace nfloat::vulkan {

class Recorder;

// One device of Vulkan with its queue. Needs Vulkan 1.2 with buffer device addresses: shaders get pointers,
// there are no descriptors and no limit on the size of a buffer but the memory. For use by any number of
// threads of the process that opened it: a driver's threads and queues do not come along with fork(), and a
// child would wait for ever. There what can fail throws kUnsupported, and nothing is given back.
class Gpu : public std::enable_shared_from_this<Gpu> {
 public:
  // Null where it lacks what the engine needs.
  static std::shared_ptr<Gpu> open(const InstanceApi& instance, VkPhysicalDevice physical, std::string name);
  Gpu(const Gpu&) = delete;
  Gpu& operator=(const Gpu&) = delete;
  ~Gpu();

  const std::string& name() const noexcept { return name_; }        // "vulkan:0"
  const std::string& model() const noexcept { return model_; }      // as the driver says it
  bool accelerator() const noexcept { return accelerator_; }        // not the host's processor
  uint32_t subgroup() const noexcept { return subgroup_; }          // invocations, as reported
  uint32_t shared_bytes() const noexcept { return shared_bytes_; }  // of a workgroup
  // Of matrix units. What is taken, and how, is found out by the first call of look_at_units_once().
  const std::vector<UnitShape>& unit_shapes() const noexcept { return unit_shapes_; }
  Units units() const noexcept { return units_; }
  const UnitShape& unit_shape() const noexcept { return unit_shape_; }
  const std::string& units_text() const noexcept { return units_text_; }
  template <typename Look>
  void look_at_units_once(const Look& look) {
    std::call_once(units_once_, look);
  }
  void set_units(Units units, const UnitShape& shape = {}) {
    units_ = units;
    unit_shape_ = shape;
    units_text_ = text_of(units, shape);
  }
  uint64_t most_allocation() const noexcept { return most_allocation_; }
  uint64_t heap_bytes() const noexcept { return heap_bytes_; }  // of the memory on the card
  uint64_t free_bytes() const noexcept;

  bool own_process() const noexcept;
  void expect_own_process() const;

  // Throws kOutOfMemory with the numbers.
  Piece take(uint64_t bytes, Place place);
  // Waits for all that is queued, which may use it.
  void give_back(const Piece& piece) noexcept;

  VkPipeline pipeline(Shader shader, const Constants& constants);
  VkPipelineLayout layout() const noexcept { return layout_; }
  const DeviceApi& api() const noexcept { return api_; }
  VkDevice device() const noexcept { return device_; }
  uint32_t family() const noexcept { return family_; }

  // Queues a buffer behind all that was queued; its number, for wait(). Throws kIo when the device has
  // failed.
  uint64_t submit(VkCommandBuffer commands);
  void wait(uint64_t number);

  // Done before what is queued from now on.
  void upload(Address to, std::span<const std::byte> bytes);  // whole words are written
  void copy(Address to, Address from, uint64_t bytes);        // whole words

  void add(Recorder& recorder);
  void remove(Recorder& recorder) noexcept;

 private:
  struct Uploads;
  Gpu() noexcept;
  bool look(const InstanceApi& instance);
  bool make_device(const InstanceApi& instance);
  bool choose_memory(const InstanceApi& instance);
  bool make_objects();
  void flush_all() noexcept;

  const InstanceApi* instance_ = nullptr;
  const pid_t process_;
  VkPhysicalDevice physical_ = VK_NULL_HANDLE;
  VkDevice device_ = VK_NULL_HANDLE;
  VkQueue queue_ = VK_NULL_HANDLE;
  uint32_t family_ = 0;
  DeviceApi api_;
  std::string name_, model_;
  bool accelerator_ = false, budget_ = false;
  uint32_t subgroup_ = 0, heap_ = 0, shared_bytes_ = 0;
  std::vector<UnitShape> unit_shapes_;
  std::once_flag units_once_;
  Units units_ = Units::kNone;
  UnitShape unit_shape_;
  std::string units_text_;
  uint64_t most_allocation_ = 0, heap_bytes_ = 0;
  std::unique_ptr<Memory> memory_;
  VkPipelineLayout layout_ = VK_NULL_HANDLE;
  VkSemaphore done_ = VK_NULL_HANDLE;  // counts what the queue has finished

  // Locked in this order where more than one is.
  std::mutex uploads_mutex_, recorders_mutex_, queue_mutex_, pipelines_mutex_;
  std::unique_ptr<Uploads> uploads_;
  std::vector<Recorder*> recorders_;
  uint64_t submitted_ = 0;
  std::map<std::pair<Shader, Constants>, VkPipeline> pipelines_;
};

// A piece with an owner.
class GpuMemory {
 public:
  GpuMemory() = default;
  GpuMemory(std::shared_ptr<Gpu> gpu, uint64_t bytes, Place place)
      : gpu_(std::move(gpu)), piece_(gpu_->take(bytes, place)) {}
  GpuMemory(GpuMemory&& other) noexcept { *this = std::move(other); }
  GpuMemory& operator=(GpuMemory&& other) noexcept {
    std::swap(gpu_, other.gpu_);
    std::swap(piece_, other.piece_);
    return *this;
  }
  ~GpuMemory() {
    if (piece_.block != nullptr) gpu_->give_back(piece_);
  }

  Address address() const noexcept { return piece_.address; }
  uint64_t bytes() const noexcept { return piece_.bytes; }
  std::byte* host() const noexcept { return piece_.host; }

 private:
  std::shared_ptr<Gpu> gpu_;
  Piece piece_;
};

}  // namespace nfloat::vulkan

#endif  // NFLOAT_ENGINE_VULKAN_GPU_H_
