// SPDX-License-Identifier: Apache-2.0
#include "cuda/card.h"

namespace nfloat::gpu {

FoundCards open_cards() {
  return {{}, "this build is without CUDA (-DNFLOAT_CUDA=ON builds it in, where nvcc is)"};
}

}  // namespace nfloat::gpu
