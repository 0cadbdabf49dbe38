// SPDX-License-Identifier: Apache-2.0
#include "engine/vulkan/open.h"

#include <algorithm>
#include <string>
#include <utility>

#include "engine/opened_once.h"
#include "engine/vulkan/vulkan_engine.h"

namespace nfloat::vulkan {
namespace {

class VulkanDevice final : public Device {
 public:
  // `looks`: finds out about the matrix units once somebody asks, or has 4-bit weights for them.
  VulkanDevice(std::shared_ptr<Gpu> gpu, uint64_t most_bytes, bool looks = true)
      : gpu_(std::move(gpu)), most_bytes_(std::min(most_bytes, gpu_->most_allocation())), looks_(looks) {}

  std::string_view name() const noexcept override { return gpu_->name(); }
  std::string_view model() const noexcept override { return gpu_->model(); }
  bool accelerator() const noexcept override { return gpu_->accelerator(); }
  std::optional<uint64_t> free_bytes() const noexcept override { return gpu_->free_bytes(); }
  std::string_view matrix_units() const noexcept override {
    look_at_units();
    return gpu_->units_text();
  }
  std::optional<uint64_t> total_bytes() const noexcept override { return gpu_->heap_bytes(); }

  std::unique_ptr<const DeviceMatrix> matrix(const PackSource& source, int) override {
    if (looks_) look_at_units();
    return std::make_unique<const VulkanMatrix>(gpu_, source, most_bytes_);
  }
  std::unique_ptr<const DeviceMatrix> matrix(const TensorView& weights, DenseMatrix::Storage storage,
                                             int threads, const Release& release) override {
    return std::make_unique<const VulkanMatrix>(gpu_, weights, storage, threads, release, most_bytes_);
  }
  void place(Constant& constant) override {
    if (constant.empty()) return;
    auto placed = std::make_shared<PlacedConstant>(
        PlacedConstant{GpuMemory(gpu_, constant.size() * sizeof(float), Place::kDevice)});
    gpu_->upload(placed->memory.address(), std::as_bytes(std::span<const float>(constant)));
    constant.resident = std::move(placed);
  }

  int64_t page_bytes(const CacheShape& shape) const noexcept override {
    return shape.layers * shape.kv_heads * head_bytes(shape.type, shape.head_dim);
  }
  // What is pointed at is memory of the device: an address, never to be followed here.
  std::shared_ptr<std::byte> page(size_t bytes) override {
    const auto memory = std::make_shared<GpuMemory>(gpu_, bytes, Place::kDevice);
    return {memory, reinterpret_cast<std::byte*>(memory->address())};
  }
  void copy_page(std::byte* to, const std::byte* from, size_t bytes) override {
    gpu_->copy(reinterpret_cast<Address>(to), reinterpret_cast<Address>(from), bytes);
  }

  void expect_usable() const override {
    gpu_->expect_own_process();
    units_wanted();  // or its sentence
  }
  std::unique_ptr<LayerEngine> engine() override { return std::make_unique<VulkanEngine>(gpu_); }

 private:
  void look_at_units() const noexcept {
    if (!gpu_->own_process()) return;
    gpu_->look_at_units_once([this] { take_units(); });
  }
  void take_units() const noexcept;

  const std::shared_ptr<Gpu> gpu_;
  const uint64_t most_bytes_;
  const bool looks_;
};

// In the first shape whose products are right.
void VulkanDevice::take_units() const noexcept {
  gpu_->set_units(Units::kNone);
  if (gpu_->unit_shapes().empty() || gpu_->shared_bytes() < kUnitsSharedBytes) return;
  UnitsWanted wanted = UnitsWanted::kOff;
  try {
    wanted = units_wanted();
  } catch (const std::exception&) {  // expect_usable() says it
  }
  if (wanted == UnitsWanted::kOff) return gpu_->set_units(Units::kOff);
  try {
    for (const UnitShape& shape : gpu_->unit_shapes()) {
      gpu_->set_units(Units::kInUse, shape);
      VulkanDevice device(gpu_, most_bytes_, false);
      if (wanted == UnitsWanted::kAlways || units_are_right(device)) return;
    }
  } catch (const std::exception&) {  // a driver that cannot
  }
  gpu_->set_units(Units::kWrong);
}

struct Opened {
  std::vector<std::shared_ptr<Gpu>> gpus;
  std::string why_none;
};

Opened open_all() {
  Opened all;
  const InstanceApi* const api = instance(all.why_none);
  if (api == nullptr) return all;
  uint32_t count = 0;
  std::vector<VkPhysicalDevice> physical;
  VkResult result = api->EnumeratePhysicalDevices(api->instance, &count, nullptr);
  if (result == VK_SUCCESS) {
    physical.resize(count);
    result = api->EnumeratePhysicalDevices(api->instance, &count, physical.data());
    physical.resize(count);
  }
  all.why_none = result != VK_SUCCESS ? "its drivers fail: " + result_name(result)
                 : count == 0         ? "its drivers find no device"
                                      : "none of its devices can be opened with Vulkan 1.2, buffer device "
                                        "addresses, timeline semaphores and sub-groups that add";
  if (result != VK_SUCCESS) return all;
  for (const VkPhysicalDevice device : physical)
    if (auto gpu = Gpu::open(*api, device, "vulkan:" + std::to_string(all.gpus.size())))
      all.gpus.push_back(std::move(gpu));
  if (!all.gpus.empty()) all.why_none.clear();
  return all;
}

const Opened& opened() {
  static OpenedOnce<Opened> once;
  return once.get(open_all);
}

}  // namespace

std::vector<std::shared_ptr<Device>> open(uint64_t most_bytes) {
  std::vector<std::shared_ptr<Device>> devices;
  for (const std::shared_ptr<Gpu>& gpu : opened().gpus)
    devices.push_back(std::make_shared<VulkanDevice>(gpu, most_bytes));
  return devices;
}

std::string why_none() {
  return opened().why_none;
}

}  // namespace nfloat::vulkan
