// SPDX-License-Identifier: Apache-2.0
#include <cstdlib>
#include <string>

#include "base/fail.h"
#include "engine/device.h"

namespace nfloat {

std::vector<std::shared_ptr<Device>> devices() {
  return {cpu_device()};
}

std::shared_ptr<Device> default_device() {
  const char* wanted = std::getenv("NFLOAT_DEVICE");
  if (wanted == nullptr || *wanted == '\0') return cpu_device();
  std::string names;
  for (const std::shared_ptr<Device>& device : devices()) {
    if (device->name() == wanted) return device;
    names += (names.empty() ? "" : ", ") + std::string(device->name());
  }
  fail(ErrorCode::kInvalidArgument, "NFLOAT_DEVICE is \"{}\", expected one of: {}", wanted, names);
}

}  // namespace nfloat
