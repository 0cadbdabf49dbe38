// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_DEVICE_BENCH_H_
#define NFLOAT_DEVICE_BENCH_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "nfloat/api.h"

// What a device (ModelOptions::device) does, beside its own limits measured in the same run.
namespace nfloat {

struct DeviceBenchOptions {
  std::string device = {};              // as ModelOptions::device
  uint64_t memory = uint64_t{1} << 30;  // bytes passed over; less where less than twice that is free
  double seconds = 20;                  // for all rows; each is measured at least three times
  std::string only = {};                // rows whose name contains this; the limits are always measured
  // Called before each row with its number, how many there are, and its name. May throw to cancel.
  std::function<void(size_t, size_t, const std::string&)> progress = nullptr;
};

struct DeviceBenchRow {
  std::string name;       // "14336x4096 by 8 rows, 8-bit scales"
  double seconds = 0;     // of one call; the median
  double spread = 0;      // of the middle half of all calls, as a share of the median
  double gigabytes = 0;   // 10^9 bytes of weights that a call reads
  double operations = 0;  // 10^9 multiplications and additions
  double share = 0;       // of the rate at which the device reads
};

struct DeviceBench {
  std::string device, model;  // "vulkan:0", what it is
  bool accelerator = false;   // hardware of its own, not the host's processor
  std::string matrix_units;   // as DeviceInfo has it
  std::string graphs;         // the same, behind the last row
  uint64_t memory = 0;        // bytes passed over
  double copy = 0;            // 10^9 bytes read and written a second, by the device's own copy of its memory
  double read = 0;            // 10^9 bytes read a second, by the step that looks for what is not finite
  std::vector<DeviceBenchRow> rows;
};

// Throws kInvalidArgument where no row is called so, and what resolved_device() and the device throw.
NFLOAT_API DeviceBench bench_device(const DeviceBenchOptions& options = {});

}  // namespace nfloat

#endif  // NFLOAT_DEVICE_BENCH_H_
