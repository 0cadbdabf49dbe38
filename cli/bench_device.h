// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_CLI_BENCH_DEVICE_H_
#define NFLOAT_CLI_BENCH_DEVICE_H_

#include <cstdint>
#include <string>

namespace nfloat::cli {

struct DeviceBenchArguments {
  std::string device, only;
  int64_t memory_mib = 0;
  double seconds = 0;
  bool json = false;
};

// `nfloat bench kernels --device`: products beside the limits of a device.
void bench_on_device(const DeviceBenchArguments& arguments);

}  // namespace nfloat::cli

#endif  // NFLOAT_CLI_BENCH_DEVICE_H_
