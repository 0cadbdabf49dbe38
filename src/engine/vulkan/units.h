// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_ENGINE_VULKAN_UNITS_H_
#define NFLOAT_ENGINE_VULKAN_UNITS_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

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

// A fragment: rows of weights, rows of x, columns of both; invocations of the sub-group that holds it.
struct UnitShape {
  uint32_t rows = 0, batch = 0, depth = 0, subgroup = 0;
};
// "in use (16 x 16 x 16, sub-groups of 32)", "none", "off", "wrong results".
std::string text_of(Units units, const UnitShape& shape);

// The shapes that units.comp can take here, halves to float32, the best one first: none where the driver has
// no such, or does not let a shader choose its sub-groups. `usual`: the invocations in those of other
// shaders.
std::vector<UnitShape> find_unit_shapes(const InstanceApi& instance, VkPhysicalDevice physical,
                                        uint32_t usual);
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
