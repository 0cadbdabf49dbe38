// SPDX-License-Identifier: Apache-2.0
// emulated [SEED]: every kernel in the emulation against double precision. Exit status 1 when a case fails.
// NFLOAT_PLANTED_LAYERS: the steps of a layer only, NFLOAT_PLANTED_PRODUCTS: all else, to compile faster.
#include <cstdlib>

#include "conformance.h"
#if !defined(NFLOAT_PLANTED_LAYERS)
#include "conversions.h"
#include "products.h"
#endif
#if !defined(NFLOAT_PLANTED_PRODUCTS)
#include "layers.h"
#endif

int main(int argc, char** argv) {
  const unsigned seed = argc > 1 ? static_cast<unsigned>(std::atoi(argv[1])) : 7;
  conformance::Random random{std::mt19937(seed)};
  nfloat::gpu::machine().random.seed(seed);
  conformance::Report report;
#if !defined(NFLOAT_PLANTED_LAYERS)
  conformance::check_conversions(false, random, report);
  conformance::check_products(false, random, report);
#endif
#if !defined(NFLOAT_PLANTED_PRODUCTS)
  conformance::check_layers(false, random, report);
#endif
  std::printf("%d passed, %d failed, seed %u\n", report.passed, report.failed, seed);
  return report.failed == 0 ? 0 : 1;
}
