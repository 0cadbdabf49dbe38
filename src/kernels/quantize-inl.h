// SPDX-License-Identifier: Apache-2.0
// Compiled once per target. Includer defines NFLOAT_TARGET_NAMESPACE.
#include "kernels/quantize.h"
