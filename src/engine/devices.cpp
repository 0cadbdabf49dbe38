// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <cstdlib>
#include <mutex>
#include <string>
#include <utility>

#include "base/fail.h"
#include "engine/block_converter.h"
#include "engine/cuda/open.h"
#include "engine/device.h"
#include "engine/vulkan/open.h"
#include "nfloat/ranks.h"

namespace nfloat {
namespace {

constexpr std::string_view kKinds[] = {"cuda", "vulkan"};
constexpr std::string_view kNames = "auto, cpu, cuda, cuda:N, vulkan or vulkan:N";

// "cuda", "cuda:0", ..., "vulkan", "vulkan:0", ...
bool is_card_name(std::string_view name) noexcept {
  for (const std::string_view kind : kKinds) {
    if (!name.starts_with(kind)) continue;
    name.remove_prefix(kind.size());
    return name.empty() || (name.size() > 1 && name.size() < 4 && name[0] == ':' &&
                            name.find_first_not_of("0123456789", 1) == std::string_view::npos);
  }
  return false;
}

// "cuda" of "cuda:1".
std::string_view kind_of(const Device& device) noexcept {
  return device.name().substr(0, device.name().find(':'));
}

// "cuda:1" is of the kind "cuda", a device with another word behind the colon only has its own name.
bool is_of_kind(const Device& device, std::string_view kind) noexcept {
  return is_card_name(device.name()) && kind_of(device) == kind;
}

struct AddedDevices {
  std::mutex mutex;
  std::vector<std::shared_ptr<Device>> all;
};
AddedDevices& added_devices() {
  static AddedDevices* const added = new AddedDevices;  // never destroyed, as other devices are not
  return *added;
}

}  // namespace

void add_device(std::shared_ptr<Device> device) {
  const std::scoped_lock lock(added_devices().mutex);
  added_devices().all.push_back(std::move(device));
}

std::string why_none(std::string_view kind) {
  return kind == "cuda" ? cuda::why_none() : vulkan::why_none();
}

std::vector<std::shared_ptr<Device>> devices() {
  std::vector<std::shared_ptr<Device>> all{cpu_device()};
  for (std::shared_ptr<Device>& device : cuda::open()) all.push_back(std::move(device));
  for (std::shared_ptr<Device>& device : vulkan::open()) all.push_back(std::move(device));
  const std::scoped_lock lock(added_devices().mutex);
  all.insert(all.end(), added_devices().all.begin(), added_devices().all.end());
  return all;
}

std::shared_ptr<Device> choose_device(std::span<const std::shared_ptr<Device>> all, std::string_view name,
                                      int local_rank) {
  const bool automatic = name == "auto";
  std::vector<std::shared_ptr<Device>> meant;
  for (const std::shared_ptr<Device>& device : all) {
    if (automatic && !device->accelerator()) continue;
    const std::string_view kind = !automatic ? name : kind_of(meant.empty() ? *device : *meant.front());
    if (device->name() == name || is_of_kind(*device, kind)) meant.push_back(device);
  }
  return meant.empty() ? nullptr : meant[static_cast<size_t>(local_rank) % meant.size()];
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
  const std::vector<std::shared_ptr<Device>> all = devices();
  if (std::shared_ptr<Device> found = choose_device(all, name, rank_place().local_rank)) {
    found->expect_usable();
    return found;
  }
  std::string names;
  for (const std::shared_ptr<Device>& device : all)
    names +=
        (names.empty() ? "" : ", ") + std::string(device->name()) + " (" + std::string(device->model()) + ")";
  if (name == "auto") return cpu_device();
  if (is_card_name(name)) {
    const std::string why = why_none(name.substr(0, name.find(':')));
    fail(ErrorCode::kNotFound, "{} is \"{}\", which is not there{}{}; there are: {}", from, name,
         why.empty() ? "" : ": ", why, names);
  }
  fail(ErrorCode::kInvalidArgument, "{} is \"{}\", expected {}; there are: {}", from, name, kNames, names);
}

std::shared_ptr<BlockConverter> block_converter(const std::string& device) {
  if (device.empty()) return nullptr;
  const std::shared_ptr<Device> found = find_device(device);
  if (found == cpu_device()) return nullptr;
  std::shared_ptr<BlockConverter> converter = found->block_converter();
  if (converter == nullptr)
    fail(ErrorCode::kUnsupported, "{} ({}) neither quantizes nor dequantizes: devices of CUDA and the CPU do",
         found->name(), found->model());
  return converter;
}

std::string forced_device_error() {
  const char* const wanted = std::getenv("NFLOAT_DEVICE");
  const std::string_view name = wanted != nullptr ? wanted : "";
  if (name.empty() || name == "cpu" || name == "auto" || is_card_name(name)) return {};
  return fmt::format("NFLOAT_DEVICE is \"{}\", expected {}", name, kNames);
}

std::shared_ptr<Device> default_device() {
  return find_device("");
}

}  // namespace nfloat
