// SPDX-License-Identifier: Apache-2.0
// What a user's program does with the installed library.
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <vector>

#include "nfloat/codebook.h"
#include "nfloat/quantize.h"

int main() {
  const nfloat::Codebook code = nfloat::make_codebook("nf4");
  nfloat::Tensor weights(nfloat::DType::kF32, {8, 8});
  for (int i = 0; i < 64; ++i) weights.data<float>()[i] = std::sin(static_cast<float>(i));

  const nfloat::QuantizedTensor packed = nfloat::quantize_blockwise(weights.view(), code);
  nfloat::Tensor back(nfloat::DType::kF32, {8, 8});
  nfloat::dequantize_blockwise(packed, nfloat::DType::kF32, back.bytes());

  float worst = 0;
  for (int i = 0; i < 64; ++i) {
    worst = std::fmax(worst, std::fabs(weights.data<float>()[i] - back.data<float>()[i]));
  }
  std::printf("%s of %zu levels, %lld weights, %.2f bits each, error %s bounds\n", code.name.c_str(),
              code.levels.size(), static_cast<long long>(packed.elements()), packed.bits_per_weight(),
              worst > 0 && worst <= 0.152F ? "within" : "out of");
  return 0;
}
