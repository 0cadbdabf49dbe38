// SPDX-License-Identifier: Apache-2.0
#include "engine/vulkan/units.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "base/fail.h"
#include "engine/layer_engine.h"
#include "engine/linear_group.h"
#include "engine/vulkan/shaders.h"

namespace nfloat::vulkan {
namespace {

// What units.comp divides its tiles by.
bool is_side(uint32_t size) noexcept {
  return size == 8 || size == 16;
}

// 16 x 16 x 16, else the first in the driver's order; zeros: none.
UnitShape best_shape(const InstanceApi& instance, VkPhysicalDevice physical) {
  const auto list = instance.GetPhysicalDeviceCooperativeMatrixPropertiesKHR;
  uint32_t count = 0;
  if (list == nullptr || list(physical, &count, nullptr) != VK_SUCCESS) return {};
  VkCooperativeMatrixPropertiesKHR empty{};
  empty.sType = VK_STRUCTURE_TYPE_COOPERATIVE_MATRIX_PROPERTIES_KHR;
  std::vector<VkCooperativeMatrixPropertiesKHR> kinds(count, empty);
  if (list(physical, &count, kinds.data()) != VK_SUCCESS) return {};
  UnitShape best;
  for (const VkCooperativeMatrixPropertiesKHR& own : kinds) {
    if (!is_side(own.MSize) || !is_side(own.NSize) || !is_side(own.KSize) ||
        own.AType != VK_COMPONENT_TYPE_FLOAT16_KHR || own.BType != VK_COMPONENT_TYPE_FLOAT16_KHR ||
        own.CType != VK_COMPONENT_TYPE_FLOAT32_KHR || own.ResultType != VK_COMPONENT_TYPE_FLOAT32_KHR ||
        own.scope != VK_SCOPE_SUBGROUP_KHR || own.saturatingAccumulation)
      continue;
    const bool largest = own.MSize == 16 && own.NSize == 16 && own.KSize == 16;
    if (best.rows == 0 || largest) best = {own.MSize, own.NSize, own.KSize};
    if (largest) break;
  }
  return best;
}

}  // namespace

std::string text_of(Units units, const UnitShape& shape) {
  switch (units) {
    case Units::kNone:
      return "none";
    case Units::kOff:
      return "off";
    case Units::kWrong:
      return "wrong results";
    case Units::kInUse:
      return fmt::format("in use ({} x {} x {}, sub-groups of {})", shape.rows, shape.batch, shape.depth,
                         shape.subgroup);
  }
  return {};
}

bool has_extension(const InstanceApi& instance, VkPhysicalDevice physical, const char* name) {
  uint32_t count = 0;
  if (instance.EnumerateDeviceExtensionProperties(physical, nullptr, &count, nullptr) != VK_SUCCESS)
    return false;
  std::vector<VkExtensionProperties> all(count);
  if (instance.EnumerateDeviceExtensionProperties(physical, nullptr, &count, all.data()) != VK_SUCCESS)
    return false;
  return std::any_of(all.begin(), all.end(), [&](const VkExtensionProperties& own) {
    return std::strcmp(own.extensionName, name) == 0;
  });
}

std::vector<UnitShape> find_unit_shapes(const InstanceApi& instance, VkPhysicalDevice physical,
                                        uint32_t usual) {
  if (!has_extension(instance, physical, VK_KHR_COOPERATIVE_MATRIX_EXTENSION_NAME) ||
      !has_extension(instance, physical, VK_EXT_SUBGROUP_SIZE_CONTROL_EXTENSION_NAME))
    return {};
  VkPhysicalDeviceCooperativeMatrixFeaturesKHR matrix{};
  matrix.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_COOPERATIVE_MATRIX_FEATURES_KHR;
  VkPhysicalDeviceSubgroupSizeControlFeaturesEXT control{};
  control.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SUBGROUP_SIZE_CONTROL_FEATURES_EXT;
  control.pNext = &matrix;
  VkPhysicalDeviceVulkan12Features features{};
  features.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_2_FEATURES;
  features.pNext = &control;
  VkPhysicalDeviceFeatures2 all{};
  all.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_FEATURES_2;
  all.pNext = &features;
  instance.GetPhysicalDeviceFeatures2(physical, &all);
  if (!matrix.cooperativeMatrix || !control.subgroupSizeControl || !control.computeFullSubgroups ||
      !features.shaderFloat16 || !features.vulkanMemoryModel)
    return {};

  VkPhysicalDeviceCooperativeMatrixPropertiesKHR stages{};
  stages.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_COOPERATIVE_MATRIX_PROPERTIES_KHR;
  VkPhysicalDeviceSubgroupSizeControlPropertiesEXT sizes{};
  sizes.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SUBGROUP_SIZE_CONTROL_PROPERTIES_EXT;
  sizes.pNext = &stages;
  VkPhysicalDeviceProperties2 properties{};
  properties.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_PROPERTIES_2;
  properties.pNext = &sizes;
  instance.GetPhysicalDeviceProperties2(physical, &properties);
  UnitShape shape = best_shape(instance, physical);
  if ((stages.cooperativeMatrixSupportedStages & VK_SHADER_STAGE_COMPUTE_BIT) == 0 ||
      (sizes.requiredSubgroupSizeStages & VK_SHADER_STAGE_COMPUTE_BIT) == 0 || shape.rows == 0)
    return {};
  std::vector<UnitShape> shapes;
  for (const uint32_t size : {32u, 64u, 16u, 8u}) {
    if (size < sizes.minSubgroupSize || size > sizes.maxSubgroupSize ||
        kUnitThreads / size > sizes.maxComputeWorkgroupSubgroups)
      continue;
    shape.subgroup = size;
    shapes.insert(size == usual ? shapes.begin() : shapes.end(), shape);
  }
  return shapes;
}

UnitsWanted units_wanted() {
  const char* const text = std::getenv("NFLOAT_VULKAN_MATRIX");
  const std::string_view wanted = text != nullptr ? text : "";
  if (wanted.empty() || wanted == "on") return UnitsWanted::kRight;
  if (wanted == "off") return UnitsWanted::kOff;
  if (wanted == "force") return UnitsWanted::kAlways;
  fail(ErrorCode::kInvalidArgument, "NFLOAT_VULKAN_MATRIX is \"{}\", expected on, off or force", wanted);
}

bool units_are_right(Device& device) {
  constexpr int64_t kRows = 72, kCols = 96, kBlock = 32, kXRows = 40;  // neither is whole tiles
  constexpr size_t kElements = size_t{kRows} * kCols;
  std::vector<uint8_t> codes(kElements / 2);
  for (size_t i = 0; i < codes.size(); ++i) codes[i] = static_cast<uint8_t>(i * 89 + i / 7);
  std::vector<float> levels(16), scales(kElements / kBlock), x(size_t{kXRows} * kCols);
  for (size_t i = 0; i < levels.size(); ++i) levels[i] = static_cast<float>(i) - 8;
  for (size_t i = 0; i < scales.size(); ++i)
    scales[i] = (i % 2 == 0 ? 1.0f : -1.0f) / static_cast<float>(1 << i % 3);
  // Up to 1023: sums go far beyond the largest half, and stay below 2^24 quarters.
  for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i * 37 % 2047) - 1023;
  PackSource source;
  source.codes = codes;
  source.levels = levels;
  source.rows = kRows;
  source.cols = kCols;
  source.block_size = kBlock;
  source.scales = scales;
  LinearGroup group;
  group.add(device, source, {}, 1);
  const std::unique_ptr<LayerEngine> engine = device.engine();
  const BufferRows from{engine->make(kXRows * kCols), 0, kCols}, to{engine->make(kXRows * kRows), 0, kRows};
  std::copy(x.begin(), x.end(), engine->host(from, kXRows, kCols));
  engine->write(from, kXRows, kCols);
  engine->multiply(group, from, to, kXRows, Precision::kBF16);
  const float* const y = engine->read(to, kXRows, kRows);
  bool right = true;
  for (size_t row = 0; row < kXRows; ++row)
    for (size_t o = 0; o < kRows; ++o) {
      float expected = 0;
      for (size_t k = 0; k < kCols; ++k) {
        const size_t element = o * kCols + k;
        const uint8_t pair = codes[element / 2];
        expected +=
            levels[element % 2 == 0 ? pair >> 4 : pair & 15] * scales[element / kBlock] * x[row * kCols + k];
      }
      right = right && y[row * kRows + o] == expected;
    }
  engine->drop(from.buffer);
  engine->drop(to.buffer);
  return right;
}

}  // namespace nfloat::vulkan
