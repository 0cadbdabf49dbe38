// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <cstdlib>
#include <string>

#include "base/fail.h"
#include "engine/device.h"
#include "engine/vulkan/open.h"

namespace nfloat {
namespace {

constexpr std::string_view kVulkan = "vulkan";
constexpr std::string_view kNames = "auto, cpu, vulkan or vulkan:N";

// "vulkan", "vulkan:0", ...
bool is_vulkan_name(std::string_view name) noexcept {
  if (!name.starts_with(kVulkan)) return false;
  name.remove_prefix(kVulkan.size());
  return name.empty() || (name.size() > 1 && name.size() < 4 && name[0] == ':' &&
                          name.find_first_not_of("0123456789", 1) == std::string_view::npos);
}

}  // namespace

std::vector<std::shared_ptr<Device>> devices() {
  std::vector<std::shared_ptr<Device>> all{cpu_device()};
  for (std::shared_ptr<Device>& device : vulkan::open()) all.push_back(std::move(device));
  return all;
}

std::shared_ptr<Device> find_device(std::string_view name) {
  const char* from = "the device";
  if (name.empty()) {
    const char* const wanted = std::getenv("NFLOAT_DEVICE");
    if (wanted == nullptr || *wanted == '\0') return cpu_device();
    name = wanted;
    from = "NFLOAT_DEVICE";
  }
  if (name == "cpu") return cpu_device();
  std::string names;
  const std::vector<std::shared_ptr<Device>> all = devices();
  for (const std::shared_ptr<Device>& device : all) {
    if (name == "auto" ? device->accelerator() : device->name() == (name == kVulkan ? "vulkan:0" : name)) {
      device->expect_usable();
      return device;
    }
    names +=
        (names.empty() ? "" : ", ") + std::string(device->name()) + " (" + std::string(device->model()) + ")";
  }
  if (name == "auto") return cpu_device();
  if (is_vulkan_name(name))
    fail(ErrorCode::kNotFound, "{} is \"{}\", which is not there; there are: {}", from, name, names);
  fail(ErrorCode::kInvalidArgument, "{} is \"{}\", expected {}; there are: {}", from, name, kNames, names);
}

std::string forced_device_error() {
  const char* const wanted = std::getenv("NFLOAT_DEVICE");
  const std::string_view name = wanted != nullptr ? wanted : "";
  if (name.empty() || name == "cpu" || name == "auto" || is_vulkan_name(name)) return {};
  return fmt::format("NFLOAT_DEVICE is \"{}\", expected {}", name, kNames);
}

std::shared_ptr<Device> default_device() {
  return find_device("");
}

}  // namespace nfloat
