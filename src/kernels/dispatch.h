// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_KERNELS_DISPATCH_H_
#define NFLOAT_KERNELS_DISPATCH_H_

#include <span>

#include "kernels/kernel_table.h"

namespace nfloat::kernels {

// The table for this machine: the best one it can run, or the one that NFLOAT_TARGET names. Chosen once, at
// first use. A name that is unknown or that this machine cannot run is ignored here and told by
// forced_target_error().
const KernelTable& table() noexcept;

// Every table compiled in that this machine can run, slowest first: tests and benchmarks walk it.
std::span<const KernelTable* const> runnable_tables() noexcept;

// Null, or why NFLOAT_TARGET was not followed.
const char* forced_target_error() noexcept;

}  // namespace nfloat::kernels

#endif  // NFLOAT_KERNELS_DISPATCH_H_
