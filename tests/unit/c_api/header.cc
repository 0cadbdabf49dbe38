// SPDX-License-Identifier: Apache-2.0
#include "nfloat/nfloat.h"

int32_t abi_version();
int32_t abi_version() {
  return nfloat_abi_version();
}
