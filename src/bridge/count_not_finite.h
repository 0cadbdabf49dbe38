// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_BRIDGE_COUNT_NOT_FINITE_H_
#define NFLOAT_BRIDGE_COUNT_NOT_FINITE_H_

#include <cstddef>
#include <cstdint>
#include <span>

#include "nfloat/bridge.h"

namespace nfloat {

// Adds to `result` what is NaN or infinite in a part of its tensor as it is written: whole elements of
// `dtype` from byte `begin` on. Safe from several threads, for parts in any order.
void count_not_finite(DType dtype, uint64_t begin, std::span<const std::byte> bytes, BridgeTensor& result);

}  // namespace nfloat

#endif  // NFLOAT_BRIDGE_COUNT_NOT_FINITE_H_
