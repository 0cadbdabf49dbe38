// SPDX-License-Identifier: Apache-2.0
#include "bridge/count_not_finite.h"

#include <mutex>

#include "convert/check_finite.h"

namespace nfloat {

void count_not_finite(DType dtype, uint64_t begin, std::span<const std::byte> bytes, BridgeTensor& result) {
  const NotFinite found = not_finite(dtype, bytes);
  if (found.count == 0) return;
  const int64_t parts = dtype == DType::kC64 ? 2 : 1;  // of an element
  const int64_t first = static_cast<int64_t>(begin / dtype_bytes(dtype)) + found.first / parts;
  static std::mutex mutex;  // of all tensors: few have any
  const std::lock_guard lock(mutex);
  result.not_finite += found.count;
  if (result.first_not_finite < 0 || first < result.first_not_finite) result.first_not_finite = first;
}

}  // namespace nfloat
