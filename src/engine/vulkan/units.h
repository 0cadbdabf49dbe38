// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_ENGINE_VULKAN_UNITS_H_
#define NFLOAT_ENGINE_VULKAN_UNITS_H_

#include <cstdint>
#include <string>
#include <string_view>

#include "engine/device.h"
#include "engine/vulkan/api.h"

// Matrix units: what multiplies fragments of halves at once, where a driver has it (shaders/units.comp).
namespace nfloat::vulkan {

enum class Units : uint8_t {
  kNone,   // not there, or not as units.comp needs them
  kOff,    // there, and NFLOAT_VULKAN_MATRIX=off
  kWrong,  // there, but their first products were not what they should be
  kInUse
};
std::string_view name_of(Units units) noexcept;

// Invocations of a sub-group that multiplies fragments of 16 x 16 x 16, halves to float32: 32 or 64; 0: the
// driver has no such, or does not let a shader choose its sub-groups. `usual`: those of other shaders.
uint32_t find_unit_subgroup(const InstanceApi& instance, VkPhysicalDevice physical, uint32_t usual);
bool has_extension(const InstanceApi& instance, VkPhysicalDevice physical, const char* name);

// What NFLOAT_VULKAN_MATRIX says. Throws kInvalidArgument for what it cannot be.
enum class UnitsWanted : uint8_t {
  kRight,  // on, or nothing: where their first products are right
  kOff,
  kAlways  // force: even where they are wrong, to find out why
};
UnitsWanted units_wanted();

// A small product on units, each sum of which float32 holds exactly, in any order: whether all are right.
bool units_are_right(Device& device);

}  // namespace nfloat::vulkan

#endif  // NFLOAT_ENGINE_VULKAN_UNITS_H_
